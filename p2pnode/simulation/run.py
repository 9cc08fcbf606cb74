"""One run of a simulated swarm, from its rows to what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from p2pnode.identity.manifest import (
    VERSION,
    Admission,
    Bounds,
    Hints,
    Manifest,
    RuleSpec,
    TaskSpec,
    Training,
)
from p2pnode.learning import registry
from p2pnode.learning.data import Dataset, Part
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.schedule import Schedule, survived
from p2pnode.learning.topology.settling import by_halving, costs
from p2pnode.learning.topology.table import scheduled
from p2pnode.simulation.links import Links
from p2pnode.simulation.rows import Rows, deal
from p2pnode.simulation.scenario import NOBODY, NODES, POOLED, SERVER, WEIGHTED_SERVER, Run, Scenario
from p2pnode.simulation.swarm import Engine, Swarm, Ticks, spread
from p2pnode.simulation.timeline import Play, Timeline, in_step

OVERHEAD = 470
"""Bytes that a node sends in an exchange besides its snapshot (messages, stream, encryption), at most.
Counted at the sockets of two nodes over 340 exchanges and more: 390 to 461, hellos included."""

LONGEST_CHUNK = 10  # local steps, as on a node

JUDGED = 64
"""Nodes evaluated at each look at most; all of them in the end."""


class Trial(NamedTuple):
    """What is run: one line of the results."""

    run: Run
    rate: float
    seed: int


def recipe_of(scenario: Scenario, run: Run) -> Recipe:
    """What its nodes compute.

    Raises:
        UserError: a name or an option that nobody knows.
    """
    settings = registry.defaults(scenario.task, run.rule)
    manifest = Manifest(
        version=VERSION,
        name=scenario.name,
        task=TaskSpec(scenario.task, {**settings["task_options"], **scenario.task_options}),
        rule=RuleSpec(run.rule, run.codec, {**settings["rule_options"], **run.rule_options}),
        training=Training(
            seed=0,
            optimizer=scenario.optimizer,
            learning_rate=0.1,  # an argument of the engine's functions
            batch_size=scenario.batch_size,
            steps=run.steps,
            rounds=max(1, scenario.local_steps // run.steps),
            overlap=run.overlap,
        ),
        admission=Admission(),
        bounds=Bounds(parameters=2**30, peers=64),
        author="",
        hints=Hints(),
    )
    return registry.recipe(manifest, simulated=True)


class Study:
    """A scenario's runs. What they share is made once: rows, compiled programs."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._rows = lru_cache(maxsize=4)(self._deal)
        self._engine: tuple[str, Engine] | None = None  # of the last run: its programs are large

    def carry_out(self, trial: Trial, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Run it.

        Args:
            trial: which one.
            progress: told how many of how many looks are done.

        Returns:
            Its points and its end, in values of JSON; see `Study.look`.
        """
        run, rate, seed = trial
        engine, rows = self._build(run), self._rows(run.topology == POOLED, seed)
        n = len(rows.parts.count)
        timeline = self.timeline(run, engine, rows, seed)
        pool = jax.tree.map(jnp.asarray, rows.parts.pool)
        data = Part(pool, spread(rows.parts.rows, n), spread(rows.parts.count, n))
        node_seeds = np.random.default_rng([seed, 2]).integers(0, 2**32, n, np.uint32)
        swarm = spread(engine.start(rate, seed, node_seeds), n)
        points = []
        for done, (ticks, mark) in enumerate(timeline.segments(), 1):
            swarm = engine.advance(rate, swarm, data, Ticks(*(spread(a, n, ticks=True) for a in ticks)))
            sent = self._bytes(run, engine, mark.exchanges)
            point = {"round": mark.rounds, "seconds": mark.seconds, "bytes": sent}
            points.append(point | self.look(engine, rate, swarm, rows.test))
            progress(done, len(timeline.marks) - 1)
        end = self.end(engine, rate, swarm, rows, settle=run.topology != NOBODY)
        end["bytes"] = points[-1]["bytes"] + (
            settle_bytes(n, engine.recipe.layout.size) if meets(run) else 0.0
        )
        return {
            "run": asdict(run),
            "label": run.label,
            "rate": rate,
            "seed": seed,
            "points": points,
            "end": end,
        }

    def look(self, engine: Engine, rate: float, swarm: Swarm, test: Dataset) -> dict[str, Any]:
        """The nodes' models as they are: each metric's mean and worst over nodes, and their distance.

        The distance is the root mean square of the nodes' from their mean, relative to its length.
        """
        vectors = engine.views(rate, swarm)
        mean = jnp.mean(vectors, axis=0)
        distance = jnp.sqrt(jnp.mean(jnp.sum((vectors - mean[None]) ** 2, axis=1))) / jnp.linalg.norm(mean)
        chosen = np.unique(np.linspace(0, len(vectors) - 1, JUDGED).round().astype(int))
        found = engine.judge(vectors[chosen], _of(swarm.states.private, chosen), test)
        point: dict[str, Any] = {"distance": float(distance)}
        for name, values in found.items():
            point[name] = float(values.mean())
            point[f"worst_{name}"] = float(values.max() if name == "loss" else values.min())
        return point

    def end(self, engine: Engine, rate: float, swarm: Swarm, rows: Rows, settle: bool) -> dict[str, Any]:
        """The metrics of what nodes have in the end, each client's on its own rows too.

        That is the mean of all models if they `settle`; else each has its own, and metrics are their means.
        """
        vectors, private = engine.views(rate, swarm), swarm.states.private
        if settle:
            vectors, private = jnp.mean(vectors, axis=0)[None], _of(private, np.arange(1))

        def judged(data: Dataset, node: int | None = None) -> dict[str, float]:
            one = np.arange(len(vectors)) if node is None else np.array([node % len(vectors)])
            found = engine.judge(vectors[one], _of(private, one), data)
            return {name: float(values.mean()) for name, values in found.items()}

        found: dict[str, Any] = {
            "test": judged(rows.test),
            "validation": judged(rows.validation) if len(rows.validation.y) else {},
        }
        if rows.own:
            found["clients"] = [judged(own, node) for node, own in enumerate(rows.own)]
        return found

    def timeline(self, run: Run, engine: Engine, rows: Rows, seed: int) -> Timeline:
        """What happens when."""
        scenario, n = self.scenario, len(rows.parts.count)
        rounds = max(1, scenario.local_steps // run.steps)
        every = max(1, rounds // scenario.looks)
        links = links_of(scenario, n, seed)
        if run.topology == NODES:
            return Play(
                n=n,
                links=links,
                rounds=rounds,
                chunks=run.steps // engine.chunk,
                chunk=engine.chunk,
                overlap=run.overlap,
                payload=engine.payload_bytes,
                every=every,
                away=scenario.clock.away,
                seed=seed,
            ).timeline()
        alive = np.random.default_rng([seed, 4]).random((rounds, n)) >= scenario.clock.away
        schedule = schedule_of(scenario, run, rows, alive, seed)
        return in_step(schedule, alive, links, run.steps, engine.payload_bytes, every, engine.server)

    def _bytes(self, run: Run, engine: Engine, exchanges: float) -> float:
        ways = 2 if run.topology in (SERVER, WEIGHTED_SERVER) else 1  # up, and down again
        return ways * exchanges * (engine.payload_bytes + OVERHEAD)

    def _deal(self, pooled: bool, seed: int) -> Rows:
        task = recipe_of(self.scenario, self.scenario.runs[0]).task
        return deal(self.scenario, task, 1 if pooled else self.scenario.nodes, seed)

    def _build(self, run: Run) -> Engine:
        if self._engine is not None and self._engine[0] == run.label:
            return self._engine[1]
        optimizer = registry.OPTIMIZERS[self.scenario.optimizer]
        chunk = run.steps
        if run.topology == NODES:
            chunk = max(length for length in range(1, LONGEST_CHUNK + 1) if run.steps % length == 0)
        server = run.topology in (SERVER, WEIGHTED_SERVER)
        self._engine = run.label, Engine(recipe_of(self.scenario, run), optimizer, chunk, server)
        return self._engine[1]


def meets(run: Run) -> bool:
    """Whether its nodes settle with each other in the end."""
    return run.topology not in (SERVER, WEIGHTED_SERVER, NOBODY, POOLED)


def settle_bytes(n: int, size: int) -> float:
    """Bytes that a node sends in the mean while n of them settle `size` float32 parameters as nodes do it."""
    way = "halving" if by_halving(n, 4 * size) else "base"
    [cost] = [cost for cost in costs(n, 4 * size) if cost.way == way]
    return cost.mean + cost.steps * OVERHEAD


def links_of(scenario: Scenario, n: int, seed: int) -> Links:
    """The scenario's network."""
    clock = scenario.clock
    step = clock.step * np.linspace(1.0, clock.speeds, n)
    step = np.random.default_rng([seed, 3]).permutation(step)
    return Links(step, clock.latency, clock.bandwidth, clock.slow, clock.factor, clock.drop, seed)


def schedule_of(
    scenario: Scenario, run: Run, rows: Rows, alive: npt.NDArray[np.bool_], seed: int
) -> Schedule:
    """Who meets whom in each round, without those not `alive`, bool[rounds, n], and those that lose all."""
    rounds, n = alive.shape
    if run.topology in (SERVER, WEIGHTED_SERVER, NOBODY, POOLED):
        weights = rows.parts.count if run.topology == WEIGHTED_SERVER else np.ones(n)
        meets = alive if run.topology in (SERVER, WEIGHTED_SERVER) else np.zeros_like(alive)
        return Schedule(
            np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (rounds, n, 1)),
            np.broadcast_to(weights[:, None].astype(np.float32), (rounds, n, 1)),
            meets[:, :, None],
        )
    made = scheduled(run.topology, n, rounds, seed, run.topology_options)
    lost = np.random.default_rng([seed, 5]).random((rounds, n)) < scenario.clock.drop
    return survived(made, alive & ~lost)


def _of(private: Mapping[str, jax.Array], chosen: Any) -> dict[str, jax.Array]:
    return {name: leaf[chosen] for name, leaf in private.items()}
