"""What it costs to start nodes, until all of them have averaged with somebody.

Two nodes, each a process of its own, and more as a `LocalCluster`, whose processes are forks of one that
has imported everything. Each start is measured from outside; the first of each, which fills the cache
of compiled programs, does not count.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from p2pnode.bench.launch import nodes, running
from p2pnode.bench.process import began, cpu, now, parent
from p2pnode.bench.stream import Spread, spread
from p2pnode.config import Config
from p2pnode.identity.manifest import Manifest, load_manifest

PAIR, MANY = 2, 8


@dataclass(frozen=True)
class Start:
    """One start.

    Attributes:
        seconds: until the last node had averaged.
        imports: seconds of these until all modules were imported, interpreter start included.
        cpu: CPU-seconds of all processes until the last node had averaged.
        imports_cpu: CPU-seconds of these for imports.
    """

    seconds: float
    imports: float
    cpu: float
    imports_cpu: float


@dataclass(frozen=True)
class Starts:
    """What the starts of so many nodes came to: the figures of `Start`, and the seconds without imports."""

    nodes: int
    seconds: Spread
    imports: Spread
    rest: Spread
    cpu: Spread
    imports_cpu: Spread


def run(manifest: Path, turns: int, tell: Callable[[int, int], None]) -> list[Starts]:
    """Start each number of nodes in each of so many turns.

    Args:
        manifest: its file. Its rounds should last longer than a start.
        turns: at least one.
        tell: is called before each start with the number of its turn, 0 for the one that does not
            count, and of the nodes.

    Raises:
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    ways: dict[int, Callable[[], Start]] = {
        PAIR: lambda: pair(load_manifest(manifest)),
        MANY: lambda: apart(manifest, MANY),
    }
    found: dict[int, list[Start]] = {count: [] for count in ways}
    for turn in range(turns + 1):
        for count, measure in ways.items():
            tell(turn, count)
            found[count].append(measure())
    return [summary(count, starts[1:]) for count, starts in found.items()]


def summary(count: int, starts: Sequence[Start]) -> Starts:
    """What several starts came to."""
    seconds, imports, used, imports_cpu = map(spread, zip(*map(astuple, starts), strict=True))
    rest = spread([start.seconds - start.imports for start in starts])
    return Starts(count, seconds, imports, rest, used, imports_cpu)


def pair(manifest: Manifest) -> Start:
    """Start two nodes that import for themselves."""
    with tempfile.TemporaryDirectory() as folder:
        zero = now()
        with nodes(Path(folder), manifest, [Config()] * PAIR) as both:
            imports_cpu = sum(node.wait_imported() for node in both)
            imports = now() - zero
            for node in both:
                node.wait_for("ExchangeCompleted")
            return Start(now() - zero, imports, sum(cpu(node.pid) for node in both), imports_cpu)


def apart(manifest: Path, count: int) -> Start:
    """Start a cluster in a process of its own, whose imports count."""
    with running("-m", "p2pnode.bench.start", str(manifest), str(count), str(now())) as cluster:
        return Start(**json.loads(cluster.line()))


def clustered(manifest: Path, count: int, zero: float) -> Start:
    """Start a cluster in this process, which was started itself at `zero`."""
    from p2pnode.cluster import LocalCluster  # noqa: PLC0415 - to be measured
    from p2pnode.events import ExchangeCompleted  # noqa: PLC0415

    own = cpu(os.getpid())
    with LocalCluster(manifest, count).sync(live=False) as cluster:
        processes = [node.pid or 0 for node in cluster]
        server = parent(processes[0])
        imports = min(map(began, processes)) - zero
        cluster.wait_for(event=ExchangeCompleted)
        used = sum(map(cpu, [os.getpid(), server, *processes]))
        return Start(now() - zero, imports, used, own + cpu(server))


if __name__ == "__main__":
    name, number, since = sys.argv[1:]
    sys.stdout.write(json.dumps(vars(clustered(Path(name), int(number), float(since)))) + "\n")
    sys.stdout.flush()
