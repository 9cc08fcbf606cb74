"""What every `ports.Network` promises, as checks that run over any transport.

A transport's test file gives a `Start`: called, it makes a fresh network with an identity of its
own, alive inside the context. It then runs every function of `CHECKS` with it:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_network_keeps_the_contract(check: Check) -> None:
        with trio.fail_after(60):
            await check(start)

No check looks at a clock to decide. Where one waits for a short while, it is to give a wrong
transport the chance to fail; a slow machine can only let it pass.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from p2pnode.errors import Disconnected, LinkError, Unreachable
from p2pnode.ports import Handler, Network, PeerAddress, PeerId, Stream

Start = Callable[[], AbstractAsyncContextManager[Network]]
Check = Callable[[Start], Awaitable[None]]

PROTOCOL = "/p2pnode/contract/1"
STRANGER = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")  # of the key made of zeros
MIB = 1024 * 1024
MUCH = 32 * MIB  # more than any transport may hold for a reader that does not read


def full_address(network: Network) -> str:
    return f"{network.addresses[0]}/p2p/{network.me}"


@asynccontextmanager
async def two_peers(start: Start) -> AsyncIterator[tuple[Network, Network]]:
    """Two networks; the first has dialled the second."""
    async with start() as near, start() as far:
        await near.connect(full_address(far))
        yield near, far


@asynccontextmanager
async def two_ends(start: Start) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of one stream, the opener's first."""
    async with two_peers(start) as (near, far):
        accept, accepted = parked_handler()
        far.serve(PROTOCOL, accept)
        stream = await near.open(far.me, PROTOCOL)
        # Some transports tell the far end of a stream with its first bytes only.
        await stream.send(b"!")
        other = await accepted.receive()
        assert await receive(other, 1) == b"!"
        yield stream, other


def parked_handler() -> tuple[Handler, trio.MemoryReceiveChannel[Stream]]:
    """A handler that hands its stream out and keeps it alive."""
    streams, accepted = trio.open_memory_channel[Stream](1)

    async def accept(stream: Stream) -> None:
        await streams.send(stream)
        await trio.sleep_forever()

    return accept, accepted


async def receive(stream: Stream, size: int) -> bytes:
    buffer = bytearray(size)
    await stream.receive_into(memoryview(buffer))
    return bytes(buffer)


async def echo(stream: Stream) -> None:
    """Answer each message, a length byte and so many bytes, with the same."""
    while True:
        length = await receive(stream, 1)
        await stream.send(length + await receive(stream, length[0]))


async def ask_echo(stream: Stream, text: bytes) -> bytes:
    await stream.send(bytes([len(text)]) + text)
    return (await receive(stream, 1 + len(text)))[1:]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def send_in_pieces(stream: Stream, data: bytes, largest: int, seed: int) -> None:
    sizes = random.Random(seed)
    while data:
        size = sizes.randint(1, largest)
        await stream.send(data[:size])
        data = data[size:]


async def expect_in_pieces(stream: Stream, data: bytes, largest: int, seed: int) -> None:
    sizes = random.Random(seed)
    while data:
        size = min(sizes.randint(1, largest), len(data))
        assert await receive(stream, size) == data[:size]
        data = data[size:]


# Bytes


async def check_bytes_arrive_whole_and_in_order_however_they_are_cut(start: Start) -> None:
    data = noise(100_000, seed=1)
    async with two_ends(start) as (near, far):
        for largest_sent, largest_read in ((1000, 5000), (5000, 1000), (100_000, 300), (300, 100_000)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_in_pieces, near, data, largest_sent, 2)
                nursery.start_soon(expect_in_pieces, far, data, largest_read, 3)


async def check_both_ends_send_at_once(start: Start) -> None:
    up, down = noise(2 * MIB, seed=1), noise(2 * MIB, seed=2)
    async with two_ends(start) as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(send_in_pieces, near, up, 100_000, 3)
        nursery.start_soon(send_in_pieces, far, down, 100_000, 4)
        nursery.start_soon(expect_in_pieces, far, up, 100_000, 5)
        nursery.start_soon(expect_in_pieces, near, down, 100_000, 6)


async def check_four_megabytes_arrive_in_one_send_and_one_receive(start: Start) -> None:
    data = noise(4 * MIB, seed=1)
    async with two_ends(start) as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(near.send, data)
        assert await receive(far, len(data)) == data


async def check_a_buffer_may_change_once_it_was_sent(start: Start) -> None:
    async with two_ends(start) as (near, far):
        buffer = bytearray(b"before")
        await near.send(memoryview(buffer))
        buffer[:] = b"after!"
        assert await receive(far, 6) == b"before"


