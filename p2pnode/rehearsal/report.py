"""Rehearsals as a table for a person, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from p2pnode.rehearsal.run import Outcome

HEADINGS = (
    "scenario",
    "seed",
    "settled",
    "accuracy",
    "learned",
    "exchanges",
    "aborted",
    "tasks",
    "hours",
    "seconds",
    "",
)


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One line for each, and what was wrong with it below."""
    rows = [HEADINGS, *map(_row, outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, outcome in zip(rows, [None, *outcomes], strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        if outcome is not None:
            yield from (f"    {line}" for line in outcome.wrong)


def _row(outcome: Outcome) -> tuple[str, ...]:
    accuracies = [accuracy for _, accuracy in outcome.settled.values()]
    return (
        outcome.scenario,
        str(outcome.seed),
        f"{len(outcome.settled)} of {len(outcome.ends)}",
        f"{min(accuracies):.3f}" if accuracies else "-",
        "-" if outcome.learned is None else f"{outcome.learned:.0f} s",
        str(outcome.counts.get("ExchangeCompleted", 0)),
        str(outcome.counts.get("ExchangeAborted", 0)),
        str(outcome.most_tasks),
        f"{outcome.virtual / 3600:.2f}",
        f"{outcome.real:.1f}",
        "wrong" if outcome.wrong else "well",
    )


def as_table(outcome: Outcome) -> dict[str, Any]:
    """All of it in values of JSON."""
    return asdict(outcome)
