"""p2pnode beside hivemind: the same work, in turns, on this machine, over loopback.

hivemind needs an environment of its own, with PyTorch for the CPU (the one for GPUs takes longer to import):

    python3.11 -m venv ENV
    ENV/bin/pip install hivemind==1.1.12 torch==2.13.0    # where a choice is offered: torch==2.13.0+cpu
    scripts/bench_hivemind --hivemind ENV/bin/python --json

Work:

- pair: two peers average a vector; hivemind without compression, and in Float16.
- mean: eight peers find the exact mean of their vectors.
- small: two peers average a model of 4,810 parameters, many times.
- start: from two processes that start to their first average of a small model.
- idle: peers that know each other, and do nothing.

hivemind runs at its best settings: groups as large as the number of peers, which start at once when complete,
parts of two megabytes, and for two peers its own times for finding a group (with shorter ones they sometimes
never do; with eight it is the other way round). Finding the group, which is no part of moving bytes, is timed
by itself; then all start to average at a common word. A first round warms up; in a last one, not timed,
memory is watched.

In each turn hivemind's processes come, work and end, and then p2pnode's. Ratios are taken within turns. It
holds when their medians stay below MOST.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import click
from hivemind_swarm import SMALL, Swarm, Work

MOST = {
    ("pair", "direct float32"): {"cpu": 1 / 4, "seconds": 1 / 3},
    ("pair", "stream float32"): {"cpu": 1 / 2, "seconds": 2 / 3},
    ("mean", "float32"): {"cpu": 1 / 3, "seconds": 1 / 3},
    ("start", "2 nodes"): {"cpu": 0.6, "rest": 0.5},
    ("start 8", "8 nodes"): {"cpu": 0.6, "rest": 0.5},
}
"""By work and way: the most that p2pnode may take of what hivemind takes."""


class Spread(NamedTuple):
    """Of one figure."""

    median: float
    least: float
    most: float


TIMES = {"seconds": "middle", "p99": "slow"}

Figures = dict[str, Spread]
"""By name. Memory in bytes, of the peer that takes most; cpu in seconds, of all peers; rate in MB of float32
parameters, a second and peer."""


def averaging(python: str, work: Work) -> Figures:
    """Rounds of hivemind, one after the other."""
    with Swarm(python, work) as swarm:
        swarm.join()
        before = swarm.memory()
        swarm.average()
        rounds = [swarm.average() for _ in range(work.rounds)]
        peak = swarm.average(watch=True)["memory"]
    figures = {name: spread([one[name] for one in rounds]) for name in rounds[0]}
    seconds = [one["seconds"] for one in rounds]
    return figures | {
        "p99": spread([sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]]),
        "with_matching": spread([one["matching"] + one["seconds"] for one in rounds]),
        "rate": spread([4e-6 * work.parameters / each for each in seconds]),
        "idle_memory": spread([before]),
        "memory": spread([peak]),
    }


def start(python: str, work: Work) -> Figures:
    """From no process to the first average."""
    with Swarm(python, work) as swarm:
        imports = swarm.join()
        swarm.average()
        seconds, cpu = time.monotonic() - swarm.began, swarm.cpu()
    imported = max(one["imported"] for one in imports) - swarm.began
    return {
        "seconds": spread([seconds]),
        "imports": spread([imported]),
        "rest": spread([seconds - imported]),
        "cpu": spread([cpu]),
        "imports_cpu": spread([sum(one["imports_cpu"] for one in imports)]),
    }


def idle(python: str, work: Work, seconds: float) -> Figures:
    """What each of so many takes while nothing is to be done."""
    with Swarm(python, work) as swarm:
        swarm.join()
        time.sleep(5)  # what joining leaves to do is done
        began, spent = time.monotonic(), swarm.cpu()
        time.sleep(seconds)
        cores = (swarm.cpu() - spent) / (time.monotonic() - began)
        return {"percent": spread([100 * cores / work.peers]), "memory": spread([swarm.memory()])}


def spread(samples: Sequence[float]) -> Spread:
    """Of one turn's samples."""
    return Spread(statistics.median(samples), min(samples), max(samples))


def over(turns: Sequence[Spread]) -> Spread:
    """Of all turns."""
    medians, least, most = zip(*turns, strict=True)
    return Spread(statistics.median(medians), min(least), max(most))


def theirs(python: str, work: Work, seconds: float) -> dict[str, Figures]:
    """What hivemind does, by way; p2pnode is compared with the first."""
    if work.name.startswith("start"):
        return {"hivemind": start(python, work)}
    if work.name.startswith("idle"):
        return {"hivemind": idle(python, work, seconds)}
    found = {"hivemind float32": averaging(python, work)}
    if work.name == "pair":
        found["hivemind float16"] = averaging(python, replace(work, compression="Float16Compression"))
    return found


