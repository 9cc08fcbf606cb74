"""Finding a swarm through the DHT: when to look, and through whom to begin.

Looking starts at once and is repeated, soon and then ever more rarely: nodes started together find
each other within the first walks, and a swarm that stays as it is costs next to nothing. All times are
jittered, so that nodes started together do not ask together.

Entry points are needed once. While none answers they are tried again with growing pauses, and one line
in the log says so; once the DHT is joined they may go away without anybody noticing.

What is found are entry points to the swarm, some of them dead. Membership is for the hellos to find out.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random

import trio

from p2pnode.errors import Unreachable
from p2pnode.net.host import Libp2pNetwork
from p2pnode.net.kademlia import Found, Kademlia, swarm_key
from p2pnode.ports import PeerAddress, PeerId

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.15, 60.0
"""Seconds between walks for the swarm, at first and in the end."""

FIRST_ENTRY_PAUSE, LONGEST_ENTRY_PAUSE = 0.2, 15.0
"""Seconds before entry points are tried again when none answers."""

FAILURES_TO_TELL = 4
"""After about a second: entry points that are just starting are no news."""

GROWTH = 2.0
"""Of a pause from one time to the next."""

SETTLE_PAUSE = 600.0
"""Seconds between walks to this node's own place, as the specification has it; the first comes early."""

TELL_AGAIN_SECONDS = 20.0
"""Before a peer is reported again: it may have been lost from the view meanwhile."""

MOST_TOLD = 1024
"""Reported peers that are remembered; liars may name any number."""


class DhtDiscovery:
    """Implements `ports.Discovery`; serves the DHT as soon as it is made.

    Args:
        network: carries the streams.
        entries: multiaddrs of nodes to begin with; asked for anew each time, so they may change.
        random: for jitter.
    """

    def __init__(self, network: Libp2pNetwork, entries: Callable[[], Sequence[str]], random: Random) -> None:
        self._network = network
        self._entries = entries
        self._random = random
        self._kademlia = Kademlia(network, random)
        self._joined = trio.Event()  # an entry point answers that was not connected before

    async def run(self, swarm: str, found: Found) -> None:
        """Look for `swarm`; with an empty name only serve the DHT, as a bootstrap node does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_entries)
            nursery.start_soon(self._keep_settled)
            if swarm:
                nursery.start_soon(
                    self._keep_looking, swarm_key(swarm), not_too_often(self._network.me, found)
                )

    async def _keep_looking(self, key: bytes, found: Found) -> None:
        def heard() -> None:
            for peer in self._kademlia.announced_here(key):
                found(peer)

        self._kademlia.heard = heard
        pause = FIRST_PAUSE
        while True:
            await self._kademlia.find(key, found)
            with trio.move_on_after(self._jittered(pause)) as waiting:
                await self._joined.wait()
                self._joined = trio.Event()
            pause = min(pause * GROWTH, LONGEST_PAUSE) if waiting.cancelled_caught else FIRST_PAUSE

    async def _keep_settled(self) -> None:
        pause = SETTLE_PAUSE / 100
        while True:
            await trio.sleep(self._jittered(pause))
            await self._kademlia.settle()
            pause = SETTLE_PAUSE

    async def _keep_entries(self) -> None:
        pause, failures = FIRST_ENTRY_PAUSE, 0
        while True:
            entries = [one for one in self._entries() if not one.endswith(f"/p2p/{self._network.me}")]
            if await self._enter(entries) or self._network.connected:
                pause, failures = LONGEST_PAUSE, 0
            else:
                pause = min(pause * GROWTH, LONGEST_ENTRY_PAUSE) if failures else FIRST_ENTRY_PAUSE
                failures += 1
                if entries and failures == FAILURES_TO_TELL:
                    logger.warning("no entry point answers, trying until one does: %s", ", ".join(entries))
            await trio.sleep(self._jittered(pause))

    async def _enter(self, entries: Sequence[str]) -> bool:
        """Connect with every entry point; returns whether one answered."""
        answered: list[PeerId] = []

        async def connect(entry: str) -> None:
            before = self._network.connected
            try:
                peer = await self._network.connect(entry)
            except Unreachable as error:
                logger.debug("no entry: %s", error)
                return
            answered.append(peer)
            await self._kademlia.add(peer)
            if peer not in before:
                self._joined.set()

        async with trio.open_nursery() as nursery:
            for entry in entries:
                nursery.start_soon(connect, entry)
        return bool(answered)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.7, 1.3)


def not_too_often(me: PeerId, found: Found) -> Found:
    """Report a peer when it is new, has moved, or was reported some time ago; never this node."""
    told: OrderedDict[PeerId, tuple[float, PeerAddress]] = OrderedDict()

    def tell(peer: PeerAddress) -> None:
        at, before = told.get(peer.peer, (-TELL_AGAIN_SECONDS, None))
        now = trio.current_time()
        if peer.peer != me and (peer != before or now - at >= TELL_AGAIN_SECONDS):
            told[peer.peer] = now, peer
            told.move_to_end(peer.peer)
            if len(told) > MOST_TOLD:
                told.popitem(last=False)
            found(peer)

    return tell
