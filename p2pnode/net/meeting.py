"""How the two ends of a direct connection (`bulk`) find each other.

Whoever dialled the connection that they share dials again, at an address that worked before: so there is no
new port, and no question of NAT that is not answered already. It asks for a protocol whose name holds the
token that only the two can know; the other end offers that name from when it wants the connection until it
has it, two seconds at most. A token so serves once, and an unknown one is refused like any unknown protocol.
Then both send a first record: only the right peer can.

Where that fails it costs both ends their patience. Each remembers it for some minutes, and invites the peer
to nothing: an end that is not invited does not wait either.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio

from p2pnode.errors import Disconnected, LinkError, PeerFault
from p2pnode.net.bulk_keys import PROTOCOL, Keys, agree_on
from p2pnode.ports import PeerId, Stream

logger = logging.getLogger(__name__)

PROOF = PROTOCOL.encode()
"""What the first record says: that it opens says it all."""

MEETING_SECONDS = 2.0
"""For one end to dial and the other to wait: more would cost an exchange what it can win."""

AGAIN_SECONDS = 0.05
"""Until a dial that was refused is tried again, and then twice as long: the other end may not wait yet."""

AVOID_SECONDS = 300.0
"""For which a peer is not invited that could not be met."""

MOST_DIRECT = 16
"""Direct connections at once: each may hold two threads and 3 MiB."""


class Shared(Stream, Protocol):
    """A stream of the connection that the two ends have already."""

    @property
    def dialled(self) -> bool:
        """Whether this end dialled that connection."""
        ...


class Direct(Stream, Protocol):
    """A direct connection."""

    @property
    def over(self) -> bool:
        """Nothing more goes either way."""
        ...


C = TypeVar("C")
D = TypeVar("D", bound=Direct)


class Meeting(Generic[C, D]):
    """The direct connections of one node: `C` when they come about, `D` with keys.

    Args:
        invite: makes an invitation; None: this node wants no direct connections.
        dial: asks for a protocol by name, at any address of a peer. Raises `LinkError`.
        encrypt: makes of a connection one that only the peer can use.

    Attributes:
        awaited: the protocols by whose names connections are waited for right now.
    """

    def __init__(
        self,
        invite: Callable[[], bytes] | None,
        dial: Callable[[PeerId, str], Awaitable[C]],
        encrypt: Callable[[C, PeerId, Keys], D],
    ) -> None:
        self.awaited: dict[str, trio.MemorySendChannel[C]] = {}
        self._invite = invite
        self._dial = dial
        self._encrypt = encrypt
        self._open: list[D] = []
        self._avoided: dict[PeerId, float] = {}

    def invitation(self, peer: PeerId) -> bytes:
        """This end's part in a direct connection with `peer`; empty for none."""
        now = trio.current_time()
        self._avoided = {one: until for one, until in self._avoided.items() if until > now}
        self._open = [one for one in self._open if not one.over]
        if self._invite is None or peer in self._avoided or len(self._open) >= MOST_DIRECT:
            return b""
        return self._invite()

    async def meet(self, stream: Shared, mine: bytes, theirs: bytes, context: bytes) -> D | None:
        """As in `ports.Network.direct`."""
        if not (mine and theirs):
            await trio.lowlevel.checkpoint()
            return None
        keys = agree_on(mine, theirs, context, stream.dialled)
        with trio.move_on_after(MEETING_SECONDS):
            try:
                found = await (self._reach(stream.peer, keys) if stream.dialled else self._wait(keys))
                direct = await _proven(self._encrypt(found, stream.peer, keys))
            except LinkError as error:
                logger.debug("no direct connection with %s: %s", stream.peer, error)
            else:
                self._open.append(direct)
                return direct
        self._avoided[stream.peer] = trio.current_time() + AVOID_SECONDS
        return None

    def arrived(self, name: str, connection: C) -> bool:
        """Whether somebody waits for this connection, and has it now."""
        try:
            self.awaited.pop(name).send_nowait(connection)
        except (KeyError, trio.WouldBlock):  # two came at once, or whoever waited has just left
            return False
        return True

    async def part(self, peer: PeerId | None = None) -> None:
        """End the direct connections with `peer`, or all."""
        for one in self._open:
            if peer in (None, one.peer):
                await one.reset()

    async def _reach(self, peer: PeerId, keys: Keys) -> C:
        pause = AGAIN_SECONDS
        while True:
            try:
                return await self._dial(peer, keys.name)
            except LinkError as error:
                logger.debug("%s", error)
            await trio.sleep(pause)
            pause *= 2

    async def _wait(self, keys: Keys) -> C:
        # Without room for one that nobody takes: it would never be closed.
        self.awaited[keys.name], arrival = trio.open_memory_channel[C](0)
        try:
            return await arrival.receive()
        finally:
            self.awaited.pop(keys.name, None)


async def _proven(direct: D) -> D:
    """Exchange a first record: who can has the keys. Resets it when that fails or is cancelled.

    Raises:
        Disconnected: the other end could not.
    """
    try:
        await direct.send(PROOF)
        await direct.receive_into(memoryview(bytearray(len(PROOF))))
    except PeerFault as error:  # of whoever got there first, not of the peer
        await direct.reset()
        raise Disconnected(f"{direct.peer} is not at the other end: {error}") from error
    except BaseException:
        await direct.reset()
        raise
    return direct
