"""What was done and what the swarm did, as a table and for scripts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from p2pnode.chaos.diary import Diary, Done
from p2pnode.chaos.run import Outcome, State
from p2pnode.chaos.schedule import KINDS, Width
from p2pnode.chaos.usage import Usage
from p2pnode.chaos.verdict import broken
from p2pnode.events import ExchangeAborted, ExchangeCompleted, ExchangeUnsettled, RoundFinished


@dataclass(frozen=True)
class Row:
    """A fault, and what the swarm did.

    Attributes:
        at: seconds after the first moment of the schedule.
        kind: of fault.
        nodes: from 1 on.
        lasted: seconds.
        skew: of a clock, in seconds.
        rounds: finished meanwhile, by all nodes.
        exchanges: completed meanwhile; each is counted at both ends.
        aborted: meanwhile.
        unsettled: meanwhile.
        others: seconds that a node to which nothing was done had no exchange at most; None if there was none.
        back: seconds from its end until its nodes had averaged again; None when they never did, or had
            the next fault.
        within: the most that this may be.
    """

    at: float
    kind: str
    nodes: Sequence[int]
    lasted: float
    skew: float
    rounds: int
    exchanges: int
    aborted: int
    unsettled: int
    others: float | None
    back: float | None
    within: float


def row(diary: Diary, done: Done) -> Row:
    """What came of a fault."""
    fault = done.fault
    until = min(done.ended, diary.notes[-1].time)
    said = Counter(type(note.event) for note in diary.between(done.began, until))
    others, back = diary.held_up(done), diary.back(done)
    return Row(
        at=round(fault.at, 1),
        kind=fault.kind,
        nodes=[node + 1 for node in fault.nodes],
        lasted=round(until - done.began, 1),
        skew=fault.skew,
        rounds=said[RoundFinished],
        exchanges=said[ExchangeCompleted],
        aborted=said[ExchangeAborted],
        unsettled=said[ExchangeUnsettled],
        others=_seconds(others),
        back=_seconds(back),
        within=KINDS[fault.kind].within,
    )


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        rows: in the order of time.
        before: see `Outcome`.
        after: likewise.
        broken: a line for each thing that did not hold.
        left_out: kinds of faults that this machine does not allow, and why.
    """

    rows: Sequence[Row]
    before: State | None
    after: State | None
    broken: Sequence[str]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)

    def faults(self) -> Table:
        """A row for each fault."""
        drawn = Table(box=None, pad_edge=False)
        for heading in (
            "fault",
            "node",
            "at s",
            "for s",
            "rounds",
            "exchanges",
            "aborted",
            "unsettled",
            "others s",
            "back s",
        ):
            drawn.add_column(
                heading, justify="left" if heading in {"fault", "node"} else "right", no_wrap=True
            )
        for one in self.rows:
            every = KINDS[one.kind].width is Width.ALL
            nodes = "all" if every else ",".join(map(str, one.nodes))
            counts = map(str, (one.rounds, one.exchanges, one.aborted, one.unsettled))
            waits = ("-" if wait is None else f"{wait:.1f}" for wait in (one.others, one.back))
            drawn.add_row(one.kind, nodes, f"{one.at:.0f}", f"{one.lasted:.1f}", *counts, *waits)
        return drawn

    def states(self) -> Table:
        """The swarm before and after."""
        drawn = Table(box=None, pad_edge=False)
        for heading in ("", "accuracy", "memory", "descriptors", "tasks", "files"):
            drawn.add_column(heading, justify="right" if heading else "left")
        for name, state in (("before", self.before), ("after", self.after)):
            if state is not None:
                drawn.add_row(name, f"{state.accuracy:.3f}", *_most(state.usage))
        return drawn


def report(outcome: Outcome, left_out: Mapping[str, str]) -> Report:
    """Look at everything, while the nodes' files are there."""
    rows = [row(outcome.diary, done) for done in outcome.diary.done]
    return Report(rows, outcome.before, outcome.after, broken(outcome), left_out)


def _seconds(wait: float | None) -> float | None:
    return None if wait is None else round(wait, 2)


def _most(usage: Sequence[Usage]) -> list[str]:
    """The most that a node takes of each."""
    memory = decimal(max(one.memory for one in usage))
    rest = (max(getattr(one, name) for one in usage) for name in ("descriptors", "tasks", "files"))
    return [memory, *map(str, rest)]
