"""What a scenario came to, as tables of text: for a terminal of any width, and for a page.

A table is what stands under each heading, a text for each run; a heading may have several lines. Where the
terminal is too narrow for a run and its numbers side by side, the run stands on a line of its own above them.
"""

from collections.abc import Iterator, Mapping, Sequence

from p2pnode.simulation.results import Summary
from p2pnode.simulation.scenario import NOBODY, Scenario

MB = 1e6
GAP = "  "

Columns = Mapping[str, Sequence[str]]


def columns(scenario: Scenario, found: Sequence[Summary]) -> Columns:
    """What each run came to. Nodes that never meet settle on nothing, and each client has its own model."""
    met = [run.topology != NOBODY for run in scenario.runs]
    clients = ["-" if one.clients is None else f"{one.clients:.4f}" for one in found]
    return {
        "settled": [settled(one) if both else "-" for one, both in zip(found, met, strict=True)],
        "nodes'\nmean": [f"{one.nodes:.4f}" for one in found],
        "worst\nnode": [f"{one.worst:.4f}" for one in found],
        **({"worst\nclient": clients} if any(one.clients is not None for one in found) else {}),
        "apart": [f"{one.distance:.2g}" for one in found],
        "MB a\nnode": [short(one.bytes / MB) for one in found],
        "seconds": [short(one.seconds) for one in found],
        "rate": [f"{one.rate:g}" for one in found],
    }


def columns_to_target(found: Sequence[Summary]) -> Columns:
    """What it took each run to come to the target."""
    rows = [one.reached for one in found]
    return {
        heading: ["never" if row is None else short(row[place] / unit) for row in rows]
        for place, (heading, unit) in enumerate((("rounds", 1.0), ("MB a\nnode", MB), ("seconds", 1.0)))
    }


def tables(scenario: Scenario, found: Sequence[Summary]) -> Iterator[tuple[str, Columns]]:
    """The tables of a scenario, each with its title."""
    yield f"{scenario.name}: {scenario.metric}", columns(scenario, found)
    if scenario.target:
        title = f"until the nodes' mean {scenario.metric} was {scenario.target:g}"
        yield title, columns_to_target(found)


def lines(scenario: Scenario, found: Sequence[Summary], width: int) -> Iterator[str]:
    """All that a person is shown in a terminal of `width` columns."""
    labels = [one.label for one in found]
    for title, table in tables(scenario, found):
        yield from (title, *_drawn(labels, table, width), "")


def settled(one: Summary) -> str:
    """The settled models' mean, and their standard deviation where there are several."""
    return f"{one.mean:.4f}" + (f" ± {one.deviation:.4f}" if len(one.settled) > 1 else "")


def short(value: float) -> str:
    """Three digits that count, and no exponent where there are more."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _drawn(labels: Sequence[str], table: Columns, width: int) -> Iterator[str]:
    heads = [heading.split("\n") for heading in table]
    wide = [max(map(len, [*head, *column])) for head, column in zip(heads, table.values(), strict=True)]
    high = max(map(len, heads))
    raised = [[""] * (high - len(head)) + head for head in heads]

    def row(first: str, texts: Sequence[str]) -> str:
        return GAP.join([first, *(text.rjust(one) for text, one in zip(texts, wide, strict=True))])

    longest = max(map(len, labels))
    beside = len(row(" " * longest, [""] * len(wide))) <= width
    margin = longest if beside else 0
    for level in zip(*raised, strict=True):
        yield row(" " * margin, level).rstrip()
    for label, *texts in zip(labels, *table.values(), strict=True):
        if not beside:
            yield label
        yield row(label.ljust(margin) if beside else "", texts)
