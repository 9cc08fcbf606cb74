"""The library's own host and our network understand each other, whoever dials and whoever opens a stream."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure

from p2pnode.errors import Disconnected, Unreachable
from p2pnode.net.yamux import WINDOW, YamuxStream
from p2pnode.ports import Stream

from .contract import MIB, ask_echo, echo, expect_in_pieces, noise, parked_handler, receive, send_in_pieces
from .exchange import PROTOCOL, Hashes, exchange
from .libp2p_library import THERE, Connect, LibraryStream, Open, Pair, they_dial, we_dial
from .libp2p_peers import two_peers

STALL = 60.0
"""Seconds: two rounds of keep-alive."""

BOTH_ROLES = pytest.mark.parametrize("connect", [we_dial, they_dial])
BOTH_OPENERS = pytest.mark.parametrize("open_stream", [Pair.we_open, Pair.they_open])


@BOTH_ROLES
@BOTH_OPENERS
@pytest.mark.parametrize("size", [2 * MIB, pytest.param(64 * MIB, marks=pytest.mark.slow)])
async def test_megabytes_arrive_whole_both_ways_at_once(
    connect: Connect, open_stream: Open, size: int
) -> None:
    seen: list[Hashes] = []
    async with connect() as pair:

        async def one(end: Stream, seed: int) -> None:
            seen.append(await exchange(end, size, size, seed))

        async with trio.open_nursery() as nursery:
            for seed, end in enumerate(await open_stream(pair)):
                nursery.start_soon(one, end, seed)
    assert seen[0] == seen[1].seen_from_there


@BOTH_OPENERS
async def test_many_small_messages_arrive_in_order(open_stream: Open) -> None:
    up, down = noise(20_000, seed=1), noise(20_000, seed=2)
    async with we_dial() as pair:
        near, far = await open_stream(pair)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_in_pieces, near, up, 64, 3)
            nursery.start_soon(send_in_pieces, far, down, 64, 4)
            nursery.start_soon(expect_in_pieces, far, up, 64, 5)
            nursery.start_soon(expect_in_pieces, near, down, 64, 6)


async def ends_in_turn(first: Stream, second: Stream) -> None:
    """`first` says its last word, and is answered all the same."""
    await first.send(b"last words")
    await first.close()
    assert await receive(second, 10) == b"last words"
    with pytest.raises(Disconnected):
        await receive(second, 1)
    await second.send(b"answer")
    await second.close()
    assert await receive(first, 6) == b"answer"
    with pytest.raises(Disconnected):
        await receive(first, 1)


async def one_is_reset(first: Stream, second: Stream) -> None:
    await first.send(b"!")
    assert await receive(second, 1) == b"!"
    await first.reset()
    with pytest.raises(Disconnected):
        await receive(second, 1)
    with pytest.raises(Disconnected):
        await second.send(b"too late")


@BOTH_OPENERS
@pytest.mark.parametrize("ending", [ends_in_turn, one_is_reset])
@pytest.mark.parametrize("first", ["we begin", "they begin"])
async def test_either_side_ends_a_stream_and_the_next_one_works(
    open_stream: Open, ending: Callable[[Stream, Stream], Awaitable[None]], first: str
) -> None:
    async with we_dial() as pair:
        near, far = await open_stream(pair)
        await (ending(near, far) if first == "we begin" else ending(far, near))
        near, far = await open_stream(pair)
        await near.send(b"!")
        assert await receive(far, 1) == b"!"


@BOTH_ROLES
async def test_both_sides_open_streams_at_once(connect: Connect) -> None:
    async with connect() as pair:

        async def answer(stream: INetStream) -> None:
            with pytest.raises(Disconnected):
                await echo(LibraryStream(stream, pair.ours.me))

        async def converse(number: int) -> None:
            ours = number % 2
            stream = await (pair.ours.open(THERE, PROTOCOL) if ours else pair.open_there(PROTOCOL))
            for turn in range(5):
                text = b"stream %d, turn %d" % (number, turn)
                assert await ask_echo(stream, text) == text
            await stream.close()

        pair.ours.serve(PROTOCOL, echo)
        pair.host.set_stream_handler(TProtocol(PROTOCOL), answer)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(converse, number)


@BOTH_ROLES
async def test_a_protocol_that_the_other_side_does_not_speak_is_refused(connect: Connect) -> None:
    async with connect() as pair:
        with pytest.raises(Unreachable):
            await pair.ours.open(THERE, "/nobody/speaks/this")
        with pytest.raises(StreamFailure):
            await pair.open_there("/nobody/speaks/this")
        near, far = await pair.we_open()
        await near.send(b"!")
        assert await receive(far, 1) == b"!"


@pytest.mark.slow
async def test_the_library_waits_for_us_five_seconds_and_loses_nothing_but_its_stream() -> None:
    """What of its data was under our window can still be read; it tells us nothing of its giving up."""
    data = noise(4 * MIB, seed=1)
    async with we_dial() as pair:
        near, far = await pair.we_open()
        assert isinstance(near, YamuxStream)
        with pytest.raises(Disconnected, match="StreamReset"):
            await far.send(data)
        await trio.sleep(STALL)
        arrived = len(near._unread)
        assert WINDOW - 1000 < arrived <= WINDOW
        assert await receive(near, arrived) == data[:arrived]
        near, far = await pair.they_open()
        await far.send(b"!")
        assert await receive(near, 1) == b"!"


@pytest.mark.slow
@pytest.mark.fault("slow reader, slow writer")
async def test_we_wait_for_a_reader_of_the_library_that_stalls_for_a_minute() -> None:
    data = noise(4 * MIB, seed=1)
    async with we_dial() as pair, trio.open_nursery() as nursery:
        near, far = await pair.we_open()
        nursery.start_soon(near.send, data)
        await trio.sleep(STALL)
        assert await receive(far, len(data)) == data


@pytest.mark.slow
@pytest.mark.fault("slow reader, slow writer")
async def test_a_reader_of_ours_that_stalls_for_a_minute_costs_one_window_and_resets_nobody() -> None:
    data = noise(64 * MIB, seed=1)
    async with two_peers() as (network, other), trio.open_nursery() as nursery:
        accept, accepted = parked_handler()
        other.serve(PROTOCOL, accept)
        writer = await network.open(other.me, PROTOCOL)
        nursery.start_soon(writer.send, data)
        reader = await accepted.receive()
        assert isinstance(reader, YamuxStream)
        await trio.sleep(STALL)
        assert WINDOW - 1000 < len(reader._unread) <= WINDOW
        assert await receive(reader, len(data)) == data
