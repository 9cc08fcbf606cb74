"""Streams over one connection in virtual time: what peers may do, what ends a connection, what it costs."""

import hashlib
from contextlib import suppress
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2pnode.errors import Disconnected, Fault, Unreachable
from p2pnode.net.budget import Budget
from p2pnode.net.yamux import (
    ACK,
    CREDIT,
    DATA,
    FIN,
    FRAME,
    GO_AWAY,
    HEADER,
    KEEP_ALIVE_SECONDS,
    LINGER_SECONDS,
    MOST_CREDIT,
    MOST_STREAMS,
    PING,
    RST,
    SYN,
    TURN,
    WINDOW,
    YamuxStream,
)

from .pipe import MIB, beside_a_stranger, frame, joined, opened, receive, settled


async def carried(
    sender: YamuxStream, receiver: YamuxStream, size: int = 100_000, within: float = 20.0
) -> None:
    """That bytes get through."""
    data = Random(size).randbytes(size)
    with trio.fail_after(within):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, data)
            assert await receive(receiver, size) == data


# --- many streams ---


async def test_what_64_streams_carry_at_once_arrives_as_it_was_sent(autojump_clock: MockClock) -> None:
    expected: dict[int, bytes] = {}
    found: dict[int, bytes] = {}

    async def send(stream: YamuxStream) -> None:
        random = Random(stream.number)
        digest = hashlib.sha256()
        for size in (random.choice([1, 5000, 300_000]) for _ in range(4)):
            data = random.randbytes(size)
            digest.update(data)
            await stream.send(data)
        await stream.close()
        expected[stream.number] = digest.digest()

    async def take(stream: YamuxStream) -> None:
        random = Random(stream.number)
        digest = hashlib.sha256()
        for size in (random.choice([1, 5000, 300_000]) for _ in range(4)):
            random.randbytes(size)
            digest.update(await receive(stream, size))
        with pytest.raises(Disconnected):
            await receive(stream, 1)
        await stream.close()
        found[stream.number] = digest.digest()

    async with joined(room=64 * 1024) as (near, far):
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(send, near.muxer.open())
            await settled(lambda: len(far.accepted) == 64)
            for stream in far.accepted:
                nursery.start_soon(take, stream)
        assert len(found) == 64
        assert found == expected
        await settled(lambda: not near.muxer.streams and not far.muxer.streams)
        assert near.spent == far.spent == 0


