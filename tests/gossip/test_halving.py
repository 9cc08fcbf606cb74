"""Settling by halves: the same exact mean for all, also when somebody leaves in the middle of it."""

from collections.abc import Callable

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from p2pnode.errors import Fault
from p2pnode.events import ExchangeCompleted
from p2pnode.gossip import exchange
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import PeerId
from tests.gossip.ends import learner
from tests.gossip.test_settle import LATENCY, Swarm, far_from, mean, swarm

ALWAYS = 1  # bytes from which on these nodes call a vector large


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric(loss: float = 0.0) -> MemoryFabric:
    return MemoryFabric(seed=2, link=Link(latency=LATENCY, loss=loss))


@pytest.mark.parametrize("n", [*range(3, 10), 16])
async def test_all_end_with_the_same_exact_mean(n: int, clock: MockClock) -> None:
    assert learner().size % 4  # so that the last block is not full
    async with swarm(n, large=ALWAYS) as nodes:
        for end in nodes.members:
            nodes.settle(end)
        for settlement in await nodes.until_settled(nodes.members):
            assert (settlement.members, settlement.counted, settlement.spread) == (n, n, 0)
        assert await far_from(mean(range(n)), nodes.members) < 1e-6
        models = [await end.trainer.vector() for end in nodes.members]
        assert all((model == models[0]).all() for model in models)


async def test_two_have_nothing_to_gain_by_halving(clock: MockClock) -> None:
    async with swarm(2, large=ALWAYS) as nodes:
        for end in nodes.members:
            nodes.settle(end)
        await nodes.until_settled(nodes.members)
        assert all(len(end.of(ExchangeCompleted)) == 1 for end in nodes.members)


async def test_a_lossy_link_only_takes_longer(clock: MockClock) -> None:
    async with swarm(6, large=ALWAYS, network=fabric(loss=0.2)) as nodes:
        for end in nodes.members:
            nodes.settle(end)
        for settlement in await nodes.until_settled(nodes.members):
            assert (settlement.members, settlement.counted, settlement.spread) == (6, 6, 0)
        assert await far_from(mean(range(6)), nodes.members) < 1e-6


def message(network: MemoryFabric, peer: PeerId, number: int) -> trio.Event:
    """Set when `peer` sends its message `number` in exchanges."""
    sent = 0
    reached = trio.Event()

    def tap(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        nonlocal sent
        sent += source == peer and protocol == exchange.PROTOCOL
        if sent == number:
            reached.set()
        return Verdict.DELIVER

    network.tap = tap
    return reached


def kill(nodes: Swarm, network: MemoryFabric, victim: int) -> None:
    nodes.kill(nodes.members[victim])


def cut_off(nodes: Swarm, network: MemoryFabric, victim: int) -> None:
    peers = [end.network.me for end in nodes.members]
    network.partition([[peers.pop(victim)], peers])


@pytest.mark.parametrize("strike", [kill, cut_off])
@pytest.mark.parametrize(
    ("n", "victim", "number"),
    [
        *((4, 0, number) for number in range(1, 16)),
        *((4, 3, number) for number in range(1, 12)),
        *((3, 2, number) for number in range(1, 6)),
        *((5, 0, number) for number in range(1, 24, 5)),
        *((7, 5, number) for number in range(1, 6)),
        *((8, 2, number) for number in range(1, 24, 5)),
    ],
)
async def test_when_one_is_lost_the_others_end_with_one_mean_and_say_of_whom(
    n: int, victim: int, number: int, strike: Callable[[Swarm, MemoryFabric, int], None], clock: MockClock
) -> None:
    network = fabric()
    async with swarm(n, large=ALWAYS, network=network) as nodes:
        reached = message(network, nodes.members[victim].network.me, number)
        for end in nodes.members:
            nodes.settle(end, leave=True)
        with trio.fail_after(10):
            await reached.wait()
        strike(nodes, network, victim)
        left = [index for index in range(n) if index != victim]
        alive = [nodes.members[index] for index in left]
        settlements = await nodes.until_settled(alive)
        (counted,) = {settlement.counted for settlement in settlements}
        assert all(s.members == s.counted and s.spread < 1e-6 for s in settlements)
        assert counted in (n, n - 1)
        assert await far_from(mean(range(n) if counted == n else left), alive) < 1e-6
        assert not any(end.exchanger.slot.busy for end in alive)


async def test_when_two_are_lost_at_once_the_others_end_with_one_mean(clock: MockClock) -> None:
    network = fabric()
    async with swarm(7, large=ALWAYS, network=network) as nodes:
        reached = message(network, nodes.members[1].network.me, 8)
        for end in nodes.members:
            nodes.settle(end, leave=True)
        with trio.fail_after(10):
            await reached.wait()
        kill(nodes, network, 1)
        cut_off(nodes, network, 4)
        left = [0, 2, 3, 5, 6]
        alive = [nodes.members[index] for index in left]
        for settlement in await nodes.until_settled(alive):
            assert (settlement.members, settlement.counted) == (5, 5)
        assert await far_from(mean(left), alive) < 1e-6


async def test_who_sends_no_numbers_spoils_the_mean_for_nobody_else(clock: MockClock) -> None:
    async with swarm(4, large=ALWAYS) as nodes:
        liar, *others = nodes.members
        await liar.trainer.jump(0, np.full(learner().size, np.nan, np.float32))
        for end in nodes.members:
            nodes.settle(end)
        for settlement in await nodes.until_settled(others):
            assert settlement.counted <= 3 < settlement.members
        assert any(fault.fault == Fault.NOT_FINITE for end in others for fault in end.faults)
        vectors = [await end.trainer.vector() for end in others]
        np.testing.assert_allclose(np.mean(vectors, axis=0), mean([1, 2, 3]), atol=1e-6)


async def test_who_comes_late_settles_with_those_who_settle_anew(clock: MockClock) -> None:
    network = fabric()
    async with swarm(5, large=ALWAYS, network=network) as nodes:
        *first, late = nodes.members
        reached = message(network, first[0].network.me, 4)
        for end in first:
            nodes.settle(end, grace=5)
        with trio.fail_after(10):
            await reached.wait()
        nodes.settle(late)
        kill(nodes, network, 0)
        for settlement in await nodes.until_settled(nodes.members[1:]):
            assert (settlement.members, settlement.counted) == (4, 4)
        assert await far_from(mean(range(1, 5)), nodes.members[1:]) < 1e-6
