"""Two snapshots cross, piece by piece: while one piece is encoded the one before it travels.

Each end encodes its snapshot in pieces, sends each as soon as it is ready, and checks the partner's as they
arrive, all at the same time. So a transfer takes as long as the slowest of these, not as all together.

Large snapshots go over a *direct* connection beside the stream, where both ends want one and it comes about
(`Network.direct`). It may fail at any moment, which costs time only: each end then tells over the stream
how many whole pieces have arrived, and the partner sends the rest there. One that only trickles is given up
when half of the time for the transfer has passed, so that the other half is left for the stream.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise

import trio

from p2pnode.errors import Disconnected, Fault, PeerFault, leaves
from p2pnode.machine import pages
from p2pnode.ports import Shared, Stream
from p2pnode.wire.messages import Arrived, receive, send

_log = logging.getLogger(__name__)


class Room:
    """Memory for a partner's snapshot, kept from one exchange to the next.

    To take it anew each time would cost as much as copying the snapshot.
    """

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def pieces(self, sizes: Sequence[int]) -> list[memoryview]:
        """Room for pieces of these sizes, in bytes. What was there before is overwritten."""
        ends = list(accumulate(sizes, initial=0))
        if ends[-1] > len(self._memory):
            self._memory = pages(ends[-1])
        return [self._memory[begin:end] for begin, end in pairwise(ends)]


class Transfer:
    """One crossing of two snapshots.

    Args:
        model: whose snapshot is sent.
        turn: as in `Shared.snapshot`.
        stream: with the partner.
        room: for the partner's.
    """

    def __init__(self, model: Shared, turn: int, stream: Stream, room: Room) -> None:
        self._model = model
        self._turn = turn
        self._stream = stream
        self._count = len(model.payload)
        self._encoded: list[Sequence[memoryview]] = []
        self._expected = room.pieces(model.expected)
        self._arrived = 0
        self._taken: list[object] = []
        self._fault: PeerFault | None = None
        self._more = trio.lowlevel.ParkingLot()

    async def run(self, direct: Callable[[], Awaitable[Stream | None]] | None) -> list[object]:
        """Send one snapshot and receive the other; the partner's pieces, taken by the model.

        Args:
            direct: opens the direct connection, where both ends want one.

        Raises:
            Disconnected: the stream ended.
            PeerFault: the partner's is not finite, or it broke the rules.
        """
        async with _together() as nursery:
            nursery.start_soon(self._model.snapshot, self._turn, self._give)
            nursery.start_soon(self._take_all)
            there = 0
            if direct is not None:
                await self._go_direct(await direct())
                there = await self._compare()
            await self._carry(self._stream, there)
        if self._fault is not None:
            raise self._fault
        return self._taken

    async def _go_direct(self, carrier: Stream | None) -> None:
        if carrier is None:
            return
        try:
            with trio.move_on_at(_halfway()) as scope:
                await self._carry(carrier, 0)
                await carrier.close()
            if scope.cancelled_caught:
                _log.info("the direct connection with %s is too slow", carrier.peer)
        except (Disconnected, PeerFault) as error:  # whose fault it was nobody knows: anybody can spoil bytes
            _log.info("the direct connection with %s has ended early: %s", carrier.peer, error)
        finally:
            with trio.CancelScope(shield=True):
                await carrier.reset()

    async def _compare(self) -> int:
        """Tell how many pieces have arrived here, and hear how many have there."""
        await send(self._stream, Arrived(self._arrived))
        there = (await receive(self._stream, Arrived)).pieces
        if there > self._count:
            raise PeerFault(Fault.MALFORMED, f"{there} pieces of {self._count} have arrived")
        return there

    async def _carry(self, stream: Stream, there: int) -> None:
        """Send and receive what has not arrived yet; `there` of our pieces have."""
        async with _together() as nursery:
            nursery.start_soon(self._send, stream, there)
            nursery.start_soon(self._receive, stream)

    async def _send(self, stream: Stream, first: int) -> None:
        for number in range(first, self._count):
            while number >= len(self._encoded):
                await self._more.park()
            for part in self._encoded[number]:
                await stream.send(part)

    async def _receive(self, stream: Stream) -> None:
        for piece in self._expected[self._arrived :]:
            await stream.receive_into(piece)
            self._arrived += 1
            self._more.unpark_all()

    def _give(self, piece: Sequence[memoryview]) -> None:
        self._encoded.append(piece)
        self._more.unpark_all()

    async def _take_all(self) -> None:
        """Let the model take all that has arrived since it took the last.

        What it refuses is raised when all is over: so the stream can still tell the partner why.
        """
        while (first := len(self._taken)) < len(self._expected):
            if first == self._arrived:
                await self._more.park()
                continue
            try:
                self._taken += await self._model.take(first, self._expected[first : self._arrived])
            except PeerFault as error:
                self._fault = error
                return


def _halfway() -> float:
    """When half of the time that is left will have passed."""
    return (trio.current_time() + trio.current_effective_deadline()) / 2


@asynccontextmanager
async def _together() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which a broken link or a peer's fault comes as itself, not in a group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        _, rest = group.split((Disconnected, PeerFault))
        if rest is not None:
            raise rest from None
        raise next(leaves(group)) from None