async def check_many_streams_at_once_do_not_mix(start: Start) -> None:
    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, echo)

        async def converse(number: int) -> None:
            stream = await near.open(far.me, PROTOCOL)
            for turn in range(5):
                text = b"stream %d, turn %d" % (number, turn)
                assert await ask_echo(stream, text) == text
            await stream.reset()

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(converse, number)


async def check_both_peers_open_streams_to_each_other(start: Start) -> None:
    async with two_peers(start) as (near, far):
        near.serve(PROTOCOL, echo)
        far.serve(PROTOCOL, echo)
        for one, other in ((near, far), (far, near)):
            stream = await one.open(other.me, PROTOCOL)
            assert await ask_echo(stream, b"hello") == b"hello"
            await stream.reset()


async def check_traffic_grows_by_what_is_sent_at_least(start: Start) -> None:
    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, echo)
        before, far_before = near.traffic, far.traffic
        stream = await near.open(far.me, PROTOCOL)
        for _ in range(100):
            await ask_echo(stream, bytes(200))
        for now, then in ((near.traffic, before), (far.traffic, far_before)):
            assert now.sent - then.sent >= 20_000
            assert now.received - then.received >= 20_000


async def check_a_reader_that_does_not_read_blocks_the_writer(start: Start) -> None:
    async with two_ends(start) as (near, _far):
        sent = 0
        with trio.move_on_after(1):
            while sent < MUCH:
                await near.send(bytes(MIB))
                sent += MIB
        assert sent < MUCH


# Ends


async def check_a_closed_end_still_receives(start: Start) -> None:
    async with two_ends(start) as (near, far):
        await near.send(b"question")
        await near.close()
        assert await receive(far, 8) == b"question"
        with pytest.raises(Disconnected):
            await receive(far, 1)
        await far.send(b"answer")
        assert await receive(near, 6) == b"answer"


async def check_a_closed_end_sends_no_more(start: Start) -> None:
    async with two_ends(start) as (near, _far):
        await near.close()
        with pytest.raises(Disconnected):
            await near.send(b"more")


async def check_an_end_in_the_middle_of_a_receive_is_a_disconnect(start: Start) -> None:
    async with two_ends(start) as (near, far):
        await near.send(b"half")
        await near.close()
        with pytest.raises(Disconnected):
            await receive(far, 8)


async def check_a_reset_disconnects_both(start: Start) -> None:
    async with two_ends(start) as (near, far):
        await far.send(b"never read")
        await near.reset()
        for stream in (near, far):
            with pytest.raises(Disconnected):
                await receive(stream, 1)
            with pytest.raises(Disconnected):
                await stream.send(b"anything")


async def check_a_reset_ends_what_is_being_waited_for(start: Start) -> None:
    async with two_ends(start) as (near, far), trio.open_nursery() as nursery:

        async def lose(stream: Stream) -> None:
            with pytest.raises(Disconnected):
                await receive(stream, 1)

        nursery.start_soon(lose, near)
        nursery.start_soon(lose, far)
        await trio.testing.wait_all_tasks_blocked()
        await near.reset()


async def check_ending_a_stream_twice_is_no_error(start: Start) -> None:
    async with two_ends(start) as (near, far):
        for stream in (near, far):
            await stream.close()
            await stream.close()
            await stream.reset()
            await stream.reset()
            await stream.close()


async def check_a_stream_ends_when_its_handler_returns(start: Start) -> None:
    async def greet(stream: Stream) -> None:
        await receive(stream, 1)
        await stream.send(b"hello")

    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, greet)
        stream = await near.open(far.me, PROTOCOL)
        await stream.send(b"?")
        assert await receive(stream, 5) == b"hello"
        with pytest.raises(Disconnected):
            await receive(stream, 1)


async def check_a_cancelled_send_never_shows_as_a_whole_message(start: Start) -> None:
    async with two_ends(start) as (near, far):
        with trio.move_on_after(1) as patience:
            await near.send(bytes(MUCH))
        assert patience.cancelled_caught
        with pytest.raises(Disconnected):
            await near.send(b"next")
        with pytest.raises(Disconnected):
            await receive(far, MUCH)


async def check_cancelling_a_receive_leaves_others_working(start: Start) -> None:
    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, echo)
        silent, lively = [await near.open(far.me, PROTOCOL) for _ in range(2)]
        with trio.move_on_after(0.05) as patience:
            await receive(silent, 1)
        assert patience.cancelled_caught
        for stream in (lively, silent):
            assert await ask_echo(stream, b"still here") == b"still here"


# Handlers


