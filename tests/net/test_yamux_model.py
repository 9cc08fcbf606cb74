"""Streams against their model, under any interleaving of what two sides may do with several of them.

In the model a direction of a stream is a queue of bytes. Whoever reads gets them in order, none lost and
none invented; after the last one, `Disconnected`, if the writer has closed. Once anybody has given the
stream up (reset it, or was cancelled), either side may find it ended at any point, but still reads nothing
else than what was sent.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.errors import Disconnected
from p2pnode.net.yamux import FRAME, SMALL, WINDOW, YamuxStream

from .pipe import MIB, joined, opened, settled, virtual

LONGEST = 8 * MIB
NOISE = Random(0).randbytes(LONGEST + 1000)

Step = tuple[str, float]
"""`move` so many bytes, `pause` for so many seconds, or `cancel` a move of a megabyte after so many turns."""

SIZES = st.sampled_from([0, 1, 12, SMALL, SMALL + 1, 65_519, 65_520, WINDOW, FRAME + 1, MIB]) | st.integers(
    0, MIB
)
STEP = (
    st.tuples(st.just("move"), SIZES)
    | st.tuples(st.just("pause"), st.sampled_from([0.0, 0.1, 100.0]))
    | st.tuples(st.just("cancel"), st.integers(2, 20))
)
STEPS = st.lists(STEP, max_size=5)


@dataclass(frozen=True)
class Side:
    """What one side of a stream does, and how it ends once it has come that far."""

    writes: Sequence[Step]
    reads: Sequence[Step]
    end: str


SIDE = st.builds(Side, STEPS, STEPS, st.sampled_from(["close", "close", "close", "reset"]))
STREAM = st.tuples(SIDE, SIDE)


class Model:
    """Both directions of one stream, by the name of the writing side, and whether somebody gave it up."""

    def __init__(self, number: int) -> None:
        self.salt = {"near": number, "far": number + 500}
        self.sent = {"near": 0, "far": 0}
        self.closed = {"near": False, "far": False}
        self.given_up = False

    def bytes_at(self, writer: str, start: int, size: int) -> bytes:
        start += self.salt[writer]
        return NOISE[start : start + size]


async def cancelled(stream: YamuxStream, model: Model, writer: str, sends: bool, turns: int) -> None:
    """Move a megabyte, be cancelled after so many turns, and give the stream up."""
    view = bytearray(model.bytes_at(writer, model.sent[writer], MIB)) if sends else bytearray(MIB)
    model.sent[writer] += sends * MIB
    model.given_up = True
    async with trio.open_nursery() as nursery:
        move = stream.send if sends else stream.receive_into

        async def moving() -> None:
            with suppress(Disconnected):
                await move(memoryview(view))

        nursery.start_soon(moving)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await stream.reset()


async def write(stream: YamuxStream, model: Model, me: str, side: Side) -> None:
    try:
        for kind, amount in side.writes:
            if kind == "pause":
                await trio.sleep(amount)
            elif kind == "cancel":
                await cancelled(stream, model, me, True, int(amount))
            else:
                data = model.bytes_at(me, model.sent[me], int(amount))
                model.sent[me] += len(data)
                await stream.send(data)
        if side.end == "close":
            model.closed[me] = True
            await stream.close()
            return
    except Disconnected:
        assert model.given_up
    model.given_up = True
    await stream.reset()


async def read(stream: YamuxStream, model: Model, writer: str, side: Side) -> None:
    got = 0

    async def take(size: int) -> None:
        nonlocal got
        view = bytearray(size)
        await stream.receive_into(memoryview(view))
        assert view == model.bytes_at(writer, got, size)
        got += size
        assert got <= model.sent[writer]

    try:
        for kind, amount in side.reads:
            if kind == "pause":
                await trio.sleep(amount)
            elif kind == "cancel":
                await cancelled(stream, model, writer, False, int(amount))
            elif got + amount <= model.sent[writer] or model.closed[writer]:
                await take(min(int(amount), model.sent[writer] - got))
        while True:
            await take(max(1, min(100_000, model.sent[writer] - got)))
    except Disconnected:
        assert model.given_up or (model.closed[writer] and got == model.sent[writer])


@given(
    st.lists(STREAM, min_size=1, max_size=5),
    st.sampled_from([700, 10_000, 70_000, MIB]),
    st.sampled_from([1500, 70_000, MIB]),
    st.sampled_from([10 * WINDOW, 1 << 30]),  # just enough for five first windows and grants, or plenty
)
@settings(max_examples=100)
def test_streams_are_queues_of_bytes_whatever_both_sides_do(
    streams: Sequence[tuple[Side, Side]], room: int, piece: int, most: int
) -> None:
    async def main() -> None:
        async with joined(room, piece, most) as (near, far):
            async with trio.open_nursery() as nursery:
                for number, sides in enumerate(streams):
                    dialler, other = (near, far) if number % 2 else (far, near)
                    ends = await opened(dialler, other)
                    model = Model(number)
                    for me, you, stream, side in zip(
                        ("near", "far"), ("far", "near"), ends, sides, strict=True
                    ):
                        nursery.start_soon(write, stream, model, me, side)
                        nursery.start_soon(read, stream, model, you, side)
            assert not near.done
            assert not far.done
            await settled(lambda: not near.muxer.streams and not far.muxer.streams)
            assert near.spent == far.spent == 0

    virtual(main)
