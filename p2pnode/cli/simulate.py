"""`p2pnode simulate`: compare ways to learn together, with thousands of virtual nodes."""

import json
import math
import os
import shutil
from collections.abc import MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import options
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.simulation.picture import Found
    from p2pnode.simulation.results import Store, Summary
    from p2pnode.simulation.run import Trial
    from p2pnode.simulation.scenario import Scenario

LARGEST = 1 << 24  # bytes of a baseline


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@options.path("--results", about="Keep the results there, and go on from those it has.  [default: nowhere]")
@options.path("--plot", about="Draw a picture there: .svg, .png or .pdf.  [default: none]")
@options.path(
    "--compare",
    about="What --json printed at an earlier time: fail when something is worse.  [default: none]",
)
@options.number(
    "--slack",
    "AMOUNT",
    0.01,
    "With --compare: how much worse accuracy or loss may be; bytes may grow by 1 %.",
)
@options.as_json("Print one JSON object at the end.")
def simulate(
    scenario: Path, results: Path | None, plot: Path | None, compare: Path | None, slack: float, as_json: bool
) -> None:
    """Run the experiments that the file SCENARIO describes; see docs/SIMULATION.md."""
    use_all_cores(os.environ)
    from p2pnode.simulation.checks import examine
    from p2pnode.simulation.picture import draw, drawable
    from p2pnode.simulation.report import lines
    from p2pnode.simulation.results import Store, regressions
    from p2pnode.simulation.scenario import load

    wanted, store = load(scenario), Store(results)
    baseline = _baseline(compare) if compare is not None else None
    if plot is not None:
        drawable(plot)
    examine(wanted)
    found = carried_out(wanted, store)
    summaries = [summary for summary, _ in found]
    click.echo("\n".join(lines(wanted, summaries, shutil.get_terminal_size().columns)))
    if plot is not None:
        draw(plot, wanted.name, found)
    worse = regressions(summaries, baseline, slack) if baseline is not None else []
    for line in worse:
        click.echo(f"worse than before: {line}", err=True)
    if as_json:
        runs = [_shown(one) for one in summaries]
        click.echo(json.dumps({"scenario": wanted.name, "runs": runs, "worse": worse}))
    if worse:
        raise SystemExit(1)


def use_all_cores(environment: MutableMapping[str, str]) -> None:
    """Let JAX, which is not imported yet, see each core as a device: the nodes are spread over devices."""
    flags = environment.get("XLA_FLAGS", "")
    if "host_platform_device_count" not in flags:
        environment["XLA_FLAGS"] = (
            f"{flags} --xla_force_host_platform_device_count={os.cpu_count() or 1}".strip()
        )


def carried_out(scenario: "Scenario", store: "Store") -> "Found":
    """Carry out all trials that are not in the store, and show on stderr how far it is.

    Returns:
        What each run came to, and its trial with the first seed.

    Raises:
        UserError: the data are not there, or do not fit.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from p2pnode.cli.unwind import unwinding
    from p2pnode.simulation.results import Line, carry_out, count, first, summary
    from p2pnode.simulation.run import Study

    study, total, stderr = Study(scenario), count(scenario), Console(stderr=True)
    new: list[Trial] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with unwinding(), Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        trials = progress.add_task("trials", total=total)
        looks = progress.add_task("", total=None)

        def one(trial: "Trial") -> Line:
            what = f"{trial.run.label}, rate {trial.rate:g}, seed {trial.seed}"
            progress.reset(looks, description=what)
            if not stderr.is_terminal:
                click.echo(what, err=True)
            new.append(trial)
            return study.carry_out(trial, lambda done, of: progress.update(looks, completed=done, total=of))

        for _ in carry_out(scenario, store, one):
            progress.advance(trials)
    click.echo(f"{total} trials: {len(new)} carried out, {total - len(new)} known before", err=True)
    return [(summary(scenario, store, run), first(scenario, store, run)) for run in scenario.runs]


def _shown(one: "Summary") -> dict[str, Any]:
    """In values of JSON, which knows no number that is not finite: null stands for such."""
    table: dict[str, Any] = asdict(one) | {"mean": one.mean, "deviation": one.deviation}
    return {name: _finite(value) for name, value in table.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _baseline(path: Path) -> list[dict[str, Any]]:
    from p2pnode.identity.files import read_file

    try:
        runs = json.loads(read_file(path, LARGEST).splitlines()[-1])["runs"]
        return [
            {
                "label": str(run["label"]),
                "metric": str(run["metric"]),
                "settled": [math.nan if value is None else float(value) for value in run["settled"]],
                "bytes": float(run["bytes"]),
            }
            for run in runs
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} holds no results: write it with `p2pnode simulate … --json`") from error