async def check_both_ends_know_the_peer(start: Start) -> None:
    async with two_peers(start) as (near, far):
        accept, accepted = parked_handler()
        far.serve(PROTOCOL, accept)
        stream = await near.open(far.me, PROTOCOL)
        await stream.send(b"!")
        other = await accepted.receive()
        assert (stream.peer, other.peer) == (far.me, near.me)


async def check_a_handler_that_lost_its_peer_does_not_end_the_server(start: Start) -> None:
    async def lose(stream: Stream) -> None:
        await receive(stream, 1)
        raise Disconnected("it was only the network")

    async with two_peers(start) as (near, far):
        far.serve("/p2pnode/lose/1", lose)
        far.serve(PROTOCOL, echo)
        doomed = await near.open(far.me, "/p2pnode/lose/1")
        await doomed.send(b"!")
        with pytest.raises(Disconnected):
            await receive(doomed, 1)
        stream = await near.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"still here") == b"still here"


async def check_a_bug_in_a_handler_ends_the_network_loudly(start: Start) -> None:
    async def stumble(stream: Stream) -> None:
        raise ZeroDivisionError

    async with start() as near:
        with pytest.RaisesGroup(ZeroDivisionError, allow_unwrapped=True, flatten_subgroups=True):
            async with start() as far:
                far.serve(PROTOCOL, stumble)
                await near.connect(full_address(far))
                with pytest.raises(LinkError):  # the network may fall while the stream is opened
                    await receive(await near.open(far.me, PROTOCOL), 1)
                await trio.sleep_forever()


# Peers


async def check_connecting_tells_who_is_there(start: Start) -> None:
    async with start() as near, start() as far:
        assert await near.connect(far.addresses[0]) == far.me
    async with start() as near, start() as far:
        assert await near.connect(full_address(far)) == far.me


async def check_connecting_to_somebody_else_is_refused(start: Start) -> None:
    async with start() as near, start() as far:
        with pytest.raises(Unreachable):
            await near.connect(f"{far.addresses[0]}/p2p/{STRANGER}")


async def check_a_learned_address_is_enough_to_open(start: Start) -> None:
    async with start() as near, start() as far:
        far.serve(PROTOCOL, echo)
        near.learn(PeerAddress(far.me, far.addresses))
        stream = await near.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"
        near.serve(PROTOCOL, echo)
        back = await far.open(near.me, PROTOCOL)  # the one who was dialled need not learn anything
        assert await ask_echo(back, b"hello") == b"hello"


async def check_a_stranger_is_unreachable(start: Start) -> None:
    async with start() as near:
        with pytest.raises(Unreachable):
            await near.open(STRANGER, PROTOCOL)


async def check_one_does_not_reach_oneself(start: Start) -> None:
    async with start() as near:
        near.serve(PROTOCOL, echo)
        near.learn(PeerAddress(near.me, near.addresses))
        with pytest.raises(Unreachable):
            await near.open(near.me, PROTOCOL)


async def check_an_unknown_protocol_is_unreachable(start: Start) -> None:
    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, echo)
        with pytest.raises(Unreachable):
            await near.open(far.me, "/p2pnode/unheard-of/1")
        stream = await near.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"still here") == b"still here"


async def check_a_peer_that_left_is_disconnected_then_unreachable(start: Start) -> None:
    async with start() as near:
        async with start() as far:
            far.serve(PROTOCOL, echo)
            await near.connect(full_address(far))
            stream = await near.open(far.me, PROTOCOL)
            assert await ask_echo(stream, b"hello") == b"hello"
        with pytest.raises(Disconnected):
            await receive(stream, 1)
        with pytest.raises(Unreachable):
            await near.open(far.me, PROTOCOL)
        with pytest.raises(Unreachable):
            await near.connect(full_address(far))


async def check_leaving_ends_the_streams_of_the_one_who_leaves(start: Start) -> None:
    async with start() as far:
        async with start() as near:
            far.serve(PROTOCOL, echo)
            await near.connect(full_address(far))
            stream = await near.open(far.me, PROTOCOL)
        with pytest.raises(Disconnected):
            await receive(stream, 1)
        await stream.close()
        await stream.reset()


async def check_a_disconnected_peer_can_be_reached_again(start: Start) -> None:
    async with two_peers(start) as (near, far):
        far.serve(PROTOCOL, echo)
        stream = await near.open(far.me, PROTOCOL)
        await near.disconnect(far.me)
        with pytest.raises(Disconnected):
            await ask_echo(stream, b"anybody?")
        await near.disconnect(STRANGER)
        near.learn(PeerAddress(far.me, far.addresses))
        again = await near.open(far.me, PROTOCOL)
        assert await ask_echo(again, b"hello") == b"hello"


CHECKS: list[Check] = [check for name, check in list(globals().items()) if name.startswith("check_")]
