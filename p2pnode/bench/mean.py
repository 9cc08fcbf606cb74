"""What it costs several nodes to reach the exact mean of their models, as they do when they settle.

Each is a process of its own (`averager.py`). The time is from when all are told to settle until the last one
is settled: finding out who takes part, agreeing on it and comparing what came out are in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from p2pnode.bench import process
from p2pnode.bench.averager import Plan
from p2pnode.bench.group import Peer, group
from p2pnode.bench.stream import Spread, spread

ROUNDS = 3
"""Times that the same processes settle in each turn, after a first time that takes the memory."""


@dataclass(frozen=True)
class Mean:
    """What the turns came to.

    Attributes:
        members: how many there are.
        parameters: of each.
        seconds: until all have the mean.
        cpu: seconds of all processes, each until it has the mean.
        rate: MB of float32 parameters a second, of each.
        memory: bytes over what a process held before, of the one that took most.
    """

    members: int
    parameters: int
    seconds: Spread
    cpu: Spread
    rate: Spread
    memory: Spread


def run(members: int, parameters: int, turns: int, tell: Callable[[int], None]) -> Mean:
    """Let new processes settle in each of so many turns.

    Raises:
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    found: list[Sequence[float]] = []
    for turn in range(1, turns + 1):
        tell(turn)
        found.append(settled(members, parameters))
    seconds, used, memory = zip(*found, strict=True)
    rates = [4e-6 * parameters / one for one in seconds]
    return Mean(members, parameters, spread(seconds), spread(used), spread(rates), spread(memory))


def settled(members: int, parameters: int) -> Sequence[float]:
    """Seconds, CPU-seconds and memory of one turn."""
    with group([Plan(index, members, parameters) for index in range(members)]) as peers:
        for peer in peers:
            peer.ask("trim")
            process.forget_peak(peer.pid)
        before = [process.resident(peer.pid) for peer in peers]
        settle(peers)
        rounds = [settle(peers) for _ in range(ROUNDS)]
        memory = [process.peak(peer.pid) - idle for peer, idle in zip(peers, before, strict=True)]
        return *map(median, zip(*rounds, strict=True)), max(memory)


def settle(peers: Sequence[Peer]) -> tuple[float, float]:
    """Seconds and CPU-seconds of one time."""
    for peer in peers:
        peer.ask("differ")
        process.forget_peak(peer.pid)
    for peer in peers:
        peer.tell("settle")
    answers = [peer.answer() for peer in peers]
    mean = (len(peers) + 1) / 2
    assert all(answer["counted"] == len(peers) for answer in answers), "not all are in the mean"
    assert all(abs(answer["value"] - mean) < 1e-5 * mean for answer in answers), "it is not the mean"
    used = sum(answer["cpu"] for answer in answers)
    return max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers), used
