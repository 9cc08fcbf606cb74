"""`p2pnode predict`, `evaluate`, `export`: what to do with a model once a swarm has trained it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli.own import agreed
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.model import Trained

_MODEL = click.argument("model", type=click.Path(path_type=Path))
_ANY_UNITS = click.option(
    "--any-units", is_flag=True, help="Take a table whose numbers are of another size than the swarm's."
)


def _of_own(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options for a model whose task is in a file."""
    command = click.option("--yes", is_flag=True, help="Run the code in the task's file without asking.")(
        command
    )
    return click.option(
        "--task",
        metavar="TASK",
        help="Where the swarm's task is in a file: your copy of that.  [default: none, if it is built in]",
    )(command)


@click.command()
@_MODEL
@click.option(
    "--input",
    "source",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="A table with the columns that the swarm uses: .csv, .npz or .parquet.",
)
@click.option(
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The CSV file to write: the same columns, then the predicted class and its probability.",
)
@_ANY_UNITS
@_of_own
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
@click.option(
    "--data",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="Rows with labels, in the form in which nodes take them.",
)
@_ANY_UNITS
@_of_own
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
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
@_of_own
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
    import platformdirs

    from p2pnode.model import load

    folder = path if path.is_dir() else platformdirs.user_data_path("p2pnode", appauthor=False)

    def bring(manifest: Any) -> Any:
        if task is None:
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return agreed(task, manifest, folder / "accepted", yes)

    return load(path, bring)


def _note(path: Path) -> Callable[[str], None]:
    return lambda line: click.echo(f"p2pnode: {path}: {line}", err=True)


def _about(trained: "Trained") -> dict[str, Any]:
    return {
        "swarm": trained.manifest.swarm_id,
        "round": trained.round,
        "settled": trained.settled,
    }
