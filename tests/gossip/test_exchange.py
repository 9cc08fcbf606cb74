"""Exchanges over the memory network: what is conserved, and what becomes of broken ones."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from p2pnode.errors import Fault, PeerFault
from p2pnode.events import ExchangeAborted, ExchangeCompleted, ExchangeUnsettled
from p2pnode.gossip import exchange
from p2pnode.gossip.agenda import Agenda
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Result
from p2pnode.gossip.view import avoidance
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import Bytes, PeerId, Stream
from p2pnode.wire.messages import Abort, Accept, Begin, Decline, Offer, receive, send
from tests.gossip.ends import CODECS, End, ends, learner, vector


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric() -> MemoryFabric:
    return MemoryFabric(seed=1, link=Link(latency=0.01))


async def offer(initiator: End, acceptor: End) -> Result:
    return await initiator.exchanger.offer(acceptor.member())


async def assert_both_or_neither(one: End, other: End) -> bool:
    """Whether the exchange happened. It did for both or for neither, and the sum is what it was."""
    before = vector(0).astype(np.float64) + vector(1)
    first, second = await one.trainer.vector(), await other.trainer.vector()
    moved = [bool((first != vector(0)).any()), bool((second != vector(1)).any())]
    assert moved[0] == moved[1]
    np.testing.assert_allclose(first.astype(np.float64) + second, before, atol=2e-6)
    assert len(one.of(ExchangeCompleted)) == len(other.of(ExchangeCompleted)) == moved[0]
    return moved[0]


@pytest.mark.parametrize("codec", CODECS)
async def test_a_completed_exchange_conserves_the_sum_of_its_two_ends(codec: str, clock: MockClock) -> None:
    async with ends(fabric(), 2, codec) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(1)
        assert await assert_both_or_neither(one, other)
        half = (vector(0) + vector(1)) / 2
        worst = {"float32": 1e-6, "bfloat16": 0.03, "int8": 0.06, "int4": 1.0}[codec]
        assert np.abs(await one.trainer.vector() - half).max() < worst


@pytest.mark.parametrize("codec", CODECS)
async def test_offers_that_cross_make_one_exchange(codec: str, clock: MockClock) -> None:
    async with ends(fabric(), 2, codec) as (one, other):
        results = {}

        async def run(name: str, initiator: End, acceptor: End) -> None:
            results[name] = await offer(initiator, acceptor)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "one", one, other)
            nursery.start_soon(run, "other", other, one)
        await trio.sleep(1)
        assert results["one"] is Result.COMPLETED  # the lower id stays initiator
        assert results["other"] in (Result.WITHDRAWN, Result.DECLINED)
        assert await assert_both_or_neither(one, other)


async def test_a_ring_of_waiting_nodes_makes_progress(clock: MockClock) -> None:
    async with ends(fabric(), 5) as five:
        async with trio.open_nursery() as nursery:
            for index, end in enumerate(five):
                nursery.start_soon(offer, end, five[(index + 1) % 5])
        await trio.sleep(1)
        assert sum(len(end.of(ExchangeCompleted)) for end in five) >= 2
        total = sum([(await end.trainer.vector()).astype(np.float64) for end in five])
        np.testing.assert_allclose(total, sum(vector(i).astype(np.float64) for i in range(5)), atol=5e-6)
        assert not any(end.exchanger.slot.busy for end in five)


def step_counter(lose: Callable[[int, PeerId, bytes], Verdict]) -> tuple[MemoryFabric, list[int]]:
    """A fabric whose tap sees the number of every send on the exchange protocol."""
    network = fabric()
    seen: list[int] = []

    def tap(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        if protocol != exchange.PROTOCOL:
            return Verdict.DELIVER
        seen.append(len(seen))
        return lose(seen[-1], source, data)

    network.tap = tap
    return network, seen


async def count_sends(codec: str) -> int:
    network, seen = step_counter(lambda *_: Verdict.DELIVER)
    async with ends(network, 2, codec) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(1)
    return len(seen)


@pytest.mark.parametrize("verdict", [Verdict.DROP, Verdict.RESET])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.fault("any one message lost")
async def test_losing_any_one_step_gives_both_or_neither(
    codec: str, verdict: Verdict, clock: MockClock
) -> None:
    outcomes = set()
    for lost in range(await count_sends(codec)):
        network, _ = step_counter(lambda step, *_, lost=lost: verdict if step == lost else Verdict.DELIVER)
        async with ends(network, 2, codec) as (one, other):
            await offer(one, other)
            await trio.sleep(60)
            outcomes.add(await assert_both_or_neither(one, other))
            assert not one.of(ExchangeUnsettled) + other.of(ExchangeUnsettled)
            assert not one.exchanger.slot.busy and not other.exchanger.slot.busy
            assert await offer(one, other) is Result.COMPLETED  # nothing is left behind
    assert outcomes == {True, False}


@pytest.mark.parametrize("codec", CODECS)
async def test_only_a_lost_commit_with_every_question_lost_is_unsettled(codec: str, clock: MockClock) -> None:
    last = await count_sends(codec) - 1  # the commit
    network, _ = step_counter(lambda step, *_: Verdict.DROP if step >= last else Verdict.DELIVER)
    async with ends(network, 2, codec) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(60)
        assert len(other.of(ExchangeUnsettled)) == 1
        assert not other.of(ExchangeCompleted)
        assert (await other.trainer.vector() == vector(1)).all()
        assert not other.exchanger.slot.busy


async def test_an_answer_that_is_lost_too_is_asked_for_again(clock: MockClock) -> None:
    commit = await count_sends("float32") - 1
    lost = {commit, commit + 2}  # and the first outcome
    network, _ = step_counter(lambda step, *_: Verdict.DROP if step in lost else Verdict.DELIVER)
    async with ends(network, 2) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(60)
        assert len(other.of(ExchangeCompleted)) == 1
        assert await assert_both_or_neither(one, other)


async def test_an_outcome_is_told_to_the_partner_only_and_kept_whatever_others_do(clock: MockClock) -> None:
    async with ends(fabric(), 3) as (one, other, third):
        exchanger, decided, undecided = one.exchanger, bytes(24), b"x" * 24
        exchanger._remember(other.network.me, decided)
        for number in range(1000):
            exchanger._remember(third.network.me, number.to_bytes(24, "big"))
        assert exchanger._outcome(other.network.me, decided) == "committed"
        assert exchanger._outcome(third.network.me, decided) == "unknown"
        exchanger.slot.pending, exchanger.slot.partner = undecided, other.network.me
        exchanger.slot.unready = trio.CancelScope()
        assert exchanger._outcome(third.network.me, undecided) == "unknown"
        assert not exchanger.slot.unready.cancel_called
        exchanger._outcome(other.network.me, undecided)
        assert exchanger.slot.unready.cancel_called


async def test_who_was_at_fault_just_now_gets_no_exchange(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        other.membership.fault(one.network.me, PeerFault(Fault.STALLED, "test"))
        assert await offer(one, other) is Result.DECLINED
        await trio.sleep(avoidance(1) + 0.1)
        assert await offer(one, other) is Result.COMPLETED


async def test_a_peer_that_takes_no_offer_costs_one_deadline(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        opening = one.network.open

        async def stuck(data: Bytes) -> None:
            del data
            await trio.sleep_forever()

        async def open_stuck(peer: PeerId, protocol: str) -> Stream:
            stream = await opening(peer, protocol)
            stream.send = stuck  # type: ignore[method-assign]
            return stream

        one.network.open = open_stuck  # type: ignore[method-assign]
        began = trio.current_time()
        assert await offer(one, other) is Result.ABORTED
        assert trio.current_time() - began <= Deadlines().first() + 1
        assert not one.exchanger.slot.waiting


@pytest.mark.fault("kill at every step of an exchange, either side")
async def test_an_initiator_that_dies_after_ready_leaves_its_partner_unsettled(clock: MockClock) -> None:
    network = fabric()
    async with ends(network, 2) as (one, other):
        last = await count_sends("float32") - 1
        network.tap, seen = step_counter(lambda step, *_: Verdict.DELIVER)[0].tap, []

        def die(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
            seen.append(data)
            return Verdict.DROP if len(seen) > last else Verdict.DELIVER

        network.tap = die
        began = trio.current_time()
        await offer(one, other)
        network.kill(one.network.me)
        await other.exchanger.close()
        assert trio.current_time() - began <= Deadlines().first(2 * sum(one.trainer.payload)) + 1
        assert len(other.of(ExchangeUnsettled)) == 1
        assert not other.exchanger.slot.busy


async def test_a_busy_node_declines_at_once(clock: MockClock) -> None:
    slow = MemoryFabric(seed=1, link=Link(latency=0.01, bandwidth=1000))
    async with ends(slow, 3) as (one, other, third), trio.open_nursery() as nursery:
        nursery.start_soon(offer, one, other)
        await trio.sleep(0.5)
        started = trio.current_time()
        assert await offer(third, other) is Result.DECLINED
        assert trio.current_time() - started < 1.0


async def test_parameters_with_nan_abort_the_exchange_and_count_against_their_sender(
    clock: MockClock,
) -> None:
    for initiator, nonsense in product((0, 1), (np.nan, -np.inf, 3e38)):
        async with ends(fabric(), 2) as both:
            bad, good = both[1], both[0]
            await bad.trainer.jump(0, np.full(learner().size, nonsense, np.float32))
            before = await good.trainer.vector()
            assert await offer(both[initiator], both[1 - initiator]) is Result.ABORTED
            await trio.sleep(1)
            assert (await good.trainer.vector() == before).all()
            assert [fault.fault for fault in good.faults] == [Fault.NOT_FINITE]
            assert len(good.of(ExchangeAborted)) == len(bad.of(ExchangeAborted)) == 1


async def test_a_partner_that_stalls_costs_one_deadline(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):

        async def stall(stream: object) -> None:
            await trio.sleep_forever()

        other.network.serve(exchange.PROTOCOL, stall)
        started = trio.current_time()
        assert await offer(one, other) is Result.ABORTED
        assert trio.current_time() - started < 10.5
        assert [fault.fault for fault in one.faults] == [Fault.STALLED]
        assert not one.exchanger.slot.busy


async def test_who_wants_more_time_than_strangers_have_does_not_get_it(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        stream = await one.network.open(other.network.me, exchange.PROTOCOL)
        greedy = evolve(one.exchanger._offer(Agenda(), other.network.me, 1000, 1001), seconds=1e9)
        await send(stream, greedy)
        usual = Deadlines().first(2 * greedy.size)
        assert (await receive(stream, Accept)).seconds == usual
        began = trio.current_time()
        await other.exchanger.close()
        assert trio.current_time() - began <= usual
        assert other.faults.pop().fault is Fault.STALLED


async def test_another_layout_is_a_fault_and_another_step_is_declined(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        good = one.exchanger._offer(Agenda(), other.network.me, 1000, 1001)
        for bad, fault in (
            (evolve(good, layout=bytes(32)), Fault.WRONG_LAYOUT),
            (evolve(good, size=1), Fault.WRONG_LAYOUT),
        ):
            stream = await one.network.open(other.network.me, exchange.PROTOCOL)
            await send(stream, bad)
            await trio.sleep(1)
            assert other.faults.pop().fault is fault
        for odd in (evolve(good, weight=0.25), evolve(good, step=3), evolve(good, members=bytes(32))):
            stream = await one.network.open(other.network.me, exchange.PROTOCOL)
            await send(stream, odd)
            assert isinstance(await receive(stream, Accept, Decline), Decline)
        assert not other.faults


async def test_garbage_in_place_of_any_message_is_counted_and_frees_the_node(clock: MockClock) -> None:
    garbage = [
        b"\xff\xff\xff\xff",
        (5).to_bytes(4, "big") + b"\xc1\xc1\xc1\xc1\xc1",
        (2).to_bytes(4, "big") + b"\x91\x63",
    ]
    for upto in range(2):
        for bad in garbage:
            async with ends(fabric(), 2) as (one, other):
                stream = await one.network.open(other.network.me, exchange.PROTOCOL)
                if upto:
                    await send(stream, one.exchanger._offer(Agenda(), other.network.me, 1000, 1001))
                    await receive(stream, Accept)
                await stream.send(bad)
                await trio.sleep(1)
                assert other.faults.pop().fault in (Fault.MALFORMED, Fault.OVERSIZED)
                assert not other.exchanger.slot.busy


async def test_what_is_unexpected_is_counted(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        stream = await one.network.open(other.network.me, exchange.PROTOCOL)
        await send(stream, Begin(b""))
        await trio.sleep(1)
        assert other.faults.pop().fault is Fault.UNEXPECTED
        stream = await one.network.open(other.network.me, exchange.PROTOCOL)
        await send(stream, one.exchanger._offer(Agenda(), other.network.me, 1000, 1001))
        await receive(stream, Accept)
        await send(stream, Abort("no"))
        await trio.sleep(1)
        assert other.faults.pop().fault is Fault.UNEXPECTED
        assert isinstance(one.exchanger._offer(Agenda(), other.network.me, 1, 2), Offer)
