"""Results of a scenario for people: a table, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from p2pnode.errors import UserError
from p2pnode.simulation.results import Line, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MB = 1e6


def table(name: str, found: Sequence[Summary]) -> Table:
    """A row for each run."""
    metric = found[0].metric
    shown = Table(title=name, title_justify="left")
    for column in ("run", "rate", "rounds", f"settled {metric}", "nodes", "worst node"):
        shown.add_column(column, justify="left" if column == "run" else "right")
    by_client = any(one.clients is not None for one in found)
    for column in [*(["worst client"] if by_client else []), "distance", "MB a node", "seconds"]:
        shown.add_column(column, justify="right")
    for one in found:
        settled = f"{one.mean:.4f}" + (f" ± {one.deviation:.4f}" if len(one.settled) > 1 else "")
        client = ["" if one.clients is None else f"{one.clients:.4f}"] if by_client else []
        shown.add_row(
            one.label,
            f"{one.rate:g}",
            f"{one.rounds:.0f}",
            settled,
            f"{one.nodes:.4f}",
            f"{one.worst:.4f}",
            *client,
            f"{one.distance:.3g}",
            f"{one.bytes / MB:.3g}",
            f"{one.seconds:.4g}",
        )
    return shown


def draw(path: Path, name: str, found: Sequence[tuple[Summary, Line]]) -> None:
    """Write a picture: the metric by round, bytes and seconds, its spread, and the distance between nodes.

    Args:
        path: its ending says which format.
        name: of the scenario.
        found: each run, and its trial with the first seed.

    Raises:
        UserError: there is no matplotlib, or it cannot write there.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that most do without
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'p2pnode[plots]'") from error
    figure = Figure(figsize=(15, 8), layout="constrained")
    figure.suptitle(name)
    axes = figure.subplots(2, 3)
    metric = found[0][0].metric
    for place, (x, label) in enumerate(
        (("round", "rounds"), ("bytes", "MB sent by a node"), ("seconds", "seconds"))
    ):
        _lines(axes[0][place], found, x, metric, label, MB if x == "bytes" else 1.0)
    _lines(axes[1][0], found, "round", f"worst_{metric}", "rounds")
    _lines(axes[1][1], found, "round", "distance", "rounds")
    axes[0][1].set_xscale("log")
    axes[1][1].set_yscale("log")
    axes[1][2].axis("off")
    axes[1][2].legend(*axes[0][0].get_legend_handles_labels(), loc="upper left", fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from error


def _lines(
    axes: "Axes", found: Sequence[tuple[Summary, Line]], x: str, y: str, label: str, unit: float = 1.0
) -> None:
    for one, line in found:
        points: Sequence[dict[str, Any]] = line["points"]
        axes.plot([point[x] / unit for point in points], [point[y] for point in points], label=one.label)
    axes.set_xlabel(label)
    axes.set_ylabel(y.replace("_", " "))
    axes.grid(alpha=0.3)
