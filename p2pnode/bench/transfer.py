"""The conversation that is measured, the same over every path.

Whoever listens says *go* on each pipe once all are there, and both start their stopwatches. Bytes flow
until all have arrived; whoever listens says *done*, and both stop. So nothing is counted but the
transfer: no process start, no dialling, no handshake.

What is sent is one block of random bytes again and again. The receiver counts, and compares the last
piece that it got with the block: a hash would cost as much as what is measured.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from typing import Protocol

import trio

from p2pnode.bench.usage import Stopwatch, Usage
from p2pnode.ports import Bytes

BLOCK = Random(5).randbytes(1 << 20)
"""Sent at once, and asked for at once."""

BLOCKS = 8
"""Blocks that go over a direct connection at once: as much as a piece of a snapshot has."""

_TWICE = BLOCK + BLOCK

MARK = b"!"
MESSAGE = bytes(64)
WARM_UP = 100
"""Round trips before those that count."""

PATIENCE = 60.0
"""Seconds for the other process to arrive."""


def touched(blocks: int = 1) -> memoryview:
    """A buffer for some blocks. Its pages are in use already, so they do not count as growth."""
    return memoryview(bytearray(BLOCK[::-1] * blocks))


class Pipe(Protocol):
    """One stream of bytes."""

    async def send(self, data: Bytes) -> None:
        """Send all of `data`."""
        ...

    async def take(self, most: int) -> Bytes:
        """Receive at least one byte, and at most so many; good until the next call."""
        ...


Accept = Callable[[], Awaitable[Pipe]]
"""Waits for the next pipe."""


@dataclass(frozen=True)
class Path:
    """A way from one process to another.

    Attributes:
        listen: gives an address, and who comes to it.
        dial: opens so many pipes to an address.
    """

    listen: Callable[[], AbstractAsyncContextManager[tuple[str, Accept]]]
    dial: Callable[[str, int], AbstractAsyncContextManager[Sequence[Pipe]]]


@dataclass(frozen=True)
class Load:
    """What goes over a path.

    Attributes:
        share: bytes on each stream, in each direction.
        streams: how many there are.
        both: whether bytes go back, too, at the same time.
        blocks: how many are sent at once.
        trips: round trips of `MESSAGE` that are measured one by one; then nothing else is sent.
    """

    share: int = 0
    streams: int = 1
    both: bool = False
    blocks: int = 1
    trips: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one process found.

    Attributes:
        usage: what the transfer cost it.
        received: bytes that reached it.
        trips: seconds of each round trip.
    """

    usage: Usage
    received: int = 0
    trips: Sequence[float] = ()


async def listened(accept: Accept, load: Load) -> Outcome:
    """Be the one who listens.

    Raises:
        trio.TooSlowError: nobody came.
    """
    with trio.fail_after(PATIENCE):
        pipes = [await accept() for _ in range(load.streams)]
    watch = Stopwatch()
    for pipe in pipes:
        await pipe.send(MARK)
    for _ in range(load.trips and load.trips + WARM_UP):
        await pipes[0].send(await _exactly(pipes[0], len(MESSAGE)))
    async with trio.open_nursery() as nursery:
        for pipe in pipes:
            nursery.start_soon(_receive, pipe, load.share, load.blocks)
            if load.both:
                nursery.start_soon(_send, pipe, load.share, load.blocks)
    for pipe in pipes:
        await pipe.send(MARK)
    return Outcome(watch.read(), load.share * load.streams)


async def dialled(pipes: Sequence[Pipe], load: Load) -> Outcome:
    """Be the one who dialled."""
    for pipe in pipes:
        await _exactly(pipe, len(MARK))
    watch = Stopwatch()
    trips = [await _round_trip(pipes[0]) for _ in range(load.trips and load.trips + WARM_UP)]
    async with trio.open_nursery() as nursery:
        for pipe in pipes:
            nursery.start_soon(_send, pipe, load.share, load.blocks)
            if load.both:
                nursery.start_soon(_receive, pipe, load.share, load.blocks)
    for pipe in pipes:
        await _exactly(pipe, len(MARK))
    return Outcome(watch.read(), load.share * load.streams if load.both else 0, trips[WARM_UP:])


async def _round_trip(pipe: Pipe) -> float:
    began = time.perf_counter()
    await pipe.send(MESSAGE)
    await _exactly(pipe, len(MESSAGE))
    return time.perf_counter() - began


async def _send(pipe: Pipe, size: int, blocks: int) -> None:
    block = memoryview(BLOCK * blocks)
    for start in range(0, size, len(block)):
        await pipe.send(block[: size - start])


async def _receive(pipe: Pipe, size: int, blocks: int) -> None:
    piece: Bytes = b""
    left = size
    while left:
        piece = await pipe.take(min(left, len(BLOCK) * blocks))
        left -= len(piece)
    assert _belongs(memoryview(piece), (size - len(piece)) % len(BLOCK)), "what arrived is not what was sent"


def _belongs(piece: memoryview, place: int) -> bool:
    """Whether `piece` is what comes at that place of a block; looked at bit by bit, to take no memory."""

    def same(start: int) -> bool:
        part, first = bytes(piece[start : start + 4096]), (place + start) % len(BLOCK)
        return part == _TWICE[first : first + len(part)]

    return all(map(same, range(0, len(piece), 4096)))


async def _exactly(pipe: Pipe, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await pipe.take(size - len(data))
    return data
