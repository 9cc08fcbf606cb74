"""What it costs to start many nodes on this machine, and how soon they have learned.

A cluster for each size, one after the other, in several turns, so that what else the machine does falls
on all alike; the first turn, which fills the cache of compiled programs, is not counted. Of the CPU
until a node says that it is ready each process writes down its own; memory is the proportional set
size of all processes (pages that several share are counted once), when every node has finished a
round.

It holds when sixteen nodes cost at most 1.5 times the CPU of four until they are ready, and at most
80 MB each and 400 MB beside.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from p2pnode.cli.manifest import make_manifest
from p2pnode.cluster import LocalCluster, child, launcher
from p2pnode.cluster.node import Assignment
from p2pnode.events import NodeReady
from p2pnode.observe.stream import Stamped, Subscriber

BODY = "bench_cluster:run"
GOAL = 0.95
ROUNDS = 1000  # more than it takes
KB_MB = 1024 / 1e6

SMALL, LARGE = 4, 16
MOST_CPU = 1.5
MOST_MB = (400, 80)  # beside the nodes, and for each


@dataclass(frozen=True)
class Figures:
    """Of one cluster.

    Attributes:
        nodes: how many.
        ready_s: seconds from the start of its owner's process to the last node's `NodeReady`.
        ready_cpu_s: CPU-seconds until then, of all processes.
        node_cpu_ms: CPU-milliseconds of a node until then, the mean.
        memory_mb: proportional set size of all processes.
        target_s: seconds until every node has an accuracy of .95 on the test set.
        total_cpu_s: CPU-seconds until then, of all processes.
    """

    nodes: int
    ready_s: float
    ready_cpu_s: float
    node_cpu_ms: float
    memory_mb: float
    target_s: float
    total_cpu_s: float


def run(channel: socket.socket) -> None:
    """What a node's process does: the usual, and when it is ready it tells what that has cost."""
    live = child.live

    def measured(assignment: Assignment, tell: Subscriber) -> None:
        def told(stamped: Stamped) -> None:
            if isinstance(stamped.event, NodeReady):
                (assignment.folder / "cpu").write_text(str(time.process_time()))
            tell(stamped)

        live(assignment, told)

    child.live = measured
    child.run(channel)


def measure(nodes: int, began: float) -> Figures:
    """Start a cluster in this process, which `began` when the monotonic clock said so, and let it learn."""
    launcher.BODY = BODY
    manifest = make_manifest("bench", "digits", {"seed": 0, "rounds": ROUNDS})
    with LocalCluster(manifest, nodes=nodes).sync(live=False) as cluster:
        ready, own = time.monotonic() - began, time.process_time()
        processes = [node.pid or 0 for node in cluster]
        server = int(Path(f"/proc/{processes[0]}/stat").read_text().rpartition(")")[2].split()[1])
        served = cpu(server)
        started = [float((node.data_dir / "cpu").read_text()) for node in cluster]
        cluster.wait_for(round=1)
        memory = sum(map(shared, [os.getpid(), server, *processes]))
        cluster.wait_for(accuracy=GOAL)
        target = time.monotonic() - began
        total = sum(map(cpu, [os.getpid(), server, *processes]))
    cost = own + served + sum(started)
    return Figures(nodes, ready, cost, 1e3 * statistics.mean(started), memory, target, total)


def cpu(process: int) -> float:
    """CPU-seconds of a process, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shared(process: int) -> float:
    """Proportional set size, MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * KB_MB for line in lines if line.startswith("Pss:"))


def apart(nodes: int) -> Figures:
    """`measure` in a process of its own, whose imports count."""
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, __file__, "--one", str(nodes), str(time.monotonic())],
        stdout=subprocess.PIPE,
        check=True,
    )
    return Figures(**json.loads(done.stdout))


def middle(turns: list[Figures]) -> Figures:
    """The median of each figure."""
    columns = zip(*(asdict(turn).values() for turn in turns), strict=True)
    return Figures(*map(statistics.median, columns))


def held(found: dict[int, Figures]) -> bool | None:
    """Whether the bounds hold; None when the sizes that they are about were not measured."""
    if not {SMALL, LARGE} <= found.keys():
        return None
    small, large = found[SMALL], found[LARGE]
    return (
        large.ready_cpu_s <= MOST_CPU * small.ready_cpu_s
        and large.memory_mb <= MOST_MB[0] + MOST_MB[1] * LARGE
    )


@click.command()
@click.option("--nodes", multiple=True, type=int, default=(SMALL, LARGE), show_default=True)
@click.option("--turns", default=5, show_default=True, help="Clusters of each size; medians are shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
@click.option("--one", type=(int, float), hidden=True)
def main(nodes: tuple[int, ...], turns: int, as_json: bool, one: tuple[int, float] | None) -> None:
    """Start clusters of several sizes, and say what that has cost."""
    if one is not None:
        click.echo(json.dumps(asdict(measure(*one))))
        return
    for size in nodes:
        apart(size)
    taken: dict[int, list[Figures]] = {size: [] for size in nodes}
    for turn in range(turns):
        for size in nodes:
            taken[size].append(apart(size))
            click.echo(f"turn {turn + 1} of {turns}: {taken[size][-1]}", err=True)
    found = {size: middle(figures) for size, figures in taken.items()}
    names = list(Figures.__dataclass_fields__)
    click.echo("  ".join(f"{name:>12}" for name in names))
    for figures in found.values():
        click.echo("  ".join(f"{value:>12.4g}" for value in asdict(figures).values()))
    if as_json:
        click.echo(json.dumps({"held": held(found), "clusters": [asdict(one) for one in found.values()]}))
    if held(found) is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
