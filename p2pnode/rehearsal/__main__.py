"""`python -m p2pnode.rehearsal SCENARIO.toml`: carry a scenario out, and say what became of it."""

import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from p2pnode.errors import UserError
from p2pnode.rehearsal.report import as_json, lines
from p2pnode.rehearsal.run import rehearse
from p2pnode.rehearsal.scenario import load


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(0,), help="Of all chance; several are tried."
)
@click.option("--nodes", type=click.IntRange(1), help="Instead of the scenario's.")
@click.option("--calm", is_flag=True, help="Without the scenario's events: nothing goes wrong.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write all that happens there, a line each.")
@click.option("--json", "wants_json", is_flag=True, help="Print one JSON object for each seed.")
def main(
    scenario: Path,
    seeds: tuple[int, ...],
    nodes: int | None,
    calm: bool,
    trace: Path | None,
    wants_json: bool,
) -> None:
    """Carry out the file SCENARIO; exit with 1 when something did not hold."""
    try:
        wanted = load(scenario)
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    wanted = replace(wanted, nodes=nodes or wanted.nodes, events=() if calm else wanted.events)
    with ExitStack() as stack:
        write = stack.enter_context(trace.open("w")).write if trace else None
        outcomes = [rehearse(wanted, seed, write) for seed in seeds]
    for outcome in outcomes if wants_json else ():
        click.echo(json.dumps(as_json(outcome)))
    if not wants_json:
        click.echo("\n".join(lines(outcomes)))
    sys.exit(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    main()
