"""What the figures of a scenario say, worked out from them: who is best, who loses and by how much.

Every run is held against one of them, the *baseline*: averaging by a server (FedAvg, McMahan et al. 2017)
where the scenario has that, by rows if need be, else its first run. Seeds are paired: they mean the same
rows, so a run's difference is taken seed by seed. It counts as a gain or a loss where every seed says so,
and as nothing where they disagree; a single seed cannot tell it from chance.
"""

import math
import statistics
from collections.abc import Iterator, Sequence

from p2pnode.simulation.report import MB, short
from p2pnode.simulation.results import Summary, sign
from p2pnode.simulation.scenario import NOBODY, SERVER, WEIGHTED_SERVER, Scenario

NEAR = 0.005
"""Of the metric: what is called as good as the baseline."""


def baseline(scenario: Scenario) -> int:
    """The place of the run that the others are held against."""
    ways = [(run.rule, run.topology) for run in scenario.runs]
    served = (ways.index(way) for way in (("average", SERVER), ("average", WEIGHTED_SERVER)) if way in ways)
    return next(served, 0)


def differences(one: Summary, base: Summary) -> list[float]:
    """For each seed how much better a run's settled model is than the baseline's."""
    better = sign(one.metric)
    return [better * (own - its) for own, its in zip(one.settled, base.settled, strict=True)]


def against(one: Summary, base: Summary) -> str:
    """The mean of these differences, and their standard deviation where there are several."""
    found = differences(one, base)
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):+.4f}{spread}"


def remarks(scenario: Scenario, found: Sequence[Summary]) -> Iterator[str]:
    """Sentences about the runs `found` of a scenario, in its order."""
    met = [one for one, run in zip(found, scenario.runs, strict=True) if run.topology != NOBODY]
    well = [one for one in met if all(map(math.isfinite, one.settled))]
    base = found[baseline(scenario)]
    if well:
        best = max(well, key=lambda one: sign(one.metric) * one.mean)
        yield f"Best settled {scenario.metric}: {best.label}, {best.mean:.4f}."
    if base in well and len(well) > 1:
        yield from _ranked(base, [one for one in well if one is not base])
        yield from _cheap(base, well)
    for one in found:
        if one not in well and one in met:
            yield f"{one.label} diverged, with every learning rate that was tried."
    yield from _worst(scenario, well)
    yield from _edges(scenario, found)


def _ranked(base: Summary, others: Sequence[Summary]) -> Iterator[str]:
    if len(base.settled) == 1:
        yield f"One seed only: what is better or worse than {base.label} here may be chance."
        return
    gains = {one.label: differences(one, base) for one in others}
    for verb, told in (
        ("Loses against", [label for label, each in gains.items() if max(each) < 0]),
        ("Gains on", [label for label, each in gains.items() if min(each) > 0]),
    ):
        for label in sorted(told, key=lambda label: statistics.fmean(gains[label])):
            size = abs(statistics.fmean(gains[label]))
            yield f"{verb} {base.label} with every seed: {label}, by {size:.4f}."
    open_ = [label for label, each in gains.items() if min(each) <= 0 <= max(each)]
    if open_:
        yield f"The seeds do not agree whether better or worse than {base.label}: {'; '.join(open_)}."


def _cheap(base: Summary, well: Sequence[Summary]) -> Iterator[str]:
    near = [one for one in well if one.bytes and statistics.fmean(differences(one, base)) >= -NEAR]
    if near and base.bytes:
        least = min(near, key=lambda one: one.bytes)
        yield (
            f"Fewest bytes of all that are within {NEAR:g} of {base.label} or better: {least.label}, "
            f"{short(least.bytes / MB)} MB, 1/{base.bytes / least.bytes:.3g} of its bytes."
        )


def _worst(scenario: Scenario, well: Sequence[Summary]) -> Iterator[str]:
    better = sign(scenario.metric)
    told = [(better * one.clients, one) for one in well if one.clients is not None]
    if told:
        worth, one = max(told, key=lambda pair: pair[0])
        yield f"The worst client is best off with {one.label}: {better * worth:.4f}."
    late = [one.label for one in well if scenario.target and one.reached is None]
    if late:
        missed = f"The nodes' mean did not come to {scenario.target:g}, or not with every seed"
        yield f"{missed}: {'; '.join(late)}."


def _edges(scenario: Scenario, found: Sequence[Summary]) -> Iterator[str]:
    """A best learning rate at the end of those tried may not be the best there is."""
    rates = scenario.learning_rates
    for rate, what in ((min(rates), "lowest"), (max(rates), "highest")):
        labels = [one.label for one in found if one.rate == rate]
        if labels and len(rates) > 1:
            yield f"Best with the {what} learning rate tried, {rate:g}: {'; '.join(labels)}."
