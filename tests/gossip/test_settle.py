"""After the last round all hold the exact mean; where somebody left, the others finish and say so."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from p2pnode.config import Finish
from p2pnode.events import ExchangeCompleted
from p2pnode.gossip.settle import Settlement, Settling, digest, distance, edges_of, sketch
from p2pnode.gossip.view import Stage
from p2pnode.learning.topology import LARGE
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.ports import PeerId
from p2pnode.trainer import inline
from p2pnode.wire import arrays
from tests.gossip.ends import CODECS, End, ends, key, learner, spread, vector

LATENCY = 0.05
BOUND = 120.0  # virtual seconds in which everybody is done, whatever one of them does


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric() -> MemoryFabric:
    return MemoryFabric(seed=2, link=Link(latency=LATENCY))


def settling(end: End, grace: float = 60.0, large: int = LARGE) -> Settling:
    return Settling(
        end.network.me,
        end.trainer,
        end.exchanger,
        end.membership,
        Finish(grace=grace),
        inline,
        large,
    )


class Swarm:
    """Running members, each in a scope of its own, and how their settling ended."""

    def __init__(
        self, network: MemoryFabric, members: list[End], nursery: trio.Nursery, large: int = LARGE
    ) -> None:
        self._large = large
        self.members = members
        self.ended: dict[PeerId, Settlement] = {}
        self._news = trio.Event()
        self._network = network
        self._nursery = nursery
        self._scopes: dict[PeerId, list[trio.CancelScope]] = {end.network.me: [] for end in members}
        for end in members:
            nursery.start_soon(self._scoped, end, end.membership.run)

    async def _scoped(self, end: End, work: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            self._scopes[end.network.me].append(scope)
            await work()

    def settle(self, end: End, grace: float = 60.0, *, leave: bool = False) -> None:
        async def work() -> None:
            self.ended[end.network.me] = await settling(end, grace, self._large).run()
            self._news.set()
            self._news = trio.Event()
            if leave:
                await end.membership.say_goodbye()
                self.kill(end)

        self._nursery.start_soon(self._scoped, end, work)

    def kill(self, end: End) -> None:
        for scope in self._scopes[end.network.me]:
            scope.cancel()
        if self._network.resident(end.network.me):
            self._network.kill(end.network.me)

    async def until_settled(self, members: Sequence[End]) -> list[Settlement]:
        with trio.fail_after(BOUND):
            while not all(end.network.me in self.ended for end in members):
                await self._news.wait()
        return [self.ended[end.network.me] for end in members]


@asynccontextmanager
async def swarm(
    n: int, codec: str = "float32", large: int = LARGE, network: MemoryFabric | None = None
) -> AsyncIterator[Swarm]:
    network = network or fabric()
    async with ends(network, n, codec) as members, trio.open_nursery() as nursery:
        yield Swarm(network, members, nursery, large)
        nursery.cancel_scope.cancel()


def mean(indices: Sequence[int]) -> np.ndarray:
    total: np.ndarray = np.mean([vector(index).astype(np.float64) for index in indices], axis=0)
    return total


async def far_from(target: np.ndarray, members: Sequence[End]) -> float:
    """Largest relative distance of a member's model to `target`."""
    models = [await end.trainer.vector() for end in members]
    distances = (float(np.linalg.norm(model - target) / np.linalg.norm(target)) for model in models)
    return max(distances, default=0.0)


@pytest.mark.parametrize("n", range(1, 9))
async def test_all_end_with_the_exact_mean(n: int, clock: MockClock) -> None:
    async with swarm(n) as nodes:
        for end in nodes.members:
            nodes.settle(end)
        for settlement in await nodes.until_settled(nodes.members):
            assert (settlement.members, settlement.counted) == (n, n)
            assert settlement.spread < 1e-6
        assert await far_from(mean(range(n)), nodes.members) < 1e-6
        assert spread([await end.trainer.vector() for end in nodes.members]) < 1e-6


@pytest.mark.parametrize("codec", CODECS)
async def test_settling_is_exact_whatever_the_codec_of_training(codec: str, clock: MockClock) -> None:
    async with swarm(5, codec) as nodes:
        for end in nodes.members:
            nodes.settle(end)
        await nodes.until_settled(nodes.members)
        assert await far_from(mean(range(5)), nodes.members) < 1e-6
        size = sum(map(arrays.size, learner("float32").payload))
        assert size == 4 * learner().size
        for end in nodes.members:
            exchanges = [event for event in end.events if isinstance(event, ExchangeCompleted)]
            assert {event.payload_bytes for event in exchanges} == {size}


async def test_everybody_ends_with_everybodys_sketch(clock: MockClock) -> None:
    async with swarm(4) as nodes:
        for delay, end in enumerate(nodes.members):
            nodes.settle(end)
            await trio.sleep(delay)
        await nodes.until_settled(nodes.members)
        for end in nodes.members:
            others = end.membership.view.all()
            assert len(others) == 3
            assert all(member.sketch and member.stage == Stage.SETTLED for member in others)


