"""`p2pnode bench exchange`, `mean` and `overlap`: what averaging costs, and what training feels of it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.cli.bench_cost import drawn, show

if TYPE_CHECKING:
    from rich.table import Table

    from p2pnode.bench.exchange import Report, Row
    from p2pnode.bench.mean import Mean
    from p2pnode.bench.overlap import Overlap
    from p2pnode.bench.stream import Spread

CODECS = ("float32", "bfloat16", "int8", "int4")
LARGE = 100_000_000
MOST_MEMBERS = 64

parameters = click.option(
    "--parameters",
    metavar="NUMBER",
    default=LARGE,
    show_default=True,
    type=click.IntRange(10_000),
    help="How large a model is.",
)
turns = click.option(
    "--turns",
    metavar="TURNS",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How often everything is measured, with new processes; medians are shown.",
)
as_json = options.as_json("Print one JSON object instead of a table.")


@click.command()
@parameters
@click.option(
    "--codec",
    "codecs",
    metavar="CODEC",
    multiple=True,
    type=click.Choice(CODECS),
    help="How it travels, beside float32. Repeatable.  [default: bfloat16, int8, int4]",
)
@turns
@as_json
def exchange(parameters: int, codecs: tuple[str, ...], turns: int, as_json: bool) -> None:
    """Let two nodes average a large model, and a small one; see docs/PERFORMANCE.md."""
    from p2pnode.bench import exchange
    from p2pnode.cli.unwind import unwinding

    def tell(turn: int, case: exchange.Case) -> None:
        click.echo(
            f"turn {turn} of {turns}: {case.path}, {case.codec}, {case.parameters} parameters", err=True
        )

    with unwinding():
        found = exchange.run(exchange.plan(parameters, codecs or CODECS), turns, tell)
    show({"turns": turns, **asdict(found)} if as_json else exchanged(found))
    if not as_json:
        click.echo(
            f"\n{found.small.parameters} parameters: {said(found.small.middle, 1)} ms, "
            f"99th percentile {said(found.small.slow, 1)} ms.\n"
            f"float32 over a direct connection reaches {said(found.of_ceiling, 2)} of the rate of cipher and "
            "socket together."
        )


@click.command()
@click.option(
    "--members",
    metavar="MEMBERS",
    default=8,
    show_default=True,
    type=click.IntRange(2, MOST_MEMBERS),
    help="How many nodes there are; each takes some 20 bytes of memory for a parameter.",
)
@parameters
@turns
@as_json
def mean(members: int, parameters: int, turns: int, as_json: bool) -> None:
    """Let nodes come to the exact mean of their models; see docs/PERFORMANCE.md."""
    from p2pnode.bench import mean
    from p2pnode.cli.unwind import unwinding

    with unwinding():
        found = mean.run(
            members, parameters, turns, lambda turn: click.echo(f"turn {turn} of {turns}", err=True)
        )
    show({"turns": turns, "cases": [asdict(found)]} if as_json else settled(found))


@click.command()
@turns
@as_json
def overlap(turns: int, as_json: bool) -> None:
    """Train a transformer on one core, with exchanges on another and without; see docs/PERFORMANCE.md."""
    from p2pnode.bench import overlap
    from p2pnode.cli.unwind import unwinding

    with unwinding():
        found = overlap.run(turns, lambda turn: click.echo(f"turn {turn} of {turns}", err=True))
    show({"turns": turns, **asdict(found)} if as_json else felt(found))


def exchanged(found: "Report") -> "Table":
    """A row for each path and codec."""
    columns: dict[str, Callable[[Row], str]] = {
        "": lambda row: row.path,
        "codec": lambda row: row.codec,
        "seconds": lambda row: said(row.seconds, 2),
        "MB/s": lambda row: said(row.rate, 0),
        "CPU s": lambda row: said(row.cpu, 2),
        "sent MB": lambda row: f"{row.sent / 1e6:.0f}",
        "memory MB": lambda row: f"{row.memory.most / 1e6:.0f} of {row.allowed / 1e6:.0f}",
    }
    return drawn(columns, found.cases)


def settled(found: "Mean") -> "Table":
    """One row."""
    columns: dict[str, Callable[[Mean], str]] = {
        "members": lambda row: str(row.members),
        "parameters": lambda row: str(row.parameters),
        "seconds": lambda row: said(row.seconds, 2),
        "MB/s": lambda row: said(row.rate, 0),
        "CPU s": lambda row: said(row.cpu, 1),
        "memory MB": lambda row: f"{row.memory.most / 1e6:.0f}",
    }
    return drawn(columns, [found])


def felt(found: "Overlap") -> "Table":
    """One row."""
    columns: dict[str, Callable[[Overlap], str]] = {
        "parameters": lambda row: str(row.parameters),
        "steps/s alone": lambda row: said(row.alone, 2),
        "with exchanges": lambda row: said(row.together, 2),
        "ratio": lambda row: said(row.ratio, 3),
        "loop late ms": lambda row: said(row.late, 1),
        "alone": lambda row: said(row.late_alone, 1),
        "exchanges/s": lambda row: said(row.exchanges, 2),
    }
    return drawn(columns, [found])


def said(spread: "Spread", digits: int) -> str:
    """A median, and from where to where."""
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}-{spread.most:.{digits}f})"
