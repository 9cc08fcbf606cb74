"""What scripts are told of a run of several nodes."""

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from p2pnode.cluster.goal import accuracy
from p2pnode.observe.stream import Stamped
from p2pnode.observe.tally import Tally

TARGET = 0.95
"""Accuracy on the common test set that every node is to reach."""


class Watch:
    """Follows several nodes' events.

    Attributes:
        began: when this process started; like all moments in seconds since the epoch.
        ready: when all nodes were ready and had met somebody.
        target: when all had reached `TARGET`.
        ended: when the last process had ended, as `end` was told.
        bytes_to_target: sent by all until then.
    """

    def __init__(self, nodes: int) -> None:
        self.tallies = {f"node {index + 1}": Tally() for index in range(nodes)}
        self.began = process_start()
        self.ended: float | None = None
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

    def end(self, codes: Mapping[str, int]) -> None:
        """All processes have ended, with these exit codes.

        Raises:
            SystemExit: not all were good; it says which.
        """
        self.ended = time.time()
        if failed := [name for name, code in codes.items() if code]:
            raise SystemExit(f"p2pnode: {', '.join(failed)} failed")

    def to_json(self) -> dict[str, Any]:
        """What came of it, when all nodes have ended."""
        tallies = list(self.tallies.values())
        settled = [tally.settled.get("test_accuracy", 0.0) for tally in tallies]
        together = [tally.metrics.get("test_accuracy", 0.0) for tally in tallies]
        return {
            "nodes": len(tallies),
            "seconds": {
                "ready": since(self.began, self.ready),
                "target": since(self.began, self.target),
                "total": since(self.began, self.ended),
            },
            "cpu_seconds": round(cpu_seconds(), 3),
            "accuracy": {"mean": mean(together), "min": min(together), "settled_min": min(settled)},
            "bytes_sent": sum(tally.bytes_sent for tally in tallies),
            "bytes_to_target": self.bytes_to_target,
            "exchanges": {
                "completed": sum(tally.exchanges.begun for tally in tallies),
                "declined": sum(tally.exchanges.declined for tally in tallies),
                "aborted": sum(tally.exchanges.aborted for tally in tallies),
                "unsettled": sum(tally.exchanges.unsettled for tally in tallies),
            },
            "rounds": [tally.round for tally in tallies],
            "spread": max(tally.spread for tally in tallies),
        }


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
