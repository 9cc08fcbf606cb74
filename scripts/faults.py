"""The fault matrix: what p2pnode survives, as a table of fault, cases and outcome.

A fault is a test marked `@pytest.mark.fault("its name")`, wherever it lives; its cases are the test's
parameters, several seeds among them. Each outcome is written to a file as soon as it is known, so a run that
was interrupted goes on where it stopped: what has passed is not run again, unless `--again`.
"""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import click
import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent

OPTIONS = ("-m", "fault", "-q", "--no-header", "-o", "faulthandler_timeout=1800")
"""Of pytest. The longest cases take minutes, on a busy machine many."""

ENDS = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""How pytest ends when all cases that were left have been tried."""


@dataclass
class Row:
    """One fault: the seconds that its cases took, and the names of those that failed."""

    passed: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Matrix:
    """A plugin of pytest: chooses the cases that are left, and writes down what becomes of each.

    Args:
        known: outcomes of an earlier run by case; those that passed are left out.
        results: where to write to.
        words: only faults whose name holds one of them; all, if there are none.
    """

    def __init__(self, known: dict[str, dict[str, object]], results: TextIO, words: tuple[str, ...]) -> None:
        self._known = known
        self._results = results
        self._words = words
        self._names: dict[str, str] = {}
        self._outcomes: dict[str, dict[str, object]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what is marked, wanted, and has not passed yet."""
        for item in items:
            if (marker := item.get_closest_marker("fault")) is not None:
                self._names[item.nodeid] = marker.args[0]
        wanted = {
            case: name
            for case, name in self._names.items()
            if not self._words or any(word in name for word in self._words)
        }
        passed = {case for case in wanted if self._known.get(case, {}).get("outcome") == "passed"}
        self._outcomes = {case: self._known[case] for case in passed}
        items[:] = [item for item in items if item.nodeid in wanted and item.nodeid not in passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write an outcome down."""
        if report.when == "call" or report.outcome != "passed":
            outcome = {"case": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            self._outcomes[report.nodeid] = outcome
            self._results.write(json.dumps(outcome) + "\n")
            self._results.flush()

    def rows(self) -> dict[str, Row]:
        """By fault."""
        found: dict[str, Row] = defaultdict(Row)
        for case, outcome in self._outcomes.items():
            row = found[self._names[case]]
            if outcome["outcome"] == "passed":
                row.passed.append(float(str(outcome["seconds"])))
            else:
                (row.failed if outcome["outcome"] == "failed" else row.skipped).append(case)
        return dict(sorted(found.items()))


def table(rows: dict[str, Row]) -> Table:
    """For people."""
    drawn = Table(box=None, pad_edge=False)
    for heading in ("fault", "cases", "outcome", "seconds"):
        drawn.add_column(heading, justify="right" if heading in ("cases", "seconds") else "left")
    for name, row in rows.items():
        outcome = f"{len(row.failed)} failed" if row.failed else "green" if row.passed else "not tried"
        if row.skipped:
            outcome += f", {len(row.skipped)} not possible on this machine"
        count = len(row.passed) + len(row.failed) + len(row.skipped)
        drawn.add_row(name, str(count), outcome, f"{sum(row.passed):.1f}")
    return drawn


@click.command()
@click.argument("words", nargs=-1)
@click.option("--again", is_flag=True, help="Run also what has passed before.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=ROOT / ".local" / "faults.jsonl",
    help="Where outcomes are kept.  [default: .local/faults.jsonl]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def main(words: tuple[str, ...], again: bool, results: Path, as_json: bool) -> None:
    """Run all faults, or those whose names hold one of WORDS.

    Exit code 1: some failed. 2 and more: not all were tried; those of pytest.
    """
    if again:
        results.unlink(missing_ok=True)
    known: dict[str, dict[str, object]] = {}
    if results.exists():
        known = {one["case"]: one for one in map(json.loads, results.read_text().splitlines())}
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as written:
        matrix = Matrix(known, written, words)
        with redirect_stdout(sys.stderr):  # stdout is for the result
            code = pytest.main([*OPTIONS, str(ROOT / "tests")], plugins=[matrix])
    rows = matrix.rows()
    Console(stderr=True).print(table(rows))
    failed = [case for row in rows.values() for case in row.failed]
    if as_json:
        counted = {
            name: {"cases": len(row.passed) + len(row.failed), "failed": row.failed, "skipped": row.skipped}
            for name, row in rows.items()
        }
        click.echo(json.dumps({"faults": counted, "failed": len(failed)}))
    if code not in ENDS:
        click.echo(f"not all faults were tried: pytest ended with {code!s}", err=True)
        sys.exit(int(code))
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
