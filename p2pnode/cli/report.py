"""What the demo shows in the end: the nodes together, alone, and with all data in one place."""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from p2pnode.cli.session import Shard, rows_of
from p2pnode.identity.manifest import Manifest
from p2pnode.learning import registry
from p2pnode.learning.baselines import train_alone
from p2pnode.node import Rows
from p2pnode.observe.stream import Stamped
from p2pnode.observe.tally import Tally

TARGET = 0.95
"""Accuracy on the common test set that every node is to reach."""


class Watch:
    """Follows several nodes' events."""

    def __init__(self, names: Sequence[str]) -> None:
        self.tallies = {name: Tally() for name in names}
        self.began = process_start()
        self.ready: float | None = None
        self.target: float | None = None
        self.bytes_to_target: int | None = None

    def __call__(self, name: str, stamped: Stamped) -> None:
        """Take in one event of the node called `name`."""
        self.tallies[name](stamped)
        tallies = self.tallies.values()
        if self.ready is None and all(tally.ready is not None and tally.peers for tally in tallies):
            self.ready = stamped.time
        if self.target is None and all(accuracy(tally) >= TARGET for tally in tallies):
            self.target = stamped.time
            self.bytes_to_target = sum(tally.bytes_sent for tally in tallies)

    def report(self, manifest: Manifest, shards: Sequence[Shard]) -> "Report":
        """Train the baselines and compare."""
        total = time.time() - self.began
        learner = registry.build(manifest)
        rows = [rows_of(shard)(manifest, learner.task) for shard in shards]
        test = {"test": rows[0].probes["test"]}
        pool = rows_of(Shard(0, 1))(manifest, learner.task)

        def alone(data: Rows, seed: int) -> float:
            training = manifest.training
            result = train_alone(learner, data.train, test, training.rounds, training.steps, seed)
            return result["test_accuracy"]

        return Report(self, manifest, [alone(one, i) for i, one in enumerate(rows)], alone(pool, 0), total)


@dataclass(frozen=True)
class Report:
    """The demo's result.

    Attributes:
        alone: test accuracy of each node without the others.
        pooled: test accuracy of one model trained on all rows, with as many steps as one node takes.
        total: seconds from process start until the last node had ended.
    """

    watch: Watch
    manifest: Manifest
    alone: Sequence[float]
    pooled: float
    total: float

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        tallies = list(self.watch.tallies.values())
        together = [tally.metrics.get("test_accuracy", 0.0) for tally in tallies]
        settled = [tally.settled.get("test_accuracy", 0.0) for tally in tallies]
        return {
            "nodes": len(tallies),
            "task": self.manifest.task.name,
            "seed": self.manifest.training.seed,
            "seconds": {
                "ready": since(self.watch.began, self.watch.ready),
                "target": since(self.watch.began, self.watch.target),
                "total": round(self.total, 3),
            },
            "cpu_seconds": round(cpu_seconds(), 3),
            "accuracy": {
                "mean": mean(together),
                "min": min(together),
                "settled_min": min(settled),
                "alone_mean": mean(self.alone),
                "pooled": self.pooled,
            },
            "bytes_sent": sum(tally.bytes_sent for tally in tallies),
            "bytes_to_target": self.watch.bytes_to_target,
            "exchanges": {
                "completed": sum(tally.exchanges.begun for tally in tallies),
                "declined": sum(tally.exchanges.declined for tally in tallies),
                "aborted": sum(tally.exchanges.aborted for tally in tallies),
                "unsettled": sum(tally.exchanges.unsettled for tally in tallies),
            },
            "rounds": [tally.round for tally in tallies],
            "spread": max(tally.spread for tally in tallies),
        }

    def table(self) -> Table:
        """For people."""
        drawn = Table(box=None, pad_edge=False, title="accuracy on the common test set", title_justify="left")
        for heading in ("node", "alone", "together", "settled", "pooled", "exchanges", "sent"):
            drawn.add_column(heading, justify="left" if heading == "node" else "right")
        for (name, tally), alone in zip(self.watch.tallies.items(), self.alone, strict=True):
            drawn.add_row(
                name,
                f"{alone:.3f}",
                f"{tally.metrics.get('test_accuracy', 0.0):.3f}",
                f"{tally.settled.get('test_accuracy', 0.0):.3f}",
                f"{self.pooled:.3f}",
                str(tally.exchanges.completed),
                decimal(tally.bytes_sent),
            )
        return drawn


def accuracy(tally: Tally) -> float:
    """The latest on the test set: of the settled model once there is one."""
    return (tally.settled or tally.metrics).get("test_accuracy", 0.0)


def since(began: float, moment: float | None) -> float | None:
    """Seconds between the two; None when the moment never came."""
    return None if moment is None else round(moment - began, 3)


def process_start() -> float:
    """When this process started, in seconds since the epoch; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def cpu_seconds() -> float:
    """Of this process and all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
