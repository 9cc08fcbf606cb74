"""`p2pnode simulate`: compare ways to learn together, with thousands of virtual nodes."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.simulation.results import Store, Summary
    from p2pnode.simulation.scenario import Scenario


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@options.path("--results", about="Keep the results there, and go on from those it has.  [default: nowhere]")
@options.path("--plot", about="Draw a picture there: .svg, .png or .pdf.  [default: none]")
@options.path(
    "--compare", about="Results in JSON of an earlier time: fail when something is worse.  [default: none]"
)
@click.option(
    "--slack",
    default=0.01,
    show_default=True,
    help="With --compare: how much worse accuracy or loss may be; bytes may grow by 1 %.",
)
@options.as_json("Print one JSON object at the end.")
def simulate(
    scenario: Path, results: Path | None, plot: Path | None, compare: Path | None, slack: float, as_json: bool
) -> None:
    """Run the experiments that the file SCENARIO describes."""
    use_all_cores(os.environ)
    from rich.console import Console

    from p2pnode.simulation.report import draw, table
    from p2pnode.simulation.results import Store, best, key_of, regressions, summary
    from p2pnode.simulation.run import Trial
    from p2pnode.simulation.scenario import load

    wanted, store = load(scenario), Store(results)
    baseline = _baseline(compare) if compare is not None else None
    _carry_out(wanted, store)
    found = [summary(wanted, store, run) for run in wanted.runs]
    Console().print(table(wanted.name, found))
    if plot is not None:
        first = [
            store.get(key_of(wanted, Trial(run, best(wanted, store, run), wanted.seeds[0]))) or {}
            for run in wanted.runs
        ]
        draw(plot, wanted.name, list(zip(found, first, strict=True)))
    worse = regressions(found, baseline, slack) if baseline is not None else []
    for line in worse:
        click.echo(f"worse than before: {line}", err=True)
    if as_json:
        runs = [_shown(one) for one in found]
        click.echo(json.dumps({"scenario": wanted.name, "runs": runs, "worse": worse}))
    if worse:
        raise SystemExit(1)


def use_all_cores(environment: "os._Environ[str]") -> None:
    """Let JAX, which is not imported yet, see each core as a device: the nodes are spread over devices."""
    flags = environment.get("XLA_FLAGS", "")
    if "host_platform_device_count" not in flags:
        environment["XLA_FLAGS"] = (
            f"{flags} --xla_force_host_platform_device_count={os.cpu_count() or 1}".strip()
        )


def _carry_out(scenario: "Scenario", store: "Store") -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from p2pnode.simulation.results import Line, carry_out, count
    from p2pnode.simulation.run import Study, Trial

    study = Study(scenario)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        trials = progress.add_task("trials", total=count(scenario))
        looks = progress.add_task("", total=None)

        def carried_out(trial: Trial) -> Line:
            what = f"{trial.run.label}, rate {trial.rate:g}, seed {trial.seed}"
            progress.reset(looks, description=what)

            def tell(done: int, total: int) -> None:
                progress.update(looks, completed=done, total=total)

            return study.carry_out(trial, tell)

        for _ in carry_out(scenario, store, carried_out):
            progress.advance(trials)


def _shown(one: "Summary") -> dict[str, object]:
    return asdict(one) | {"mean": one.mean, "deviation": one.deviation}


def _baseline(path: Path) -> list[dict[str, object]]:
    from p2pnode.identity.files import read_file

    try:
        runs: list[dict[str, object]] = json.loads(read_file(path, 1 << 24).splitlines()[-1])["runs"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} holds no results: write it with `p2pnode simulate … --json`") from error
    return runs
