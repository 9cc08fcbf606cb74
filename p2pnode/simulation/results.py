"""What simulations came to: kept as JSON lines, summed up, compared.

A line is one trial: a run with one learning rate and one seed. It is written when the trial is through,
so a scenario that was broken off goes on where it stopped, and it holds nothing of the machine or the
hour: the same file and seed give the same bytes.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2pnode.errors import UserError
from p2pnode.identity.files import read_file, replace_file
from p2pnode.simulation.run import Trial
from p2pnode.simulation.scenario import Run, Scenario, described

Line = dict[str, Any]

LARGEST = 1 << 30  # bytes of a file

FREE = ("name", "about", "seeds", "learning_rates", "metric", "target", "runs")
"""What of a scenario does not change what a trial comes to."""


class Store:
    """The lines of one file.

    Args:
        path: is read, and written anew with each line; None keeps them in memory only.

    Raises:
        UserError: it holds something else, or its folder is not there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: dict[str, Line] = {}
        if path is not None and not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}")
        if path is not None and path.exists():
            try:
                lines = read_file(path, LARGEST).splitlines()
                self._lines = {line["key"]: line for line in map(json.loads, lines)}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} holds no results of simulations: choose another file") from error

    def get(self, key: str) -> Line | None:
        """The line of a trial that was carried out."""
        return self._lines.get(key)

    def put(self, key: str, line: Line) -> None:
        """Keep a trial's line, also on disk."""
        self._lines[key] = {"key": key, **line}
        if self._path is not None:
            text = "".join(json.dumps(one, sort_keys=True) + "\n" for one in self._lines.values())
            replace_file(self._path, text.encode())


