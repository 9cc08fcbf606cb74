"""What happens to which node, and when: made beforehand from a seed, so that it can be had again.

As with Netflix's chaos monkey (Basiri et al., "Chaos Engineering", IEEE Software 2016) faults come at
random moments while the swarm works. Everything is undone in the end, and at most half of the nodes
have a fault at one time, so that the others can go on; only `swarm` takes all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import NamedTuple


class Width(Enum):
    """How many nodes a fault takes."""

    ONE = "one"
    SIDE = "side"  # half of them at most, who see each other and nobody else
    ALL = "all"


class Need(Enum):
    """What a fault needs of this machine, see `means`."""

    NETWORKS = "networks"
    LIMITS = "limits"  # of what goes through a network
    DISKS = "disks"


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        about: what is done, for people.
        longest: seconds that it lasts at most.
        within: seconds after its end in which its nodes must be back, see `diary.back`. A member that
            was given up is looked for again at least every 80 s.
        needs: of the machine.
        width: how many nodes it takes.
        unsettles: whether an exchange may end without its outcome being known to both.
    """

    about: str
    longest: float
    within: float = 60.0
    needs: tuple[Need, ...] = ()
    width: Width = Width.ONE
    unsettles: bool = False


KINDS = {
    "kill": Kind("killed, then started again", 5.0, unsettles=True),
    "freeze": Kind("stopped by SIGSTOP, then let go on", 30.0, unsettles=True),
    "clock": Kind("started again with its clock 5 minutes ahead or behind, then with the right one", 60.0),
    "partition": Kind(
        "cut off from the others, then connected", 60.0, 120.0, (Need.NETWORKS,), Width.SIDE, unsettles=True
    ),
    "throttle": Kind("on a line of 1 Mbit/s, then on a fast one", 60.0, needs=(Need.NETWORKS, Need.LIMITS)),
    "disk": Kind("its disk full, then not", 60.0, needs=(Need.DISKS,)),
    "swarm": Kind("all killed, then all started again", 5.0, 120.0, width=Width.ALL, unsettles=True),
}
"""Every kind of fault, by its name."""

SKEW = 300.0
"""Seconds by which a clock is wrong."""


class Fault(NamedTuple):
    """One fault.

    Attributes:
        at: seconds after the beginning.
        until: when it is undone.
        kind: its name in `KINDS`.
        nodes: indices, ascending.
        skew: of a clock, in seconds; 0 of other kinds.
    """

    at: float
    until: float
    kind: str
    nodes: tuple[int, ...]
    skew: float = 0.0


class Moment(NamedTuple):
    """When a fault begins or, if `undo`, ends."""

    time: float
    fault: Fault
    undo: bool


def plan(seed: int, nodes: int, seconds: float, every: float, kinds: Sequence[str]) -> list[Fault]:
    """Faults in the order of their beginnings, all undone after `seconds` at the latest.

    Args:
        seed: of every choice.
        nodes: how many there are, at least two.
        seconds: how long it goes on.
        every: seconds between two faults on average. When no node is free, one is left out.
        kinds: names in `KINDS`.
    """
    random = Random(seed)
    faults: list[Fault] = []
    at = 0.0
    while (at := at + every * random.uniform(0.5, 1.5)) < seconds:
        name = random.choice(kinds)
        until = min(seconds, at + min(KINDS[name].longest, 2 * every) * random.uniform(0.2, 1.0))
        skew = random.choice((-SKEW, SKEW)) if name == "clock" else 0.0
        now = [fault for fault in faults if fault.until >= at]
        lately = [fault for fault in faults if fault.until >= at - 2 * every]
        if KINDS[name].width is Width.SIDE and any(fault.kind == name for fault in now):
            continue  # one cut is undone before the next
        if chosen := choose(random, KINDS[name].width, nodes, affected(now), affected(lately)):
            faults.append(Fault(at, until, name, chosen, skew))
    return faults


def affected(faults: Sequence[Fault]) -> set[int]:
    """The nodes that have one of these."""
    return {node for fault in faults for node in fault.nodes}


def choose(random: Random, width: Width, nodes: int, busy: set[int], tired: set[int]) -> tuple[int, ...]:
    """The nodes that a fault takes; none when too many have one already.

    Args:
        random: makes the choice.
        width: how many.
        nodes: that there are.
        busy: those that have a fault now.
        tired: those that had one a short while ago: taken only when there are no others.
    """
    if width is Width.ALL:
        return () if busy else tuple(range(nodes))
    room = nodes // 2 - len(busy)
    if room < 1:
        return ()
    free = [node for node in range(nodes) if node not in busy]
    fresh = [node for node in free if node not in tired] or free
    count = 1 if width is Width.ONE else random.randint(1, min(room, len(fresh)))
    return tuple(sorted(random.sample(fresh, count)))


def moments(faults: Sequence[Fault]) -> list[Moment]:
    """Beginnings and ends in the order of time."""
    begun = [Moment(fault.at, fault, undo=False) for fault in faults]
    return sorted(begun + [Moment(fault.until, fault, undo=True) for fault in faults])
