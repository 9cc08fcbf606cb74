"""Who joins late: it is soon as good as the others, and what it alone knows, they learn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from trio.testing import MockClock

from p2pnode.events import CaughtUp, RoundFinished, Settled
from p2pnode.identity.manifest import Manifest, TaskSpec
from p2pnode.learning import registry
from p2pnode.learning.data import take
from p2pnode.learning.learner import Learner
from p2pnode.learning.task import Task
from p2pnode.world import Rows
from tests.nodes import Cluster, Running, cluster, small_swarm

SEEDS = range(5)
ALL, NINE = range(10), 9

Load = Callable[[Manifest, Task], Rows]


@cache
def learner() -> Learner:
    built = registry.build(lesson(1))
    return replace(built, settle=cache(built.settle))


def lesson(rounds: int) -> Manifest:
    small = small_swarm(rounds)
    training = replace(small.training, learning_rate=0.2)
    return replace(small, task=TaskSpec("digits", {"hidden": 32}), training=training)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def holding(labels: Sequence[int], seed: int) -> Load:
    """A hundred rows with these labels, and tests on all and on nines."""

    def load(_: Manifest, task: Task) -> Rows:
        pool, test = task.load()
        mine = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(pool.y, labels)))[:100]
        return Rows(take(pool, mine), {"test": test, "nine": take(test, np.flatnonzero(test.y == NINE))})

    return load


def mean(nodes: list[Running], name: str) -> float:
    """Of the latest metrics of each."""
    return float(np.mean([node.of(RoundFinished)[-1].metrics[name] for node in nodes]))


async def beginning(swarm: Cluster, load: Callable[[int], Load]) -> list[Running]:
    """Four nodes that have trained for a while."""
    nodes = [await swarm.start(index, peers=3, rows=load(index), evaluate=1) for index in range(4)]
    for node in nodes:
        await node.until(RoundFinished, lambda event: event.round >= 40)
    return nodes


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("late joiner")
async def test_a_late_joiner_is_as_good_as_the_others_within_three_rounds(
    seed: int, clock: MockClock
) -> None:
    async with cluster(lesson(100), learner, seed=seed) as swarm:
        nodes = await beginning(swarm, lambda index: holding(ALL, 5 * seed + index))
        late = await swarm.start(4, rows=holding(ALL, 5 * seed + 4), evaluate=1)
        round = (await late.until(CaughtUp)).round
        soon = await late.until(RoundFinished, lambda event: event.round >= round + 3)
        assert soon.metrics["test_accuracy"] >= mean(nodes, "test_accuracy") - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("late joiner that alone holds a class")
async def test_what_a_late_joiner_alone_knows_the_others_learn(seed: int, clock: MockClock) -> None:
    async with cluster(lesson(200), learner, seed=seed) as swarm:
        nodes = await beginning(swarm, lambda index: holding(ALL[:NINE], 5 * seed + index))
        assert mean(nodes, "nine_accuracy") == 0
        late = await swarm.start(4, rows=holding([NINE], seed))
        await late.until(CaughtUp)
        assert (await nodes[0].until(Settled)).metrics["nine_accuracy"] > 0.2