async def test_200_idle_streams_do_not_hold_up_others(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        held = [await opened(near, far) for _ in range(MOST_STREAMS)]
        async with trio.open_nursery() as nursery:
            for sender, receiver in held[200:]:
                nursery.start_soon(carried, sender, receiver, 2 * WINDOW)
                nursery.start_soon(carried, receiver, sender, 1000)
        for sender, receiver in held[:200]:
            await carried(receiver, sender, 10)
            await sender.reset()
        await settled(lambda: len(far.muxer.streams) == MOST_STREAMS - 200)


async def test_ten_thousand_streams_one_after_the_other_leave_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with joined() as (near, far):
        for number in range(10_000):
            stream = near.muxer.open()
            await stream.send(b"ask")
            if number % 3:
                await stream.close()
            await settled(lambda: bool(far.accepted))
            other = far.accepted.pop()
            assert await receive(other, 3) == b"ask"
            await other.close()
            if not number % 3:
                await stream.reset()
        await settled(lambda: not near.muxer.streams and not far.muxer.streams)
        assert near.spent == far.spent == 0
        assert not near.done


async def test_more_streams_than_the_limit_are_refused_here(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        held = [await opened(near, far) for _ in range(MOST_STREAMS)]
        with pytest.raises(Unreachable):
            near.muxer.open()
        await held[0][0].reset()
        await carried(*await opened(near, far))


async def test_more_streams_than_the_limit_are_refused_there(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(b"".join(frame(CREDIT, SYN, 1 + 2 * one, 0) for one in range(MOST_STREAMS + 1)))
        for number in range(MOST_STREAMS):
            assert await stranger.read(HEADER.size) == frame(CREDIT, ACK, 1 + 2 * number, 0)
        assert await stranger.read(HEADER.size) == frame(CREDIT, RST, 1 + 2 * MOST_STREAMS, 0)
        assert len(end.accepted) == len(end.muxer.streams) == MOST_STREAMS


async def test_a_peer_that_reads_nothing_is_not_asked_for_more_and_more(
    autojump_clock: MockClock,
) -> None:
    async with beside_a_stranger() as (end, stranger):
        with pytest.raises(Unreachable):  # noqa: PT012  # one of these is the first too many
            for _ in range(200_000):
                await end.muxer.open().reset()
        assert not end.done
        first = frame(CREDIT, SYN, 2, 0) + frame(CREDIT, RST, 2, 0)
        assert await stranger.read(2 * HEADER.size) == first


# --- readers and writers that stop ---


@pytest.mark.fault("slow reader, slow writer")
async def test_a_reader_that_stalls_for_minutes_costs_its_window_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        data = Random(0).randbytes(4 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, data)
            await trio.sleep(600)
            assert far.spent == len(receiver._unread) == WINDOW
            await carried(*await opened(near, far))
            assert await receive(receiver, len(data)) == data
        assert not near.done
        assert far.spent <= WINDOW


@pytest.mark.parametrize("turns", [2, 3, 5, 8, 13, 50, 1000])
async def test_a_sender_that_is_cancelled_leaves_no_half_frame(turns: int, autojump_clock: MockClock) -> None:
    async with joined(room=10_000) as (near, far):
        other = await opened(near, far)
        sender, receiver = await opened(near, far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, bytes(10 * MIB))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with pytest.raises(Disconnected):
            await sender.send(b"more")
        await carried(*other)
        with pytest.raises(Disconnected):
            await receive(receiver, 10 * MIB)
        assert len(near.muxer.streams) == len(far.muxer.streams) == 1


async def test_a_reader_that_is_cancelled_does_not_stop_what_comes_after(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        with trio.move_on_after(1):
            await receive(receiver, 40 * MIB)
        assert WINDOW <= far.spent <= MOST_CREDIT + WINDOW
        await carried(sender, receiver, MIB)
        await receiver.reset()
        assert far.spent == 0


async def test_senders_take_turns(autojump_clock: MockClock) -> None:
    async with joined(room=64 * 1024) as (near, far):
        pairs = [await opened(near, far) for _ in range(4)]
        got = [0] * len(pairs)

        async def take(turn: int) -> None:
            for _ in range(100):
                await receive(pairs[turn][1], 100_000)
                got[turn] += 1
                assert got[turn] - min(got) < 50

        async with trio.open_nursery() as nursery:
            for turn, (sender, _) in enumerate(pairs):
                nursery.start_soon(sender.send, bytes(10_000_000))
                nursery.start_soon(take, turn)


# --- ends of streams ---


async def test_each_direction_ends_by_itself(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        await sender.send(b"the end")
        await sender.close()
        assert await receive(receiver, 7) == b"the end"
        with pytest.raises(Disconnected):
            await receive(receiver, 1)
        with pytest.raises(Disconnected):
            await sender.send(b"more")
        await carried(receiver, sender)
        await receiver.close()
        with pytest.raises(Disconnected):
            await receive(sender, 1)
        await settled(lambda: not near.muxer.streams and not far.muxer.streams)


async def test_a_handler_that_is_done_waits_for_its_peer_but_not_for_ever(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.finish)
            await sender.send(bytes(4 * MIB))  # nobody reads it, and it is not held up
            await trio.sleep(1)
            await sender.close()
        assert trio.current_time() - started < LINGER_SECONDS
        sender, receiver = await opened(near, far)
        await receiver.finish()
        await settled(lambda: not near.muxer.streams and not far.muxer.streams)
        with pytest.raises(Disconnected):
            await sender.send(b"too late")


@pytest.mark.parametrize("end", ["reset here", "reset there", "read after both closed", "connection"])
async def test_the_budget_is_whole_again_however_a_stream_ends(end: str, autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        await sender.send(bytes(100_000))
        await settled(lambda: far.spent == 100_000)
        if end == "reset here":
            await receiver.reset()
        elif end == "reset there":
            await sender.reset()
        elif end == "connection":
            near.end()
        else:
            await sender.close()
            await receiver.close()
            await settled(lambda: not near.muxer.streams)
            assert far.spent == 100_000
            assert await receive(receiver, 100_000) == bytes(100_000)
        await settled(lambda: far.spent == 0 and not far.muxer.streams)


async def test_last_words_that_nobody_reads_are_not_kept_for_ever(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        slow, patient = await opened(near, far)
        for stream in (sender, slow):
            await stream.send(bytes(100))
            await stream.close()
        await receiver.close()  # and is never looked at again
        await settled(lambda: far.spent == 200 and list(near.muxer.streams.values()) == [slow])
        await trio.sleep(3 * KEEP_ALIVE_SECONDS)
        assert list(far.muxer.streams.values()) == [patient]
        assert await receive(patient, 100) == bytes(100)
        assert far.spent == 0


async def test_who_has_said_all_and_goes_on_reading_may_take_its_time(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        await receiver.close()
        for _ in range(10):
            await sender.send(bytes(100))
            await trio.sleep(0.9 * KEEP_ALIVE_SECONDS)
            assert await receive(receiver, 100) == bytes(100)


async def test_what_has_arrived_can_be_read_after_the_connection_has_ended(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        sender, receiver = await opened(near, far)
        await sender.send(b"last words")
        await settled(lambda: far.spent == 10)
        near.end()
        await settled(lambda: far.done)
        assert await receive(receiver, 10) == b"last words"
        assert far.spent == 0
        with pytest.raises(Disconnected):
            await receive(receiver, 1)


async def test_the_end_of_the_connection_wakes_everybody(autojump_clock: MockClock) -> None:
    async with joined(room=10_000) as (near, far):
        pairs = [await opened(near, far) for _ in range(4)]

        async def fail_to_send(stream: YamuxStream) -> None:
            with pytest.raises(Disconnected):
                await stream.send(bytes(MIB))

        async def fail_to_receive(stream: YamuxStream) -> None:
            with pytest.raises(Disconnected):
                await receive(stream, MIB)

        async with trio.open_nursery() as nursery:
            for sender, _ in pairs:
                nursery.start_soon(fail_to_send, sender)
                nursery.start_soon(fail_to_receive, sender)
            for _, receiver in [await opened(near, far) for _ in range(4)]:
                nursery.start_soon(fail_to_receive, receiver)
            await trio.sleep(1)
            near.end()
        assert near.spent == far.spent == 0
        with pytest.raises(Disconnected):
            near.muxer.open()


async def test_frames_of_a_stream_that_was_reset_are_skipped(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(frame(CREDIT, SYN, 1, 0))
        await settled(lambda: bool(end.accepted))
        await end.accepted[0].reset()
        size = 50_000
        await stranger.send(frame(DATA, 0, 1, size, bytes(size)) + frame(CREDIT, FIN, 1, 5))
        await stranger.send(frame(CREDIT, SYN, 3, 0) + frame(DATA, 0, 3, 3, b"yes"))
        await settled(lambda: len(end.accepted) == 2)
        assert await receive(end.accepted[1], 3) == b"yes"
        assert list(end.muxer.streams) == [3]


async def test_the_end_of_a_stream_leaves_another_with_its_number_alone(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(frame(CREDIT, SYN | FIN, 1, 0))
        await settled(lambda: bool(end.accepted))
        await end.accepted[0].close()
        assert not end.muxer.streams
        await stranger.send(frame(CREDIT, SYN, 1, 0))
        await settled(lambda: len(end.accepted) == 2)
        await end.accepted[0].reset()
        await stranger.send(frame(DATA, 0, 1, 3, b"yes"))
        with trio.fail_after(1):
            assert await receive(end.accepted[1], 3) == b"yes"


# --- the budget ---


async def test_a_large_transfer_finishes_with_no_budget_for_more_than_first_windows(
    autojump_clock: MockClock,
) -> None:
    async with joined(most=0) as (near, far):
        sender, receiver = await opened(near, far)
        await carried(sender, receiver, 4 * MIB)
        assert not far.done


async def test_readers_that_take_all_the_credit_cut_off_nobody(autojump_clock: MockClock) -> None:
    async with joined(most=64 * MIB) as (near, far):
        for _ in range(5):
            _, receiver = await opened(near, far)
            with trio.move_on_after(1):
                await receive(receiver, 40 * MIB)
        await carried(*await opened(near, far))
        sender, receiver = await opened(near, far)
        await sender.send(bytes(WINDOW))
        await settled(lambda: len(receiver._unread) == WINDOW or far.done)
        assert far.fault is None


async def test_a_peer_that_leaves_more_unread_than_the_node_keeps_is_cut_off(
    autojump_clock: MockClock,
) -> None:
    async with joined(most=2 * WINDOW) as (near, far):
        for _ in range(2):
            sender, _ = await opened(near, far)
            await sender.send(bytes(WINDOW))
        await settled(lambda: far.spent == 2 * WINDOW)
        assert not far.done
        sender, _ = await opened(near, far)
        await sender.send(b"!")
        await settled(lambda: far.done)
        assert far.fault is not None
        assert far.fault.fault == Fault.OVERSIZED
        assert far.spent == 0


async def test_when_a_node_keeps_too_much_the_connection_goes_with_most_of_it(
    autojump_clock: MockClock,
) -> None:
    node = Budget(3 * WINDOW)
    async with joined(node=node) as (greedy, at_fault), joined(node=node) as (honest, kept):
        for _ in range(3):
            sender, _ = await opened(greedy, at_fault)
            await sender.send(bytes(WINDOW))
        await settled(lambda: node._spent == 3 * WINDOW)
        sender, receiver = await opened(honest, kept)
        await sender.send(b"not read at once")
        await settled(lambda: at_fault.done)
        assert at_fault.fault is not None
        assert at_fault.fault.fault == Fault.OVERSIZED
        assert await receive(receiver, 16) == b"not read at once"
        assert kept.fault is None and not kept.done
        assert node._spent == 0


# --- what a peer must not do ---


SYN_1 = frame(CREDIT, SYN, 1, 0)
WRONG = {
    "version": (b"\x01" + SYN_1[1:], Fault.MALFORMED),
    "kind": (frame(GO_AWAY + 1, 0, 0, 0), Fault.MALFORMED),
    "flag": (frame(CREDIT, 16, 1, 0), Fault.MALFORMED),
    "parity": (frame(CREDIT, SYN, 2, 0), Fault.UNEXPECTED),
    "number 0": (frame(DATA, SYN, 0, 0), Fault.UNEXPECTED),
    "opened twice": (SYN_1 + SYN_1, Fault.UNEXPECTED),
    "window": (SYN_1 + frame(DATA, 0, 1, WINDOW + 1), Fault.OVERSIZED),
    "window, in two": (
        SYN_1 + frame(DATA, 0, 1, WINDOW - 1, bytes(WINDOW - 1)) + frame(DATA, 0, 1, 2),
        Fault.OVERSIZED,
    ),
    "data after its end": (
        frame(CREDIT, SYN | FIN, 1, 0) + frame(DATA, 0, 1, 1, b"x"),
        Fault.OVERSIZED,
    ),
    "window of no stream": (frame(DATA, 0, 1, MOST_CREDIT + WINDOW + 1), Fault.OVERSIZED),
    "credit": (SYN_1 + frame(CREDIT, 0, 1, 2**32 - WINDOW), Fault.OVERSIZED),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_peer_that_breaks_a_rule_loses_the_connection(wrong: str, autojump_clock: MockClock) -> None:
    sent, fault = WRONG[wrong]
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(sent)
        await settled(lambda: end.done)
        assert end.fault is not None
        assert end.fault.fault == fault
        assert end.spent == 0
        for stream in end.accepted:
            with pytest.raises(Disconnected):
                await stream.send(b"gone")


async def test_the_largest_credit_is_taken(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(SYN_1 + frame(CREDIT, 0, 1, 2**32 - 1 - WINDOW) + frame(PING, SYN, 0, 7))
        assert await stranger.read(2 * HEADER.size) == frame(CREDIT, ACK, 1, 0) + frame(PING, ACK, 0, 7)
        assert end.fault is None


@pytest.mark.parametrize(("room", "rate"), [(MIB, 2_000), (MIB, 10_000), (64 * 1024, 2_000)])
async def test_a_line_on_which_bytes_come_is_kept_however_slow_it_is(
    room: int, rate: int, autojump_clock: MockClock
) -> None:
    async with joined(room, rate, pause=1.0) as (near, far):
        sender, receiver = await opened(near, far)
        await carried(sender, receiver, 600_000, within=600)
        assert not near.done and not far.done


async def test_a_ping_is_answered_with_its_value(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (_, stranger):
        await stranger.send(frame(PING, SYN, 0, 0xDEADBEEF))
        assert await stranger.read(HEADER.size) == frame(PING, ACK, 0, 0xDEADBEEF)


async def test_a_peer_that_asks_and_reads_no_answers_is_cut_off(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        with pytest.raises(Disconnected):  # noqa: PT012  # one of these is the first too many
            for number in range(10_000):
                await stranger.send(frame(PING, SYN, 0, number) * 100)
        assert end.fault is not None
        assert end.fault.fault == Fault.STALLED


# --- the life of a connection ---


async def test_small_frames_without_end_leave_others_their_turn(autojump_clock: MockClock) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with beside_a_stranger() as (_, stranger), trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await stranger.send(frame(PING, ACK, 0, 0) * 5000 + frame(PING, SYN, 0, 7))
        assert await stranger.read(HEADER.size) == frame(PING, ACK, 0, 7)
        assert turns > 5000 // TURN
        nursery.cancel_scope.cancel()


async def test_a_silent_peer_is_asked_and_then_given_up(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        started = trio.current_time()
        assert await stranger.read(HEADER.size) == frame(PING, SYN, 0, 0)
        assert trio.current_time() - started == KEEP_ALIVE_SECONDS
        await settled(lambda: end.done)
        assert trio.current_time() - started == pytest.approx(2 * KEEP_ALIVE_SECONDS, abs=0.01)
        assert end.fault is None


async def test_a_peer_that_answers_is_kept(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        for _ in range(10):
            assert await stranger.read(HEADER.size) == frame(PING, SYN, 0, 0)
            await trio.sleep(KEEP_ALIVE_SECONDS * 0.9)
            await stranger.send(frame(PING, ACK, 0, 0))
        assert not end.done


async def test_after_go_away_open_streams_go_on_and_no_new_ones_come(autojump_clock: MockClock) -> None:
    async with joined() as (near, far):
        pair = await opened(near, far)
        await near.muxer.leave()
        await settled(lambda: far.muxer.leaving)
        for end in (near, far):
            with pytest.raises(Disconnected):
                end.muxer.open()
        await carried(*pair)
        assert not near.done


async def test_a_stream_opened_while_go_away_is_under_way_is_refused(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await end.muxer.leave()
        await stranger.send(frame(CREDIT, SYN, 1, 0))
        assert await stranger.read(2 * HEADER.size) == frame(GO_AWAY, 0, 0, 0) + frame(CREDIT, RST, 1, 0)
        assert not end.accepted


async def test_leaving_waits_until_all_is_written(autojump_clock: MockClock) -> None:
    async with joined(room=1000) as (near, far):
        sender, receiver = await opened(near, far)
        await sender.send(bytes(WINDOW))
        await near.muxer.leave()
        near.end()
        assert await receive(receiver, WINDOW) == bytes(WINDOW)


async def test_no_frame_is_larger_than_its_sender_may_make_it(autojump_clock: MockClock) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(SYN_1 + frame(CREDIT, 0, 1, MOST_CREDIT))
        await settled(lambda: bool(end.accepted))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.accepted[0].send, bytes(MIB))
            assert await stranger.read(HEADER.size) == frame(CREDIT, ACK, 1, 0)
            got = 0
            while got < MIB:
                _, kind, flags, number, length = HEADER.unpack(await stranger.read(HEADER.size))
                assert (kind, flags, number) == (DATA, 0, 1)
                assert 0 < length <= FRAME
                got += len(await stranger.read(length))


async def test_what_a_peer_has_sent_is_read_though_nothing_can_be_written_to_it(
    autojump_clock: MockClock,
) -> None:
    async with beside_a_stranger() as (end, stranger):
        await stranger.send(frame(DATA, SYN, 1, 5, b"hello"))
        await settled(lambda: bool(end.accepted))
        [stream] = end.accepted
        end._wire.outward.end()
        await stream.send(b"nobody reads this")
        await trio.testing.wait_all_tasks_blocked()
        await stranger.send(frame(DATA, 0, 1, 5, b"world"))
        assert await receive(stream, 10) == b"helloworld"
        await settled(lambda: end.done)


async def test_senders_take_turns_and_one_that_ends_gives_its_turn_away(autojump_clock: MockClock) -> None:
    """Five send much through a narrow pipe; two of them end while they wait. The others get equal shares."""
    async with joined(room=10_000) as (near, far), trio.open_nursery() as nursery:
        pairs = [await opened(near, far) for _ in range(5)]
        received = [0] * 5

        async def send(index: int) -> None:
            try:
                await pairs[index][0].send(bytes(8 * MIB))
            except Disconnected:
                assert index in (1, 3)

        async def take(index: int) -> None:
            view = memoryview(bytearray(1000))
            with suppress(Disconnected):
                while True:
                    await pairs[index][1].receive_into(view)
                    received[index] += len(view)

        for index in range(5):
            nursery.start_soon(send, index)
            nursery.start_soon(take, index)
        await settled(lambda: sum(received) > 2 * MIB)
        for index in (1, 3):
            await pairs[index][0].reset()
        before = list(received)
        await settled(lambda: sum(received) > 10 * MIB)
        shares = [received[index] - before[index] for index in (0, 2, 4)]
        assert max(shares) - min(shares) <= 3 * FRAME
        nursery.cancel_scope.cancel()
