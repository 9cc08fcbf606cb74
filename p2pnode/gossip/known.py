"""Finding members at addresses that a person gave: on the command line, in a link, in a manifest's hints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import trio

from p2pnode.errors import LinkError
from p2pnode.ports import Network, PeerAddress

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between two tries, doubled each time, and half as long to half as long again by chance."""


@dataclass(frozen=True)
class Known:
    """A discovery: tries each address until somebody answers there.

    Attributes:
        addresses: multiaddrs, with a peer id at their end or without.
        network: connects.
        random: of the pauses.
    """

    addresses: Sequence[str]
    network: Network
    random: Random

    async def run(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        async with trio.open_nursery() as nursery:
            for address in self.addresses:
                nursery.start_soon(self._try, address, found)

    async def _try(self, address: str, found: Callable[[PeerAddress], None]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                peer = await self.network.connect(address)
            except LinkError:
                await trio.sleep(pause * self.random.uniform(0.5, 1.5))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                found(PeerAddress(peer, (address.rpartition("/p2p/")[0] or address,)))
                return
