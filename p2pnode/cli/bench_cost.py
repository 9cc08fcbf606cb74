"""`p2pnode bench start` and `p2pnode bench idle`: what nodes cost before and after the work they are for."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from p2pnode.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from p2pnode.bench.idle import Idle
    from p2pnode.bench.start import Starts
    from p2pnode.bench.stream import Spread
    from p2pnode.identity.manifest import Manifest

T = TypeVar("T")

ROUNDS = 1_000_000
"""More than are done before a node is ended."""


@click.command()
@click.option(
    "--turns",
    metavar="TURNS",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How often nodes are started; medians are shown.",
)
@options.as_json("Print one JSON object instead of a table.")
def start(turns: int, as_json: bool) -> None:
    """Start 2 nodes, and 8 as a cluster, until each has averaged once; see docs/PERFORMANCE.md."""
    from p2pnode.bench import start
    from p2pnode.cli.unwind import unwinding
    from p2pnode.identity.manifest import write_manifest

    def tell(turn: int, nodes: int) -> None:
        what = f"turn {turn} of {turns}" if turn else "to fill the cache"
        click.echo(f"{what}: {nodes} nodes", err=True)

    with unwinding(), tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "swarm.toml"
        write_manifest(manifest, swarm())
        found = start.run(manifest, turns, tell)
    show({"turns": turns, "starts": [asdict(one) for one in found]} if as_json else started(found))


@click.command()
@click.option(
    "--peers",
    metavar="PEERS",
    default=20,
    show_default=True,
    type=click.IntRange(1, 60),
    help="How many are connected, the second time.",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    default=60,
    show_default=True,
    type=click.IntRange(1),
    help="For how long each is looked at; what is done most rarely is done once a minute.",
)
@options.as_json("Print one JSON object instead of a table.")
def idle(peers: int, seconds: int, as_json: bool) -> None:
    """Look at nodes with nothing to do, alone and with PEERS connected; see docs/PERFORMANCE.md."""
    from p2pnode.bench import idle
    from p2pnode.cli.unwind import unwinding

    def tell(kind: str, count: int) -> None:
        click.echo(f"{kind} with {count} peers", err=True)

    with unwinding():
        found = idle.run(swarm(), peers, seconds, tell)
    show({"seconds": seconds, "idle": [asdict(one) for one in found]} if as_json else waited(found))


def swarm() -> "Manifest":
    """Handwritten digits, 4,810 parameters: hardly any work beside what a node is."""
    from p2pnode.cli.manifest import make_manifest

    return make_manifest("bench", "digits", {"seed": 0, "rounds": ROUNDS})


def show(found: "dict[str, object] | Table") -> None:
    """On stdout."""
    from rich.console import Console

    if isinstance(found, dict):
        click.echo(json.dumps(found))
    else:
        Console(highlight=False).print(found)


def started(found: "Sequence[Starts]") -> "Table":
    """A row for each number of nodes."""

    def said(spread: "Spread") -> str:
        return f"{spread.median:.2f} ({spread.least:.2f}-{spread.most:.2f})"

    columns: dict[str, Callable[[Starts], str]] = {
        "nodes": lambda one: str(one.nodes),
        "seconds": lambda one: said(one.seconds),
        "imports": lambda one: said(one.imports),
        "rest": lambda one: said(one.rest),
        "CPU s": lambda one: said(one.cpu),
        "imports, CPU s": lambda one: said(one.imports_cpu),
    }
    return drawn(columns, found)


def waited(found: "Sequence[Idle]") -> "Table":
    """A row for each kind of node and number of peers."""
    columns: dict[str, Callable[[Idle], str]] = {
        "": lambda one: one.kind,
        "peers": lambda one: str(one.peers),
        "memory MB": lambda one: f"{one.memory / 1e6:.0f}",
        "CPU %": lambda one: f"{100 * one.load:.2f}",
    }
    return drawn(columns, found)


def drawn(columns: dict[str, Callable[[T], str]], rows: "Sequence[T]") -> "Table":
    """A row for each of `rows`, a column for each heading."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for heading in columns:
        drawn.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        drawn.add_row(*(said(row) for said in columns.values()))
    return drawn