def ours(work: Work) -> dict[str, Figures]:
    """What p2pnode does, by way."""
    program = [sys.executable, "-m", "p2pnode", "bench", *work.bench, "--turns", "1", "--json"]
    done = subprocess.run(program, stdout=subprocess.PIPE, check=True)  # noqa: S603 - ourselves
    found = json.loads(done.stdout.splitlines()[-1])
    if work.name == "pair":
        return {f"{case['path']} {case['codec']}": figures(case) for case in found["cases"]}
    if work.name == "small":
        return {"p2pnode": {name: milliseconds(found["small"][key]) for name, key in TIMES.items()}}
    if work.name == "mean":
        [case] = found["cases"]
        return {"float32": figures(case)}
    if work.name.startswith("start"):
        return {f"{case['nodes']} nodes": figures(case) for case in found["starts"]}
    return {
        f"{case['kind']}, {case['peers']}": {
            "percent": spread([100 * case["load"]]),
            "memory": spread([case["memory"]]),
        }
        for case in found["idle"]
    }


def figures(case: Mapping[str, Any]) -> Figures:
    """Those of `p2pnode bench` that have a median."""
    return {name: Spread(**value) for name, value in case.items() if isinstance(value, dict)}


def milliseconds(value: Mapping[str, float]) -> Spread:
    """As seconds."""
    return Spread(**{name: one / 1e3 for name, one in value.items()})


def ratios(turns: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """Of each way of p2pnode to the first of hivemind, within turns."""
    first = next(iter(turns[0]))
    return {
        way: {
            name: spread([turn[way][name].median / turn[first][name].median for turn in turns])
            for name in figures
            if turns[0][first].get(name, (0,))[0]
        }
        for way, figures in turns[0].items()
        if not way.startswith("hivemind")
    }


def show(work: str, rows: dict[str, Figures], what: str = "", *, err: bool = False) -> None:
    """A part of the table."""
    for way, figures in rows.items():
        for name, one in figures.items():
            scale = 1e-6 if "memory" in name and not what else 1.0
            median, least, most = (f"{value * scale:,.4g}" for value in one)
            click.echo(f"{work:<8} {way:<17} {name:<14} {what}{median} ({least}-{most})", err=err)


def works(parameters: int, rounds: int) -> dict[str, Work]:
    """All there is to do, by name."""
    large, small = ("--parameters", str(parameters)), ("--parameters", "100000")
    every = (
        Work("pair", ("exchange", "--codec", "float32", *large), 2, parameters, rounds),
        Work("mean", ("mean", *large), 8, parameters, max(1, rounds * 3 // 5)),
        Work("small", ("exchange", "--codec", "float32", *small), rounds=100),
        Work("start", ("start",)),
        Work("start 8", ("start",), 8),
        Work("idle", ("idle",)),
        Work("idle 20", ("idle", "--peers", "20"), 20),
    )
    return {work.name: work for work in every}


NAMES = list(works(SMALL, 1))


@click.command()
@click.option("--hivemind", metavar="PYTHON", required=True, help="A Python that has hivemind.")
@click.option("--work", "names", multiple=True, type=click.Choice(NAMES), help="What to do.  [default: all]")
@click.option("--turns", default=5, show_default=True, help="Of each system; medians count.")
@click.option("--rounds", default=5, show_default=True, help="In a turn of hivemind with a pair; mean: 3/5.")
@click.option("--parameters", default=100_000_000, show_default=True, help="Of a large vector.")
@click.option("--seconds", default=30.0, show_default=True, help="To watch idle peers.")
@click.option("--alone", is_flag=True, help="Measure hivemind only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
def main(
    hivemind: str,
    names: Sequence[str],
    turns: int,
    rounds: int,
    parameters: int,
    seconds: float,
    alone: bool,
    as_json: bool,
) -> None:
    """Measure, and say whether it holds."""
    chosen = [work for name, work in works(parameters, rounds).items() if name in (names or NAMES)]
    taken: dict[str, list[dict[str, Figures]]] = {work.name: [] for work in chosen}
    for turn in range(turns):
        for work in chosen:
            found = theirs(hivemind, work, seconds) | ({} if alone else ours(work))
            taken[work.name].append(found)
            click.echo(f"turn {turn + 1} of {turns}, load {os.getloadavg()[0]:.1f}", err=True)
            show(work.name, found, err=True)
    held, result = True, {}
    for name, found in taken.items():
        measured = {
            way: {n: over([turn[way][n] for turn in found]) for n in found[0][way]} for way in found[0]
        }
        compared = ratios(found)
        show(name, measured)
        show(name, compared, "of hivemind's: ")
        for (bounded, way), most in ({} if alone else MOST).items():
            if bounded == name:
                held = held and all(compared[way][figure].median <= limit for figure, limit in most.items())
        result[name] = {"figures": measured, "ratios": compared}
    if as_json:
        click.echo(json.dumps({"held": held, "works": result}))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
