"""What was done to a swarm and what its nodes said, by one clock; and from that how long they took.

The clock is the driver's, monotonic: those of the nodes may be wrong, as they are told to be.
"""

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from p2pnode.chaos.schedule import KINDS, Fault, Width
from p2pnode.events import Event, ExchangeCompleted, ExchangeUnsettled, NodeReady, RoundFinished
from p2pnode.observe.stream import Stamped
from p2pnode.ports import PeerId

SETTLES = 30.0
"""Seconds after a fault in which exchanges that it hit may still come to their ends."""


@dataclass(frozen=True)
class Note:
    """Something that a node, by its index, said at a `time` of the driver's clock."""

    time: float
    node: int
    event: Event


@dataclass
class Done:
    """A fault that was done.

    Attributes:
        fault: as planned.
        began: when it was done.
        ended: when it began to be undone; infinite until then.
    """

    fault: Fault
    began: float
    ended: float = math.inf

    def has(self, node: int, since: float, until: float) -> bool:
        """Whether `node` had it at some time between the two."""
        return node in self.fault.nodes and self.began <= until and self.ended >= since


@dataclass
class Diary:
    """Everything that happened, in the order of time. A subscriber of a cluster.

    Attributes:
        notes: what nodes said.
        done: what was done to them.
        peers: the node, by its index, of each peer.
    """

    notes: list[Note] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    peers: dict[PeerId, int] = field(default_factory=dict)

    def __call__(self, name: str, stamped: Stamped) -> None:
        """Take in one event of the node called `name`: `node 1` has index 0."""
        node = int(name.split()[1]) - 1
        if isinstance(ready := stamped.event, NodeReady):
            self.peers[ready.peer] = node
        self.notes.append(Note(time.monotonic(), node, stamped.event))

    def between(self, since: float, until: float = math.inf) -> Sequence[Note]:
        """What was said in that time."""
        first = bisect_left(self.notes, since, key=lambda note: note.time)
        return self.notes[first : bisect_right(self.notes, until, key=lambda note: note.time)]

    def back(self, done: Done) -> float | None:
        """Seconds from the end of a fault until each of its nodes had finished a round and averaged.

        With a node that did not have the fault, if there is one. None when one of them never did.
        """
        waits = [self.returned(done, node) for node in done.fault.nodes]
        known = [wait for wait in waits if wait is not None]
        return max(known) if len(known) == len(waits) else None

    def returned(self, done: Done, node: int) -> float | None:
        """The same of one of them; None when it never did before it had the next fault."""
        notes = self.between(done.ended, self.again(done, node))
        when = back(notes, node, self._others(done))
        return when - done.ended if when < math.inf else None

    def held_up(self, done: Done) -> float | None:
        """The longest that a node had no exchange to which nothing was done, of the time of a fault.

        None when there is no such node: a fault that is over leaves its traces for a while, too.
        """
        begin, end = done.began - SETTLES, done.ended + SETTLES
        hurt = {node for one in self.done for node in one.fault.nodes if one.has(node, begin, end)}
        times = {node: [begin] for node in self.peers.values() if node not in hurt}
        for note in self.between(begin, end):
            if note.node in times and isinstance(note.event, ExchangeCompleted):
                times[note.node].append(note.time)
        last = min(end, self.notes[-1].time)
        pauses = [longest([*some, last], done.began, done.ended) for some in times.values()]
        return max(pauses, default=None)

    def again(self, done: Done, node: int) -> float:
        """When `node` had its next fault; infinite when it had none."""
        later = self.done[self.done.index(done) + 1 :]
        return min((one.began for one in later if node in one.fault.nodes), default=math.inf)

    def unexplained(self) -> Iterator[Note]:
        """Exchanges whose outcome one end never learned, and no fault of that time says why."""
        for note in self.notes:
            if isinstance(event := note.event, ExchangeUnsettled):
                ends = (note.node, self.peers.get(event.peer, note.node))
                if not any(self._explains(done, ends, note.time) for done in self.done):
                    yield note

    def _explains(self, done: Done, ends: tuple[int, int], when: float) -> bool:
        unsettles = KINDS[done.fault.kind].unsettles
        return unsettles and any(done.has(node, when - SETTLES, when) for node in ends)

    def _others(self, done: Done) -> set[PeerId]:
        every = KINDS[done.fault.kind].width is Width.ALL
        return {peer for peer, node in self.peers.items() if every or node not in done.fault.nodes}


def longest(times: Sequence[float], since: float, until: float) -> float:
    """The longest time from one of these, ascending, to the next, of which a part is between the two."""
    return max(
        (later - earlier for earlier, later in pairwise(times) if later >= since and earlier <= until),
        default=0.0,
    )


def back(notes: Sequence[Note], node: int, others: set[PeerId]) -> float:
    """When `node` had finished a round and averaged with one of `others`; infinite when it has not."""
    rounds, exchanges = math.inf, math.inf
    for note in notes:
        if note.node != node:
            continue
        if isinstance(note.event, RoundFinished):
            rounds = min(rounds, note.time)
        elif isinstance(note.event, ExchangeCompleted) and note.event.peer in others:
            exchanges = min(exchanges, note.time)
        if max(rounds, exchanges) < math.inf:
            break
    return max(rounds, exchanges)
