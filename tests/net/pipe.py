"""Two muxers joined by pipes in memory, with real keys, where time is virtual.

A pipe holds a bounded number of bytes, as the buffers of two sockets do, and hands them out in pieces
of any size: so whoever writes waits for whoever reads, and messages arrive cut anywhere.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2pnode.errors import Disconnected, PeerFault
from p2pnode.net.budget import Budget
from p2pnode.net.memory import run_deterministic
from p2pnode.net.noise import Channel, Opener, Sealer
from p2pnode.net.yamux import HEADER, Yamux, YamuxStream
from p2pnode.ports import Bytes, PeerId

KEYS = bytes(range(32)), bytes(range(32, 64))
NEAR, FAR = PeerId("near"), PeerId("far")
MIB = 1024 * 1024
HANGS = 1000  # virtual seconds


class Pipe:
    """One direction.

    Args:
        room: bytes it holds.
        piece: bytes it hands out at once, at most.
        pause: seconds before each piece.
    """

    def __init__(self, room: int = MIB, piece: int = MIB, pause: float = 0.0) -> None:
        self._room = room
        self._piece = piece
        self._pause = pause
        self._bytes = bytearray()
        self._changed = trio.lowlevel.ParkingLot()
        self._ended = False

    async def write(self, data: Bytes) -> None:
        view = memoryview(data)
        try:
            await trio.lowlevel.checkpoint()
            while view:
                if self._ended:
                    raise Disconnected("the pipe has ended")
                if size := min(len(view), self._room - len(self._bytes)):
                    self._bytes += view[:size]
                    view = view[size:]
                    self._changed.unpark_all()
                else:
                    await self._changed.park()
        except trio.Cancelled:
            self.end()  # as a wire does: half a message may be in it
            raise

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        while not self._bytes and not self._ended:
            await self._changed.park()
        if self._pause:
            await trio.sleep(self._pause)
        size = min(len(view), len(self._bytes), self._piece)
        view[:size] = self._bytes[:size]
        del self._bytes[:size]
        self._changed.unpark_all()
        return size

    def end(self) -> None:
        """Nothing more goes in; what is in it can still be read."""
        self._ended = True
        self._changed.unpark_all()


@dataclass(frozen=True)
class PipeWire:
    """What a `Channel` reads from, and writes to."""

    inward: Pipe
    outward: Pipe

    async def receive_into(self, view: memoryview) -> int:
        return await self.inward.receive_into(view)

    async def write(self, data: Bytes) -> None:
        await self.outward.write(data)

    def end(self) -> None:
        self.inward.end()
        self.outward.end()


def wires(room: int = MIB, piece: int = MIB, pause: float = 0.0) -> tuple[PipeWire, PipeWire]:
    """The two ends of a connection."""
    there, back = Pipe(room, piece, pause), Pipe(room, piece, pause)
    return PipeWire(back, there), PipeWire(there, back)


def channel_on(wire: PipeWire, dialled: bool) -> Channel:
    there, back = KEYS
    return (
        Channel(wire, Sealer(there), Opener(back)) if dialled else Channel(wire, Sealer(back), Opener(there))
    )


class End:
    """A muxer on its wire.

    Attributes:
        accepted: the streams that the other side has opened.
        fault: what `run` has raised.
        done: whether `run` is over.
    """

    def __init__(self, wire: PipeWire, dialled: bool, node: Budget) -> None:
        self.node = node
        self.muxer = Yamux(channel_on(wire, dialled), FAR if dialled else NEAR, dialled, self.node)
        self.accepted: list[YamuxStream] = []
        self.fault: PeerFault | None = None
        self.done = False
        self._wire = wire

    async def run(self) -> None:
        try:
            await self.muxer.run(self.accepted.append)
        except PeerFault as fault:
            self.fault = fault
        finally:
            self.done = True
            self.end()

    def end(self) -> None:
        """End the connection below."""
        self._wire.end()

    @property
    def spent(self) -> int:
        """Of both budgets: it must be the same."""
        assert self.muxer.budget._spent == self.node._spent
        return self.node._spent


@asynccontextmanager
async def joined(
    room: int = MIB,
    piece: int = MIB,
    most: int = 1 << 30,
    *,
    pause: float = 0.0,
    node: Budget | None = None,
) -> AsyncIterator[tuple[End, End]]:
    """Two muxers that run; near has dialled, and far is a connection of `node`."""
    near, far = wires(room, piece, pause)
    ends = End(near, True, Budget(most)), End(far, False, node or Budget(most))
    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.run)
            yield ends
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def beside_a_stranger(most: int = 1 << 30) -> AsyncIterator[tuple[End, Channel]]:
    """A muxer that runs, and the channel of the peer that has dialled it and may send it anything."""
    theirs, ours = wires()
    end = End(ours, False, Budget(most))
    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.run)
            yield end, channel_on(theirs, True)
            nursery.cancel_scope.cancel()


def frame(kind: int, flags: int, number: int, length: int, data: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, number, length) + data


async def opened(near: End, far: End) -> tuple[YamuxStream, YamuxStream]:
    """Both ends of a new stream."""
    before = len(far.accepted)
    stream = near.muxer.open()
    await settled(lambda: len(far.accepted) > before)
    return stream, far.accepted[-1]


async def receive(stream: YamuxStream, size: int) -> bytes:
    data = bytearray(size)
    await stream.receive_into(memoryview(data))
    return bytes(data)


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    with trio.fail_after(100):
        while not condition():  # noqa: ASYNC110  # what is waited for happens inside muxers
            await trio.sleep(0.001)


def virtual(main: Callable[[], Awaitable[None]]) -> None:
    """Run it in virtual time, where a hang is a failure at once."""
    run_deterministic(main, 0)