def key_of(scenario: Scenario, trial: Trial) -> str:
    """What tells a trial from all that would come to something else."""
    fixed = {name: value for name, value in described(scenario).items() if name not in FREE}
    content = [fixed, asdict(trial.run), trial.rate, trial.seed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def carry_out(
    scenario: Scenario, store: Store, trial_of: Callable[[Trial], Line]
) -> Iterator[tuple[Trial, Line]]:
    """All trials of a scenario: for each run every learning rate with the first seed, then the best with all.

    Args:
        scenario: says which.
        store: has those that are through.
        trial_of: carries one out.
    """

    def done(trial: Trial) -> Line:
        key = key_of(scenario, trial)
        if (line := store.get(key)) is None:
            line = trial_of(trial)
            store.put(key, line)
        return line

    for run in scenario.runs:
        tried = [Trial(run, rate, scenario.seeds[0]) for rate in scenario.learning_rates]
        for trial in tried:
            yield trial, done(trial)
        rate = best(scenario, store, run)
        for seed in scenario.seeds[1:]:
            trial = Trial(run, rate, seed)
            yield trial, done(trial)


def count(scenario: Scenario) -> int:
    """How many trials `carry_out` yields."""
    return len(scenario.runs) * (len(scenario.learning_rates) + len(scenario.seeds) - 1)


def best(scenario: Scenario, store: Store, run: Run) -> float:
    """The learning rate whose settled model does best on the validation rows."""

    def goodness(rate: float) -> float:
        line = _line(scenario, store, Trial(run, rate, scenario.seeds[0]))
        return _goodness(line["end"]["validation"] or line["end"]["test"], scenario.metric)

    return max(scenario.learning_rates, key=goodness)


def sign(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric == "loss" else 1


def _goodness(metrics: dict[str, float], metric: str) -> float:
    """More is better; what diverged is worst."""
    if metric not in metrics:
        raise UserError(f"the task has no metric {metric!r}: it has {', '.join(sorted(metrics))}")
    value = sign(metric) * metrics[metric]
    return value if math.isfinite(value) else -math.inf


@dataclass(frozen=True)
class Summary:
    """A run over all seeds, with its best learning rate.

    Attributes:
        label: of the run.
        rate: the learning rate.
        metric: the scenario's.
        settled: of the settled model on the test rows, for each seed.
        nodes: the nodes' mean at the last look, the mean over seeds.
        worst: the worst node's at the last look, the mean over seeds.
        clients: the worst client's with the settled model, the mean over seeds; None without clients.
        distance: of the nodes from their mean at the last look.
        rounds: of a node.
        bytes: that a node has sent, settling included.
        seconds: on the virtual clock.
        reached: rounds, bytes and seconds at the first look at which the nodes' mean had come to the
            scenario's target, in the mean over seeds; None where one seed never came there, or without one.
    """

    label: str
    rate: float
    metric: str
    settled: tuple[float, ...]
    nodes: float
    worst: float
    clients: float | None
    distance: float
    rounds: float
    bytes: float
    seconds: float
    reached: tuple[float, float, float] | None = None

    @property
    def mean(self) -> float:
        """Of the settled models."""
        return statistics.mean(self.settled)

    @property
    def deviation(self) -> float:
        """Standard deviation of the settled models."""
        return statistics.stdev(self.settled) if len(self.settled) > 1 else 0.0


def summary(scenario: Scenario, store: Store, run: Run) -> Summary:
    """What a run came to. All its trials are in the store."""
    rate = best(scenario, store, run)
    lines = [_line(scenario, store, Trial(run, rate, seed)) for seed in scenario.seeds]
    metric = scenario.metric
    worst_of = min if sign(metric) > 0 else max
    last = [line["points"][-1] for line in lines]

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values)

    clients = [
        worst_of(own[metric] for own in line["end"].get("clients", ()))
        for line in lines
        if "clients" in line["end"]
    ]
    return Summary(
        label=run.label,
        rate=rate,
        metric=metric,
        settled=tuple(line["end"]["test"][metric] for line in lines),
        nodes=mean([point[metric] for point in last]),
        worst=mean([point[f"worst_{metric}"] for point in last]),
        clients=mean(clients) if clients else None,
        distance=mean([point["distance"] for point in last]),
        rounds=mean([point["round"] for point in last]),
        bytes=mean([line["end"]["bytes"] for line in lines]),
        seconds=mean([point["seconds"] for point in last]),
        reached=_reached(scenario, lines),
    )


def _reached(scenario: Scenario, lines: Sequence[Line]) -> tuple[float, float, float] | None:
    metric, wanted = scenario.metric, sign(scenario.metric) * scenario.target
    firsts = [next((p for p in line["points"] if sign(metric) * p[metric] >= wanted), None) for line in lines]
    there = [point for point in firsts if point is not None]
    if not scenario.target or len(there) < len(lines):
        return None
    rounds, sent, seconds = (statistics.fmean(p[x] for p in there) for x in ("round", "bytes", "seconds"))
    return rounds, sent, seconds


def first(scenario: Scenario, store: Store, run: Run) -> Line:
    """The trial of a run with its best learning rate and the first seed."""
    return _line(scenario, store, Trial(run, best(scenario, store, run), scenario.seeds[0]))


def _line(scenario: Scenario, store: Store, trial: Trial) -> Line:
    line = store.get(key_of(scenario, trial))
    assert line is not None
    return line


def regressions(found: Sequence[Summary], baseline: Sequence[dict[str, Any]], slack: float) -> list[str]:
    """What is worse than it was: a line for each run whose settled model or bytes have got worse.

    Args:
        found: of this time.
        baseline: of an earlier one, in values of JSON.
        slack: of the metric; bytes may grow by 1 %.
    """
    before = {one["label"]: one for one in baseline}
    lines = [f"{label}: is missing" for label in before.keys() - {one.label for one in found}]
    for one in found:
        old = before.get(one.label)
        if old is None:
            continue
        if old["metric"] != one.metric:
            lines.append(f"{one.label}: measured by {one.metric}, it was by {old['metric']}")
            continue
        was = statistics.mean(old["settled"])
        if math.isfinite(was) and not sign(one.metric) * (one.mean - was) >= -slack:
            lines.append(f"{one.label}: {one.metric} {one.mean:.4f}, it was {was:.4f}")
        if one.bytes > 1.01 * old["bytes"]:
            lines.append(f"{one.label}: {one.bytes:.0f} bytes, it was {old['bytes']:.0f}")
    return sorted(lines)
