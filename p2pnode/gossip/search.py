"""Looking for peers, and a watchdog that starts all over when there are none.

Each source (the DHT, the local network, addresses that a person gave, peers of last time) looks for itself
and waits longer from one try to the next. A node that has been alone for some time cannot tell which of them
would help now: the network it is in may be another one. So all of them begin anew, then, and again after
twice that time, until somebody answers.
"""

from collections.abc import Sequence

import trio

from p2pnode.gossip.membership import Membership
from p2pnode.ports import Discovery, PeerAddress

FIRST_PATIENCE, LONGEST_PATIENCE = 15.0, 300.0
"""Seconds alone before all begins anew, doubled each time, give or take half."""


async def search(
    membership: Membership, swarm: str, sources: Sequence[Discovery], earlier: Sequence[PeerAddress]
) -> None:
    """Tell `membership` whom the sources find, until cancelled.

    Args:
        membership: of this node.
        swarm: its id.
        sources: all that are to be asked.
        earlier: peers that were there when the node last ran.
    """
    patience = FIRST_PATIENCE
    while True:
        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(source.run, swarm, membership.found)
            for peer in earlier:
                membership.found(peer)
            met = await _alone_for(membership, patience * membership.random.uniform(0.5, 1.5))
            nursery.cancel_scope.cancel()
        patience = FIRST_PATIENCE if met else min(2 * patience, LONGEST_PATIENCE)


async def _alone_for(membership: Membership, seconds: float) -> bool:
    """Return when the view has been empty for so long without a break; whether it ever was not."""
    met = False
    while True:
        while len(membership.view):
            met = True
            await membership.changed.wait()
        with trio.move_on_after(seconds) as scope:
            while not len(membership.view):
                await membership.changed.wait()
        if scope.cancelled_caught:
            return met