@pytest.mark.parametrize("n", [2, 5, 8])
async def test_when_one_dies_the_others_finish_and_say_what_they_have(n: int, clock: MockClock) -> None:
    """It dies at every moment of the schedule, in turn. The others leave as soon as they are done."""
    inexact = 0
    for moment in np.arange(0.2, 2.4, 0.3 if n == 5 else 0.6):
        async with swarm(n) as nodes:
            for end in nodes.members:
                nodes.settle(end, leave=True)
            await trio.sleep(float(moment))
            dead, *alive = nodes.members
            nodes.kill(dead)
            settlements = await nodes.until_settled(alive)
            alive.sort(key=lambda end: list(nodes.ended).index(end.network.me))
            models = [await end.trainer.vector() for end in alive]
            if spread(models) > 1e-5:
                inexact += 1
                assert any(settlement.counted < settlement.members for settlement in settlements)
            for index, end in enumerate(alive):
                settlement = nodes.ended[end.network.me]
                assert settlement.counted <= settlement.members <= n
                # Who has left before told it how it ended.
                assert await far_from(models[index], alive[:index]) <= 2 * settlement.spread + 1e-6
            assert not any(end.exchanger.slot.busy for end in alive)
    assert inexact or n == 2


async def test_a_slow_node_within_grace_is_waited_for(clock: MockClock) -> None:
    async with swarm(3) as nodes:
        *quick, slow = nodes.members
        for end in quick:
            nodes.settle(end)
        await trio.sleep(40)
        assert not nodes.ended
        nodes.settle(slow)
        for settlement in await nodes.until_settled(nodes.members):
            assert (settlement.members, settlement.counted) == (3, 3)
        assert await far_from(mean(range(3)), nodes.members) < 1e-6


async def test_past_grace_a_slow_node_is_left_out_and_ends_by_itself(clock: MockClock) -> None:
    async with swarm(3) as nodes:
        *quick, slow = nodes.members
        for end in quick:
            nodes.settle(end, grace=30)
        for settlement in await nodes.until_settled(quick):
            assert (settlement.members, settlement.counted) == (2, 2)
        assert await far_from(mean(range(2)), quick) < 1e-6
        nodes.settle(slow)
        (settlement,) = await nodes.until_settled([slow])
        assert (settlement.members, settlement.counted) == (1, 1)
        assert await far_from(vector(2), [slow]) == 0


async def test_a_node_that_says_it_is_done_and_then_freezes_holds_nobody_for_good(clock: MockClock) -> None:
    async with swarm(4) as nodes:
        frozen, *others = nodes.members
        frozen.membership.standing.stage = Stage.DONE  # and it never proposes a list
        for end in others:
            nodes.settle(end)
        for settlement in await nodes.until_settled(others):
            assert (settlement.members, settlement.counted) == (3, 3)
            assert settlement.spread < 1e-6
        assert await far_from(mean(range(1, 4)), others) < 1e-6


async def test_a_node_alone_settles_with_itself_at_once(clock: MockClock) -> None:
    async with swarm(1) as nodes:
        nodes.settle(nodes.members[0])
        assert await nodes.until_settled(nodes.members) == [Settlement(1, 1, 0.0)]
        assert trio.current_time() < 1


def test_the_schedule_has_every_edge_at_both_of_its_ends() -> None:
    for n in range(1, 20):
        members = [PeerId(f"{index:02}") for index in range(n)]
        edges = {me: list(edges_of(me, members)) for me in members}
        for me in members:
            for step, partner, weight in edges[me]:
                assert (step, me, weight) in edges[partner]
                assert partner != me


def test_a_member_list_has_one_digest() -> None:
    peers = sorted(key(index).peer for index in range(3))
    assert digest(peers) == digest(list(peers))
    assert len({digest(peers[:count]) for count in range(4)}) == 4


def test_sketches_keep_relative_distances() -> None:
    random = np.random.default_rng(0)
    ratios = []
    for far in (1e-4, 1e-2, 1.0):
        for trial in range(200):
            one = random.normal(size=5000).astype(np.float32)
            other = one + far * random.normal(size=5000).astype(np.float32)
            seed = bytes([trial]) * 32
            told = distance(sketch(one, seed).tobytes(), sketch(other, seed).tobytes())
            ratios.append(told / far)
    # The root of Fisher's F(16, 16): one time in ten below 1 / 1.53 or above 1.53.
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert low == pytest.approx(1 / 1.53, rel=0.1)
    assert middle == pytest.approx(1, rel=0.05)
    assert high == pytest.approx(1.53, rel=0.1)


def test_equal_models_have_equal_sketches_and_distance_0() -> None:
    model = sketch(vector(1), bytes(32))
    assert model.dtype == np.float32 and model.nbytes == 64
    assert distance(model.tobytes(), sketch(vector(1), bytes(32)).tobytes()) == 0
    assert distance(bytes(64), bytes(64)) == 0
