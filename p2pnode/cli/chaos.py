"""`p2pnode chaos`: a swarm on this machine that has a hard time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.chaos.schedule import KINDS
from p2pnode.cli import options
from p2pnode.cli.demo import own_of
from p2pnode.cli.own import agreed
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.chaos.report import Report
    from p2pnode.identity.manifest import Manifest
    from p2pnode.learning.own import Own

ROUNDS = 1_000_000
"""More than are done before the end."""

STEPS = 100
"""In a round: with a few as small as those of digits a node would say a thousand things a second."""

LONGEST_WARM, PART = 30.0, 0.1
"""Seconds of work without faults before and after them: a part of the time, and at most so many."""


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option(
    "-n", "--nodes", metavar="NODES", default=4, show_default=True, type=click.IntRange(2), help="How many."
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1),
    help="From the first fault to the last; some more go by before and after.",
)
@click.option(
    "--every",
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    type=click.FloatRange(0.5),
    help="Between two faults, on average.",
)
@click.option(
    "--fault",
    "kinds",
    multiple=True,
    metavar="FAULT",
    type=click.Choice(list(KINDS)),
    help=f"A kind of fault, as often as one likes: {', '.join(KINDS)}.  [default: all possible here]",
)
@options.seed("Of the faults; and of data split and training, without MANIFEST.")
@options.own_task(
    "What is learned without MANIFEST, as for `demo`; else the file of its task.  [default: digits]"
)
@options.as_json("Print one JSON object at the end.")
def chaos(
    manifest: Path | None,
    nodes: int,
    seconds: float,
    every: float,
    kinds: tuple[str, ...],
    seed: int,
    task: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Do harm to a swarm on this machine, and see that it keeps working; see docs/CLUSTERS.md.

    Nodes are killed, frozen, cut off, throttled, get a full disk or a wrong clock, at moments that a seed
    decides. In the end a table says what was done and how long the nodes needed to work again.
    """
    from p2pnode.chaos.means import possible

    able, left_out = possible(list(dict.fromkeys(kinds)) or list(KINDS))  # first: it needs one thread
    for name, reason in left_out.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    if not able:
        raise UserError("this machine allows none of these faults: see above")
    from p2pnode.chaos.report import report
    from p2pnode.chaos.run import Trial, carried_out
    from p2pnode.chaos.schedule import plan
    from p2pnode.cli.unwind import unwinding

    agreement, own = swarm(manifest, task, seed, yes)
    faults = plan(seed, nodes, seconds, every, able)
    trial = Trial(agreement, nodes, min(LONGEST_WARM, PART * seconds), faults, able, own)

    def tell(line: str) -> None:
        click.echo(line, err=True)

    with unwinding(), carried_out(trial, tell) as outcome:
        found = report(outcome, left_out)
    if as_json:
        settings = {"nodes": nodes, "seconds": seconds, "every": every, "seed": seed, "kinds": able}
        click.echo(json.dumps({**settings, **found.to_json()}))
    else:
        show(found)
    if found.broken:
        raise SystemExit(1)


def swarm(manifest: Path | None, task: str | None, seed: int, yes: bool) -> "tuple[Manifest, Own | None]":
    """Which one it is, with more rounds than there is time for, and its task where that is in a file.

    Raises:
        UserError: there is none, or nobody agreed to run the file.
    """
    from p2pnode.cli.manifest import make_manifest
    from p2pnode.identity.manifest import load_manifest

    if manifest is None:
        own = own_of(task or "digits", yes)
        chosen = {"seed": seed, "rounds": ROUNDS, "steps": STEPS}
        return make_manifest("chaos", own or task or "digits", chosen), own
    given = load_manifest(manifest)
    agreement = replace(given, training=replace(given.training, rounds=ROUNDS), signature=None)
    return agreement, None if task is None else agreed(task, agreement, None, yes)


def show(found: "Report") -> None:
    """On stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(found.faults(), "", found.states(), "", sep="\n", soft_wrap=True)
    console.print("\n".join(found.broken) or "All of it held.", markup=False, soft_wrap=True)
