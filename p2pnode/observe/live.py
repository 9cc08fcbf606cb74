"""Several nodes at a glance: a table on the terminal that is drawn anew as events arrive.

What a row says is folded from a node's events by a pure function, so that it can be tested without
a terminal. Where there is no terminal to draw on, a line about all nodes comes every few seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from p2pnode import events
from p2pnode.observe.console import plural
from p2pnode.observe.stream import Stamped

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

WIDTH = 100
"""Characters of a line that is written over: more than it has."""


@dataclass(frozen=True)
class Row:
    """What is known of one node.

    Attributes:
        round: the last one finished.
        rounds: how many there will be; 0 while unknown.
        steps: local steps so far; None while unknown.
        accuracy: on the test set or else on the hold-out; None before the first.
        peers: alive in the node's view.
        exchanges: completed ones.
        bytes_sent: at the sockets.
        speed: steps a second in the last round; None while unknown.
        state: a word or two.
    """

    round: int = 0
    rounds: int = 0
    steps: int | None = None
    accuracy: float | None = None
    peers: int = 0
    exchanges: int = 0
    bytes_sent: int = 0
    speed: float | None = None
    state: str = "starting"

    def update(self, stamped: Stamped) -> "Row":
        """The row after one more event."""
        match stamped.event:
            case events.NodeReady(round=round):
                return replace(self, round=round, steps=None if round else 0, state="training")
            case events.PeerAlive():
                return replace(self, peers=self.peers + 1)
            case events.PeerLost():
                return replace(self, peers=max(0, self.peers - 1))
            case events.RoundFinished() as finished:
                return self._finish(finished)
            case events.ExchangeCompleted():
                return replace(self, exchanges=self.exchanges + 1)
            case events.Paused():
                return replace(self, state="paused")
            case events.Resumed():
                return replace(self, state="training")
            case events.CaughtUp(round=round) | events.Restored(round=round):
                return replace(self, round=round, steps=None)
            case events.Settled() as settled:
                state = f"settled {settled.counted}/{settled.members}"
                return replace(self, accuracy=accuracy(settled.metrics, self.accuracy), state=state)
            case events.Stopped(reason=reason):
                return replace(self, state=reason)
            case _:
                return self

    def _finish(self, finished: events.RoundFinished) -> "Row":
        speed = None
        if self.steps is not None and finished.seconds > 0:
            speed = (finished.steps - self.steps) / finished.seconds
        going = "paused" if self.state == "paused" else "training"  # the chunk under way may end the round
        return replace(
            self,
            round=finished.round,
            rounds=finished.rounds,
            steps=finished.steps,
            accuracy=accuracy(finished.metrics, self.accuracy),
            peers=finished.peers,
            bytes_sent=finished.bytes_sent,
            speed=speed,
            state="settling" if finished.round == finished.rounds else going,
        )


def accuracy(metrics: Mapping[str, float], before: float | None) -> float | None:
    """The one to show: on the test set where there is one; the one `before` when nothing was evaluated."""
    return metrics.get("test_accuracy", metrics.get("holdout_accuracy", before))


class LiveView:
    """Shows what several nodes do. A context manager; fed by `update` from one thread.

    Args:
        console: on stderr, or on stdout where the view is the result.
        rows: what is known of nodes already.
    """

    def __init__(self, console: Console, rows: Mapping[str, Row] = MappingProxyType({})) -> None:
        self._console = console
        self._rows = dict(rows)
        self._line_time = -math.inf
        self._live = Live(console=console, get_renderable=lambda: table(self._rows))

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()
        elif self._rows:
            self._say()

    def update(self, node: str, stamped: Stamped) -> None:
        """Take in an event of the node called `node`."""
        # A new dictionary each time: rich draws from a thread of its own.
        self._rows = {**self._rows, node: self._rows.get(node, Row()).update(stamped)}
        if not self._console.is_interactive and abs(stamped.time - self._line_time) >= LINE_EVERY:
            self._line_time = stamped.time
            self._say()

    def _say(self) -> None:
        line = summary(list(self._rows.values()))
        if self._console.is_jupyter:  # a notebook keeps what is printed: there the line is written over
            self._console.file.write(f"\r{line:{WIDTH}}")
        else:
            self._console.print(line, markup=False)


def table(rows: dict[str, Row]) -> Table:
    """All nodes, a row each, in the order they came."""
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("node")
    drawn.add_column("round", justify="right")
    drawn.add_column("", width=20)
    for heading in ("accuracy", "peers", "exchanges", "sent", "steps/s"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("state")
    for node, row in rows.items():
        drawn.add_row(
            node,
            f"{row.round}/{row.rounds or '?'}",
            ProgressBar(total=max(1, row.rounds), completed=row.round),
            "-" if row.accuracy is None else f"{row.accuracy:.3f}",
            str(row.peers),
            str(row.exchanges),
            decimal(row.bytes_sent),
            "-" if row.speed is None else f"{row.speed:.0f}",
            row.state,
        )
    return drawn


def summary(rows: Sequence[Row]) -> str:
    """All nodes in one line."""
    parts = [
        plural(len(rows), "node"),
        f"round {_span([row.round for row in rows], 'd')}/{max(r.rounds for r in rows)}",
    ]
    accuracies = [row.accuracy for row in rows if row.accuracy is not None]
    if accuracies:
        parts.append(f"accuracy {_span(accuracies, '.3f')}")
    parts.append(plural(sum(row.exchanges for row in rows), "exchange"))
    parts.append(f"{decimal(sum(row.bytes_sent for row in rows))} sent")
    return "  ".join(parts)


def _span(values: Sequence[float], form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least}-{most}"
