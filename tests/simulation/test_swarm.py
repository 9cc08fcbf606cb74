"""The simulated swarm does what nodes do: the same numbers from the same functions."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trio.testing import MockClock

from p2pnode.gossip.exchange import Result
from p2pnode.identity.manifest import Manifest, RuleSpec
from p2pnode.learning import registry
from p2pnode.learning.data import Part
from p2pnode.learning.schedule import averaged
from p2pnode.learning.topology.table import scheduled
from p2pnode.net.memory import MemoryFabric
from p2pnode.simulation import swarm as swarm_module
from p2pnode.simulation.links import Links
from p2pnode.simulation.swarm import Engine, Swarm, Ticks
from p2pnode.simulation.timeline import in_step
from p2pnode.trainer import Trainer, inline
from tests.gossip.ends import ends, manifest, pool, rows

N, STEPS, ROUNDS, RATE = 4, 3, 5, 0.1
FREE = Links(np.zeros(N), 0.0, 1e12, 0.0, 1.0, 0.0, 0)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def described(rule: str, codec: str) -> Manifest:
    made = manifest(codec, rule, learning_rate=RATE, steps=STEPS)
    return replace(made, rule=RuleSpec(rule, codec, registry.defaults("digits", rule)["rule_options"]))


def parts() -> Part:
    """The rows that `ends.rows` gives each node, as parts of the pool."""
    own = [np.random.default_rng(index).permutation(len(pool().y))[:64] for index in range(N)]
    return Part(pool(), np.array(own, np.int32), np.full(N, 64, np.uint32))


def simulated(made: Manifest, schedule: Any) -> np.ndarray:
    engine = Engine(registry.recipe(made), registry.OPTIMIZERS["sgd"], STEPS)
    swarm = engine.start(RATE, made.training.seed, np.arange(N, dtype=np.uint32))
    data = jax.tree.map(jnp.asarray, parts())
    ticks = in_step(schedule, np.ones((ROUNDS, N), bool), FREE, STEPS, 1, ROUNDS).ticks
    return np.asarray(engine.advance(RATE, swarm, data, jax.tree.map(jnp.asarray, ticks)).states.params)


@pytest.mark.parametrize("rule", ["average", "momentum"])
@pytest.mark.parametrize("codec", ["float32", "int8"])
async def test_simulated_nodes_and_real_ones_reach_the_same_parameters(
    rule: str, codec: str, clock: MockClock
) -> None:
    made = described(rule, codec)
    learner = registry.build(made)
    schedule = scheduled("matching", N, ROUNDS, 3, {})
    trainers = [Trainer(learner, rows(index), {}, inline, inline, index, 0) for index in range(N)]
    async with ends(MemoryFabric(seed=1), N, trainers=trainers) as members:
        for round in range(ROUNDS):
            for trainer in trainers:
                await trainer.steps(STEPS)
                await trainer.end_round()
            for one, other in enumerate(schedule.partners[round, :, 0]):
                if one < other:
                    assert await members[one].exchanger.offer(members[other].member()) is Result.COMPLETED
                    if members[other].exchanger.slot.busy:
                        await members[other].exchanger.slot.free.wait()
        # A node calls it round 1 after its first steps, the schedule round 0: no rule here looks at that.
        real = np.stack([await trainer.vector() for trainer in trainers])
    np.testing.assert_allclose(simulated(made, schedule), real, atol=1e-5)


def test_without_steps_every_topology_averages_as_its_schedule_says() -> None:
    made = described("average", "float32")
    engine = Engine(registry.recipe(made), registry.OPTIMIZERS["sgd"], 1)
    swarm = engine.start(RATE, 0, np.arange(N, dtype=np.uint32))
    values = np.random.default_rng(0).normal(size=swarm.states.params.shape).astype(np.float32)
    for name in ("base", "ring", "random-regular", "push"):
        options = {"degree": 2} if name == "random-regular" else {}
        schedule = scheduled(name, N, 3, 0, options)
        ticks = in_step(schedule, np.ones((3, N), bool), FREE, 1, 1, 3).ticks
        idle = Ticks(np.zeros_like(ticks.steps), np.zeros_like(ticks.ends), *ticks[2:])
        begun = engine.start(RATE, 0, np.arange(N, dtype=np.uint32))
        begun = begun._replace(states=begun.states._replace(params=jnp.asarray(values)))
        after = engine.advance(
            RATE, begun, jax.tree.map(jnp.asarray, parts()), jax.tree.map(jnp.asarray, idle)
        )
        np.testing.assert_allclose(after.states.params, averaged(schedule, values), atol=1e-5)


def test_a_server_gives_everybody_the_weighted_mean() -> None:
    made = described("average", "float32")
    engine = Engine(registry.recipe(made), registry.OPTIMIZERS["sgd"], 1, server=True)
    swarm = engine.start(RATE, 0, np.arange(N, dtype=np.uint32))
    values = np.random.default_rng(0).normal(size=swarm.states.params.shape).astype(np.float32)
    swarm = swarm._replace(states=swarm.states._replace(params=jnp.asarray(values)))
    weights, there = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 0.0, 1.0])
    none, all_of = np.zeros((1, N), bool), np.ones((1, N), bool)
    own = np.arange(N, dtype=np.int32)[None, :, None]
    ticks = Ticks(
        none, none, all_of, np.zeros((1, N), np.int32), own, weights[None, :, None], there[None, :, None]
    )
    after = engine.advance(RATE, swarm, jax.tree.map(jnp.asarray, parts()), jax.tree.map(jnp.asarray, ticks))
    mean = np.average(values, axis=0, weights=weights * there)
    np.testing.assert_allclose(np.asarray(after.states.params)[[0, 1, 3]], np.stack([mean] * 3), atol=1e-5)
    np.testing.assert_array_equal(after.states.params[2], values[2])


def test_who_takes_no_part_in_a_tick_stays_as_it_was() -> None:
    made = described("momentum", "int8")
    engine = Engine(registry.recipe(made), registry.OPTIMIZERS["sgd"], 2)
    swarm = engine.start(RATE, 0, np.arange(N, dtype=np.uint32))
    before = of(swarm, 1)
    only = np.array([[True, False, True, True]])
    ticks = Ticks(only, only, only, np.zeros((1, N), np.int32), *_nobody())
    after = engine.advance(RATE, swarm, jax.tree.map(jnp.asarray, parts()), jax.tree.map(jnp.asarray, ticks))
    jax.tree.map(np.testing.assert_array_equal, of(after, 1), before)
    assert not np.array_equal(after.states.params[0], after.states.params[1])


@pytest.mark.parametrize("block", [1, 3])
def test_nodes_learn_the_same_in_blocks_as_all_at_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = described("momentum", "int8")
    all_of = np.ones((1, N), bool)
    ticks = jax.tree.map(jnp.asarray, Ticks(all_of, all_of, all_of, np.zeros((1, N), np.int32), *_nobody()))

    def learned() -> np.ndarray:
        engine = Engine(registry.recipe(made), registry.OPTIMIZERS["sgd"], 2)
        swarm = engine.start(RATE, 0, np.arange(N, dtype=np.uint32))
        swarm = engine.advance(RATE, swarm, jax.tree.map(jnp.asarray, parts()), ticks)
        return np.asarray(swarm.states.params)

    at_once = learned()
    monkeypatch.setattr(swarm_module, "BLOCK", block)
    np.testing.assert_allclose(learned(), at_once, atol=1e-6)


def of(swarm: Swarm, node: int) -> Any:
    """A copy of one node's state, without its key."""
    state = swarm.states._asdict()
    del state["key"]
    return jax.tree.map(lambda leaf: np.array(leaf[node]), state)


def _nobody() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((1, N, 1), np.int32), np.full((1, N, 1), 0.5), np.zeros((1, N, 1))
