"""`p2pnode bench`: how fast things are on this machine."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.cli.bench_cost import idle, start
from p2pnode.cli.bench_exchange import exchange, mean, overlap

if TYPE_CHECKING:
    from rich.table import Table

    from p2pnode.bench.stream import Key, Report, Spread
    from p2pnode.bench.transfer import Load

NAMES = {
    "ours": "p2pnode",
    "stock": "libp2p's own",
    "bulk": "direct connection",
    "sealed": "cipher and socket",
    "bulk-sealed": "its cipher and socket",
    "cipher": "cipher alone",
    "socket": "socket alone",
    "copy": "memory copy",
}
"""How paths are called in tables."""


@click.group()
def bench() -> None:
    """Measure how fast things are on this machine."""


for command in (exchange, mean, overlap, start, idle):
    bench.add_command(command)


@bench.command()
@click.option(
    "--megabytes",
    metavar="MB",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="How much is sent each way; 64 streams share it.",
)
@click.option(
    "--turns",
    metavar="TURNS",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How often everything is measured; medians are shown.",
)
@click.option("--stock", is_flag=True, help="Measure libp2p's own host, Noise and yamux, too.")
@options.as_json("Print one JSON object instead of tables.")
def stream(megabytes: int, turns: int, stock: bool, as_json: bool) -> None:
    """Send bytes between two processes on this machine, beside what bounds that; see docs/PERFORMANCE.md."""
    from p2pnode.bench.stream import plan

    report = measured(plan(megabytes * 1_000_000, stock), turns)
    if as_json:
        click.echo(json.dumps({"megabytes": megabytes, "turns": turns, **asdict(report)}))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(transfers(report), "", trips(report), "", *remarks(report), sep="\n", soft_wrap=True)


def measured(jobs: "dict[Key, Load]", turns: int) -> "Report":
    """Measure, and show on stderr how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    from p2pnode.bench.stream import run
    from p2pnode.cli.unwind import unwinding

    stderr = Console(stderr=True)
    with unwinding(), Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        bar = progress.add_task("", total=turns * len(jobs))
        began = -1

        def tell(turn: int, key: "Key") -> None:
            nonlocal began
            began += 1
            what = f"turn {turn} of {turns}: {NAMES[key[0]]}, {key[1]}"
            progress.update(bar, completed=began, description=what)
            if not stderr.is_terminal:
                click.echo(what, err=True)

        return run(jobs, turns, tell)


def transfers(report: "Report") -> "Table":
    """Rate, CPU and memory; of the latter two first the sender's."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for heading in ("", "", "MB/s", "(least-most)", "CPU s/GB", "memory MB"):
        drawn.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in report.transfers:
        cpu = f"{row.sending.median:.2f} + {row.receiving.median:.2f}"
        memory = " + ".join(f"{one.median / 1e6:.1f}" for one in row.memory)
        rate = row.rate
        between = f"({rate.least:.0f}-{rate.most:.0f})"
        drawn.add_row(NAMES[row.path], row.case, f"{rate.median:.0f}", between, cpu, memory)
    return drawn


def trips(report: "Report") -> "Table":
    """Round trips."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for heading in ("64 bytes there and back", "median µs", "99th percentile µs"):
        drawn.add_column(heading, justify="right" if "µs" in heading else "left")
    for row in report.trips:
        drawn.add_row(NAMES[row.path], _said(row.middle, 0), _said(row.slow, 0))
    return drawn


def remarks(report: "Report") -> Iterator[str]:
    """What the figures say about each other."""
    yield (
        f"p2pnode reaches {_said(report.of_ceiling, 2)} of the rate of cipher and socket together, "
        f"a direct connection {_said(report.direct_of_ceiling, 2)} of that with its own cipher."
    )
    if report.cpu_to_stock and report.seconds_to_stock and report.both_ways_to_stock:
        yield (
            f"To libp2p's own, one way: {_said(report.cpu_to_stock, 2)} of the CPU, "
            f"{_said(report.seconds_to_stock, 2)} of the time; both ways: "
            f"{_said(report.both_ways_to_stock, 2)} times the rate."
        )


def _said(spread: "Spread", digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}-{spread.most:.{digits}f})"
