"""`p2pnode rehearse`: a whole swarm of real nodes in this process, and what happens to it in a scenario."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.rehearsal.run import Outcome
    from p2pnode.rehearsal.scenario import Scenario


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    "seeds",
    metavar="NUMBER",
    type=click.IntRange(0),
    multiple=True,
    default=(0,),
    help="Of all chance; one rehearsal for each.  [default: 0]",
)
@click.option(
    "--nodes", metavar="NODES", type=click.IntRange(1), help="How many at first.  [default: the scenario's]"
)
@click.option("--calm", is_flag=True, help="Leave out what goes wrong.")
@options.path("--trace", about="Write all that happens there, a JSON object a line.  [default: nowhere]")
@options.as_json("Print one JSON object at the end.")
def rehearse(
    scenario: Path, seeds: tuple[int, ...], nodes: int | None, calm: bool, trace: Path | None, as_json: bool
) -> None:
    """Let a swarm go through what the file SCENARIO describes, under a virtual clock; see docs/FAULTS.md."""
    from p2pnode.rehearsal.report import as_table, lines
    from p2pnode.rehearsal.scenario import load

    wanted = load(scenario)
    wanted = replace(wanted, nodes=nodes or wanted.nodes, events=() if calm else wanted.events)
    outcomes = carried_out(wanted, seeds, trace)
    click.echo("\n".join(lines(outcomes)))
    if as_json:
        click.echo(json.dumps({"scenario": wanted.name, "outcomes": [as_table(one) for one in outcomes]}))
    if any(outcome.wrong for outcome in outcomes):
        raise SystemExit(1)


def carried_out(scenario: "Scenario", seeds: tuple[int, ...], trace: Path | None) -> "list[Outcome]":
    """Rehearse once with each seed, and show on stderr how far it is.

    Raises:
        UserError: the trace cannot be written.
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from p2pnode.cli.unwind import unwinding
    from p2pnode.rehearsal.run import rehearse as carry_out

    stderr = Console(stderr=True)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with ExitStack() as stack:
        stack.enter_context(unwinding())
        try:
            write = stack.enter_context(trace.open("w")).write if trace else None
        except OSError as error:
            raise UserError(f"cannot write {trace}: {error.strerror}") from error
        progress = stack.enter_context(Progress(*columns, console=stderr, disable=not stderr.is_terminal))
        shown = progress.add_task("")
        outcomes = []
        for seed in seeds:

            def tell(now: float, seed: int = seed) -> None:
                progress.update(shown, description=f"seed {seed}: {now / 3600:.2f} hours")

            outcomes.append(carry_out(scenario, seed, write, tell))
        return outcomes
