"""What one exchange of two nodes costs: from the offer until both have averaged.

Two processes (`averager.py`), new ones in each turn, meet on loopback and average again and again. Beside
large models stands what bounds them: the same bytes through the same cipher and a socket, with nothing else
done to them. Small models are measured by how long an exchange takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from p2pnode.bench import process
from p2pnode.bench.averager import Plan
from p2pnode.bench.group import Peer, cpu, group
from p2pnode.bench.pair import measure as transfer
from p2pnode.bench.stream import Spread, spread
from p2pnode.bench.transfer import Load

DIRECT, STREAM, CEILING = "direct", "stream", "cipher and socket"
CODECS = ("float32", "bfloat16", "int8", "int4")
SMALL, SMALL_ROUNDS = 4_810, 500
ROUNDS = 5
"""Exchanges of each turn, after a first one that takes the memory."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        path: how the snapshots travel.
        codec: how they are written.
        parameters: how many there are.
    """

    path: str
    codec: str
    parameters: int


@dataclass(frozen=True)
class Turn:
    """What one turn of a case came to.

    Attributes:
        seconds: of each exchange.
        cpu: seconds of both processes for one.
        sent: bytes of a snapshot.
        memory: bytes by which the peak of each process was above what it held before the first exchange.
    """

    seconds: Sequence[float]
    cpu: float
    sent: int
    memory: Sequence[int]


@dataclass(frozen=True)
class Row:
    """A case over all turns.

    Attributes:
        seconds: until both have averaged.
        cpu: seconds of both processes.
        rate: MB of float32 parameters a second, of either.
        sent: bytes of a snapshot.
        memory: bytes over what a process held before, of the one that took more.
        allowed: bytes: two snapshots and 64 MiB.
    """

    path: str
    codec: str
    parameters: int
    seconds: Spread
    cpu: Spread
    rate: Spread
    sent: int
    memory: Spread
    allowed: int


@dataclass(frozen=True)
class Small:
    """Exchanges of a small model, in milliseconds: medians and 99th percentiles of the turns."""

    parameters: int
    middle: Spread
    slow: Spread


@dataclass(frozen=True)
class Report:
    """All that was found; `of_ceiling` is the rate of the direct path in float32 to that of its ceiling."""

    cases: Sequence[Row]
    small: Small
    of_ceiling: Spread


def plan(parameters: int, codecs: Sequence[str] = CODECS) -> list[Case]:
    """What each turn measures, in this order; float32 always, since it is what the ceiling is for."""
    chosen = ["float32", *(codec for codec in codecs if codec != "float32")]
    cases = [Case(path, codec, parameters) for codec in chosen for path in (DIRECT, STREAM)]
    return [*cases, Case(CEILING, "float32", parameters), Case(STREAM, "float32", SMALL)]


def run(cases: Sequence[Case], turns: int, tell: Callable[[int, Case], None]) -> Report:
    """Measure everything in each of so many turns.

    Raises:
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    found: dict[Case, list[Turn]] = {case: [] for case in cases}
    for turn in range(1, turns + 1):
        for case in cases:
            tell(turn, case)
            found[case].append(ceiling(case) if case.path == CEILING else measured(case))
    return summary(found)


def measured(case: Case) -> Turn:
    """One turn of a case."""
    large = case.parameters > SMALL
    plans = [Plan(index, 2, case.parameters, case.codec, case.path == DIRECT) for index in range(2)]
    with group(plans) as (one, other):
        before = [held(peer) for peer in (one, other)]
        average(one, other, 1 if large else SMALL_ROUNDS // 10)
        used = cpu((one, other))
        seconds = average(one, other, ROUNDS if large else SMALL_ROUNDS)
        used = cpu((one, other)) - used
        memory = [process.peak(peer.pid) - idle for peer, idle in zip((one, other), before, strict=True)]
        return Turn(seconds, used / len(seconds), int(one.ask("size")["bytes"]), memory)


def ceiling(case: Case) -> Turn:
    """The bytes of both snapshots alone, one way, since its sockets block."""
    size = 4 * case.parameters
    both = transfer("bulk-sealed", Load(2 * size))
    return Turn([both.seconds], both.dialler.usage.cpu + both.listener.usage.cpu, size, [0])


def held(peer: Peer) -> int:
    """Bytes that it holds with its parameters and before any exchange; its peak counts from here."""
    peer.ask("trim")
    process.forget_peak(peer.pid)
    return process.resident(peer.pid)


def average(one: Peer, other: Peer, times: int) -> list[float]:
    """Let them average; the seconds of each time."""
    other.tell("accept", times)
    mine, theirs = one.ask("average", other.name, times), other.answer()
    return [
        max(ends) - began for began, *ends in zip(mine["began"], mine["ended"], theirs["ended"], strict=True)
    ]


def summary(found: dict[Case, list[Turn]]) -> Report:
    """What the turns came to."""
    large = {case: turns for case, turns in found.items() if case.parameters > SMALL}
    [(small, times)] = [(case, turns) for case, turns in found.items() if case.parameters == SMALL]
    sorted_times = [sorted(1e3 * one for one in turn.seconds) for turn in times]
    [bound] = [turns for case, turns in large.items() if case.path == CEILING]
    [best] = [turns for case, turns in large.items() if case.path == DIRECT and case.codec == "float32"]
    return Report(
        [_row(case, turns) for case, turns in large.items()],
        Small(
            small.parameters,
            spread([median(one) for one in sorted_times]),
            spread([one[len(one) * 99 // 100] for one in sorted_times]),
        ),
        spread(
            [median(limit.seconds) / median(ours.seconds) for ours, limit in zip(best, bound, strict=True)]
        ),
    )


def _row(case: Case, turns: Sequence[Turn]) -> Row:
    seconds = [median(turn.seconds) for turn in turns]
    return Row(
        case.path,
        case.codec,
        case.parameters,
        spread(seconds),
        spread([turn.cpu for turn in turns]),
        spread([4e-6 * case.parameters / one for one in seconds]),
        turns[0].sent,
        spread([max(turn.memory) for turn in turns]),
        2 * turns[0].sent + (64 << 20),
    )
