"""`p2pnode predict`, `evaluate`, `export`: what to do with a model once a swarm has trained it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import options
from p2pnode.cli.own import agreed
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.model import Trained

_MODEL = click.argument("model", type=click.Path(path_type=Path))
_OWN_TASK = options.own_task(
    "Where the swarm's task is in a file: your copy of that.  [default: none, if it is built in]"
)


@click.command()
@_MODEL
@options.path(
    "--input",
    "source",
    required=True,
    about="A table with the columns that the swarm uses: .csv, .npz or .parquet.",
)
@options.path(
    "--output",
    required=True,
    about="The CSV file to write: the same columns, then the predicted class and its probability.",
)
@options.any_units
@_OWN_TASK
def predict(model: Path, source: Path, output: Path, any_units: bool, task: str | None, yes: bool) -> None:
    """Predict a class for each row of a table with MODEL: a node's data directory, or an exported file."""
    from rich.progress import Progress

    from p2pnode.identity.files import replace_file
    from p2pnode.learning.predict import predicted
    from p2pnode.learning.table import Piece, open_table
    from p2pnode.observe.console import terminal

    table = open_table(source)
    if output.resolve() == source.resolve():
        raise UserError(f"{output} is the input too: choose another --output")
    trained = _loaded(model, task, yes)
    began, rows = time.monotonic(), 0
    console = terminal()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(source.name, total=1.0)

        def tell(piece: Piece) -> None:
            nonlocal rows
            rows += len(piece.columns[0])
            progress.update(bar, completed=piece.done)

        replace_file(output, predicted(trained.model, table, any_units, tell, _note(source)))
    seconds = time.monotonic() - began
    click.echo(f"{output}: {rows} rows in {seconds:.1f} s ({rows / max(seconds, 1e-3):,.0f} a second)")


@click.command()
@_MODEL
@options.path("--data", required=True, about="Rows with labels, in the form in which nodes take them.")
@options.any_units
@_OWN_TASK
@options.as_json("Print one JSON object.")
def evaluate(model: Path, data: Path, any_units: bool, task: str | None, yes: bool, as_json: bool) -> None:
    """Measure MODEL, a node's data directory or an exported file, on rows with labels."""
    from p2pnode.learning.rows import rows_in
    from p2pnode.observe.stream import plain

    trained = _loaded(model, task, yes)
    rows, notes = rows_in(data, trained.model.task, 1, any_units)
    for line in notes:
        _note(data)(line)
    metrics = trained.model.score(rows)
    if as_json:
        click.echo(json.dumps({**_about(trained), "rows": len(rows.y), "metrics": plain(metrics)}))
        return
    click.echo(f"rows      {len(rows.y)}")
    for name, value in metrics.items():
        click.echo(f"{name:9} {value:.4f}")


@click.command()
@_MODEL
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@_OWN_TASK
def export(model: Path, out: Path, task: str | None, yes: bool) -> None:
    """Write MODEL, a node's data directory, to OUT.safetensors, with a card beside it, OUT.md."""
    from p2pnode.cli.card import card
    from p2pnode.identity.files import replace_file
    from p2pnode.model import export

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected a name that ends in .safetensors")
    trained = _loaded(model, task, yes)
    sha256 = export(trained, out)
    replace_file(out.with_suffix(".md"), card(trained, out.name, sha256).encode())
    state = "settled" if trained.settled else f"not settled, after round {trained.round}"
    click.echo(f"{out}  sha256 {sha256}  swarm {trained.manifest.swarm_id[:8]}  {state}")
    click.echo(f"{out.with_suffix('.md')}  its card")


def _loaded(path: Path, task: str | None, yes: bool) -> "Trained":
    from p2pnode.model import load

    accepted = path / "accepted" if path.is_dir() else None
    return load(path, lambda manifest: None if task is None else agreed(task, manifest, accepted, yes))


def _note(path: Path) -> Callable[[str], None]:
    return lambda line: click.echo(f"p2pnode: {path}: {line}", err=True)


def _about(trained: "Trained") -> dict[str, Any]:
    return {
        "swarm": trained.manifest.swarm_id,
        "round": trained.round,
        "settled": trained.settled,
    }
