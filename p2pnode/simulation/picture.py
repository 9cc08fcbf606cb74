"""What a scenario came to, as a picture: needs matplotlib, which most do without.

The same results give the same bytes: nothing of the hour is in the file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.errors import UserError
from p2pnode.identity.files import replace_file
from p2pnode.simulation.report import MB
from p2pnode.simulation.results import Line, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = Sequence[tuple[Summary, Line]]
"""Each run, and its trial with the first seed."""

KINDS = (".svg", ".png", ".pdf")
UNDATED: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
LOOKS: dict[Any, Any] = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "svg.fonttype": "none",  # text as text
}
STYLES = ("-", "--", ":", "-.")  # one after the other when the ten colours are used up


@dataclass(frozen=True)
class Panel:
    """What is drawn over what.

    Attributes:
        x: of a point in the results.
        y: of a point in the results; the metric's name stands for `{}`.
        across: what x is called.
        up: what y is called.
        unit: of x.
        logarithmic: which axes are, `x` or `y`.
    """

    x: str
    y: str
    across: str
    up: str
    unit: float = 1.0
    logarithmic: str = ""


PANELS = {
    "rounds": Panel("round", "{}", "rounds", "{}, nodes' mean"),
    "bytes": Panel("bytes", "{}", "MB sent by a node", "{}, nodes' mean", MB, "x"),
    "seconds": Panel("seconds", "{}", "seconds", "{}, nodes' mean"),
    "worst": Panel("round", "worst_{}", "rounds", "{}, worst node"),
    "apart": Panel("round", "distance", "rounds", "distance of nodes from their mean", logarithmic="y"),
    "settled": Panel("", "", "MB sent by a node, settling included", "{}, settled", MB, "x"),
}


def drawable(path: Path) -> None:
    """Find out, before anything is simulated, whether a picture can be drawn at `path`.

    Raises:
        UserError: it cannot.
    """
    if path.suffix not in KINDS:
        raise UserError(f"cannot draw {path}: its name must end in {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise UserError(f"cannot draw {path}: there is no folder {path.parent}")
    try:
        import matplotlib.figure  # noqa: F401, PLC0415
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'p2pnode[plots]'") from error


def draw(path: Path, name: str, found: Found, panels: Sequence[str] = tuple(PANELS)) -> None:
    """Write a picture.

    Args:
        path: its ending says which format.
        name: of the scenario.
        found: at least one run.
        panels: which of PANELS, three in a row.

    Raises:
        UserError: it cannot be written there.
    """
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows, drawn = -(-len(panels) // 3), BytesIO()
    with mpl.rc_context({**LOOKS, "svg.hashsalt": name}):
        figure = Figure(figsize=(14, 4 * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, 3, squeeze=False).flat, panels, strict=True):
            _fill(axes, PANELS[panel], found)
        _legend(figure, [one.label for one, _ in found])
        figure.savefig(drawn, format=path.suffix[1:], metadata=UNDATED.get(path.suffix))
    content = drawn.getvalue()
    replace_file(path, _smaller(content) if path.suffix == ".svg" else content)


def _fill(axes: "Axes", panel: Panel, found: Found) -> None:
    metric = found[0][0].metric
    for index, (one, line) in enumerate(found):
        points: Sequence[dict[str, float]] = line["points"]
        if "x" in panel.logarithmic and not one.bytes:
            continue  # nothing was sent
        if panel.x:
            x = [point[panel.x] / panel.unit for point in points]
            axes.plot(x, [point[panel.y.format(metric)] for point in points], **_style(index))
        else:
            color = _style(index)["color"]
            axes.errorbar(one.bytes / panel.unit, one.mean, yerr=one.deviation, fmt="o", color=color)
    axes.set(xlabel=panel.across, ylabel=panel.up.format(metric))
    axes.set(**{f"{axis}scale": "log" for axis in panel.logarithmic})


def _legend(figure: "Figure", labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [Line2D([], [], **_style(index)) for index in range(len(labels))]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")


def _style(index: int) -> dict[str, Any]:
    return {"color": f"C{index % 10}", "linestyle": STYLES[index // 10 % len(STYLES)]}


def _smaller(svg: bytes) -> bytes:
    """With two decimals instead of six, from 10 on one; no indentation, and no names that nothing uses."""
    decimals = (rb"(\d\d\.\d)\d+", rb"\1"), (rb"(\d\.\d\d)\d+", rb"\1")
    for what, instead in (*decimals, (rb"\n\s+", b"\n"), (rb' id="\w+_\d+"', b"")):
        svg = re.sub(what, instead, svg)
    return svg
