"""How fast the simulator is, how its cost grows with the nodes, and how much memory many take.

All with digits and a model of 4,810 parameters, batches of 16, momentum in int8 over random pairs, ten
local steps a round. Each size runs in a process of its own, one after the other, in several turns.
With `--gossipy` the same work is done by gossipy's simulator as well: see gossipy_steps.py.

It holds when 256 nodes take 100,000 steps a second together, and 10,000 nodes take 100 rounds in 8 GB.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from gossipy_steps import BATCH, HIDDEN, ROWS, STEPS

from p2pnode.learning import registry
from p2pnode.learning.data import Part
from p2pnode.learning.topology.table import scheduled
from p2pnode.simulation.links import Links
from p2pnode.simulation.run import recipe_of
from p2pnode.simulation.scenario import Run, Scenario
from p2pnode.simulation.swarm import Engine, spread
from p2pnode.simulation.timeline import in_step

SPEED, LEAST_SPEED = 256, 100_000.0
MANY, MOST_GB = 10_000, 8.0


@dataclass(frozen=True)
class Figures:
    """Of one swarm.

    Attributes:
        nodes: how many.
        rounds: that were timed, after as many to warm up.
        node_steps_s: local steps of all nodes in a second.
        cpu_ns: CPU-nanoseconds of a node's step, exchanges included.
        memory_gb: the most that the process has taken.
    """

    nodes: int
    rounds: int
    node_steps_s: float
    cpu_ns: float
    memory_gb: float


def measure(nodes: int, rounds: int) -> Figures:
    """Simulate so many rounds, twice, and time the second time."""
    run = Run(codec="int8", steps=STEPS)
    task = {"hidden": HIDDEN}
    scenario = Scenario("bench", "digits", nodes, STEPS * rounds, batch_size=BATCH, task_options=task)
    recipe = recipe_of(scenario, run)
    engine = Engine(recipe, registry.OPTIMIZERS["sgd"], STEPS)
    pool, _ = recipe.task.load()
    rows = np.random.default_rng(0).integers(0, len(pool.y), (nodes, ROWS), np.int32)
    count = np.full(nodes, ROWS, np.uint32)
    data = Part(jax.tree.map(jnp.asarray, pool), spread(rows, nodes), spread(count, nodes))
    schedule, alive = scheduled("pairs", nodes, rounds, 0, {}), np.ones((rounds, nodes), bool)
    links = Links(np.zeros(nodes), 0.0, 1e12, 0.0, 1.0, 0.0, 0)
    ticks = spread(in_step(schedule, alive, links, STEPS, 1, rounds).ticks, nodes, ticks=True)
    swarm = spread(engine.start(0.1, 0, np.arange(nodes, dtype=np.uint32)), nodes)
    swarm = jax.block_until_ready(engine.advance(0.1, swarm, data, ticks))
    began, spent = time.perf_counter(), time.process_time()
    jax.block_until_ready(engine.advance(0.1, swarm, data, ticks))
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    work = nodes * rounds * STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Figures(nodes, rounds, work / seconds, 1e9 * cpu / work, peak)


def apart(nodes: int, rounds: int) -> Figures:
    """`measure` in a process of its own, with a device for each core."""
    flags = f"--xla_force_host_platform_device_count={os.cpu_count() or 1}"
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, __file__, "--one", str(nodes), str(rounds)],
        stdout=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )
    return Figures(**json.loads(done.stdout))


def gossipy_speed(python: str) -> float:
    """Local steps of all nodes in a second with gossipy, which that Python has."""
    program = [python, str(Path(__file__).with_name("gossipy_steps.py")), str(SPEED), "3"]
    done = subprocess.run(program, stdout=subprocess.PIPE, check=True)  # noqa: S603 - the person's own Python
    return float(done.stdout.splitlines()[-1])


@click.command()
@click.option("--turns", default=5, show_default=True, help="Of each size but the largest; medians count.")
@click.option("--gossipy", metavar="PYTHON", help="A Python that has gossipy-dfl, to be measured as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
@click.option("--one", type=(int, int), hidden=True)
def main(turns: int, gossipy: str | None, as_json: bool, one: tuple[int, int] | None) -> None:
    """Measure, and say whether it holds."""
    if one is not None:
        click.echo(json.dumps(asdict(measure(*one))))
        return
    sizes = {64: 400, SPEED: 100, 1024: 25}
    taken: dict[int, list[Figures]] = {size: [] for size in sizes}
    for turn in range(turns):
        for size, rounds in sizes.items():
            taken[size].append(apart(size, rounds))
            click.echo(f"turn {turn + 1} of {turns}: {taken[size][-1]}", err=True)
    found = [
        Figures(*map(statistics.median, zip(*(asdict(f).values() for f in figures), strict=True)))
        for figures in taken.values()
    ]
    found.append(apart(MANY, 100))
    names = list(Figures.__dataclass_fields__)
    click.echo("  ".join(f"{name:>14}" for name in names))
    for figures in found:
        click.echo("  ".join(f"{value:>14,.6g}" for value in asdict(figures).values()))
    theirs = None if gossipy is None else gossipy_speed(gossipy)
    if theirs is not None:
        click.echo(f"gossipy, {SPEED} nodes: {theirs:,.0f} node-steps a second")
    held = found[1].node_steps_s >= LEAST_SPEED and found[-1].memory_gb <= MOST_GB
    if as_json:
        click.echo(json.dumps({"held": held, "swarms": [asdict(f) for f in found], "gossipy": theirs}))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
