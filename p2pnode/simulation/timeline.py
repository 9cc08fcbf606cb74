"""What happens when, and in which tick: the network and the clock, without any learning.

Who trains, who meets whom and how long that takes does not depend on parameters. So it is played
through beforehand, event by event on a virtual clock, and comes out as ticks for `swarm.py`.

*In step*, every round is one tick for all: the schedules of synchronous methods. Nobody waits for all;
a node begins its next round when it and its partners have finished this one, so a slow link holds up
whoever depends on it, and those who depend on them later.

*Asynchronously*, nodes do what `gossip/rounds.py` does: a chunk of steps, and another; when a round
ends without an exchange since the last one, look for a partner who is free, first the one that the
shared matching names; both take a snapshot, train on as far as `overlap` allows, and merge when the
snapshots have crossed. A node has one exchange at a time. What takes no time here is asking in vain.
Who goes away misses a whole round, and whatever exchange is open then comes to nothing, at both ends.

Each event goes to the earliest tick that comes after all that it depends on: nodes that have nothing to
do with each other share a tick, whatever the time is.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from p2pnode.learning.schedule import Schedule
from p2pnode.learning.topology import matching
from p2pnode.simulation.links import Links
from p2pnode.simulation.swarm import Ticks

STEPS, ENDS, SHARES, MERGES = range(4)
"""The phases of a tick, in their order."""

MESSAGES = 5
"""Latencies of one exchange: offer, accept, begin with the snapshot, ready, commit."""


class Mark(NamedTuple):
    """A moment at which the swarm is looked at.

    Attributes:
        tick: how many have happened by then.
        seconds: on the virtual clock.
        rounds: that a node has finished, the mean.
        exchanges: snapshots that a node has sent, the mean.
    """

    tick: int
    seconds: float
    rounds: float
    exchanges: float


@dataclass(frozen=True)
class Timeline:
    """All ticks of a run, and when to look at it; `marks` begins before the first tick."""

    ticks: Ticks
    marks: list[Mark]

    def segments(self) -> Iterator[tuple[Ticks, Mark]]:
        """The ticks between marks, all cut to one length with ticks in which nothing happens."""
        cuts = [mark.tick for mark in self.marks]
        longest = int(np.diff(cuts).max())
        for first, last, mark in zip(cuts, cuts[1:], self.marks[1:], strict=False):
            part = Ticks(*(array[first:last] for array in self.ticks))
            yield Ticks(*(_filled(array, longest) for array in part)), mark


def in_step(
    schedule: Schedule,
    alive: npt.NDArray[np.bool_],
    links: Links,
    steps: int,
    payload: int,
    every: int,
    server: bool = False,
) -> Timeline:
    """Rounds in step, each in one tick.

    Args:
        schedule: partners of each round, without those that are away or whose exchange comes to nothing.
        alive: bool[rounds, n], who trains.
        links: how long things take.
        steps: local steps of a round.
        payload: bytes of a snapshot.
        every: rounds between two marks.
        server: all who are present wait for all: its mean is everybody's partner.
    """
    rounds, n, _ = schedule.partners.shape
    clock, marks = np.zeros(n), [Mark(0, 0.0, 0.0, 0.0)]
    sent, finished = 0, 0
    for round in range(rounds):
        clock = clock + steps * links.step * alive[round]
        slowest = clock.copy()
        for place in range(schedule.partners.shape[2]):
            other, met = schedule.partners[round, :, place], schedule.present[round, :, place]
            took = MESSAGES * links.latency + payload / links.rate(np.arange(n), other)
            slowest = np.where(met, np.maximum(slowest, np.maximum(clock, clock[other]) + took), slowest)
        if server:
            there = np.asarray(schedule.present[round].any(axis=1))
            slowest = np.where(there, slowest.max(initial=0.0, where=there), slowest)
        clock = slowest
        sent, finished = sent + int(schedule.present[round].sum()), finished + int(alive[round].sum())
        if (round + 1) % every == 0 or round + 1 == rounds:
            marks.append(Mark(round + 1, float(clock.mean()), finished / n, sent / n))
    shares = np.asarray(schedule.present.any(axis=2))
    turn, _, _ = np.nonzero(schedule.present)
    shares[turn, schedule.partners[schedule.present]] = True
    turns = np.repeat(np.arange(1, rounds + 1, dtype=np.int32)[:, None], n, axis=1)  # as nodes count them
    present = schedule.present.astype(np.float32)
    return Timeline(Ticks(alive, alive, shares, turns, schedule.partners, schedule.weights, present), marks)


@dataclass
class _Node:
    """Where a node is."""

    round: int = 0
    left: int = 0  # chunks of this round
    until: float = 0.0  # when its chunk ends
    busy: bool = False  # with an exchange
    had: bool = False  # an exchange since its round began
    ahead: int = 0  # steps since its snapshot
    waits: bool = False
    away: bool = False
    tick: int = 0
    phase: int = -1


@dataclass
class Play:
    """An asynchronous swarm, played through.

    Attributes:
        n: nodes.
        links: how long things take.
        rounds: of each node.
        chunks: of local steps in a round.
        chunk: steps in one.
        overlap: steps that a node may take while its exchange is open.
        payload: bytes of a snapshot.
        every: rounds between two marks, in the mean.
        away: the share of rounds that a node misses.
        seed: of partners, losses and absences.
    """

    n: int
    links: Links
    rounds: int
    chunks: int
    chunk: int
    overlap: int
    payload: int
    every: int
    away: float
    seed: int
    _events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    _rows: list[dict[int, list[tuple[int, int, int]]]] = field(default_factory=list)
    _marks: list[Mark] = field(default_factory=lambda: [Mark(0, 0.0, 0.0, 0.0)])
    _exchanges: int = 0
    _finished: int = 0  # rounds of all nodes

    def __post_init__(self) -> None:
        self._nodes = [_Node(left=self.chunks) for _ in range(self.n)]
        self._random = np.random.default_rng([self.seed, 1])
        self._order = count()
        self._names = [f"{index:05d}" for index in range(self.n)]
        self._matching = cache(self._match)
        self._floor = 0

    def timeline(self) -> Timeline:
        """Play it to its end."""
        now = 0.0
        for index in range(self.n):
            self._go(index, now)
        while self._events:
            now, _, happens, arguments = heapq.heappop(self._events)
            happens(*arguments, now)
        if self._marks[-1].tick < len(self._rows):
            self._mark(now)
        return Timeline(self._ticks(), self._marks)

    # --- a node ---

    def _go(self, index: int, now: float) -> None:
        """The next chunk, unless the node is through, or must wait for its exchange."""
        node = self._nodes[index]
        node.waits = node.busy and node.ahead + self.chunk > self.overlap
        if node.waits or node.round == self.rounds:
            return
        if node.left == self.chunks:
            node.had = False
            if self.away and self._random.random() < self.away:
                node.away, node.round = True, node.round + 1
                self._at(now + self.chunks * self.chunk * float(self.links.step[index]), self._return, index)
                return
        self._put(index, STEPS)
        node.ahead += self.chunk
        node.until = now + self.chunk * float(self.links.step[index])
        self._at(node.until, self._chunk_ends, index)

    def _return(self, index: int, now: float) -> None:
        self._nodes[index].away = False
        self._go(index, now)

    def _chunk_ends(self, index: int, now: float) -> None:
        node = self._nodes[index]
        node.left -= 1
        if node.left == 0:
            self._put(index, ENDS)
            node.round, node.left = node.round + 1, self.chunks
            if not (node.had or node.busy):
                self._seek(index, now)
            self._finished += 1
            if self._finished % (self.every * self.n) == 0:
                self._mark(now)
        self._go(index, now)

    def _seek(self, index: int, now: float) -> None:
        """Begin an exchange with whoever is free."""
        first = self._matching(self._nodes[index].round).get(self._names[index])
        others = self._random.permutation(self.n).tolist()
        for other in [*([] if first is None else [int(first)]), *others]:
            if other != index and self._is_free(other):
                self._begin(index, other, now)
                return

    def _is_free(self, index: int) -> bool:
        node = self._nodes[index]
        return not (node.busy or node.away) and node.round < self.rounds

    def _begin(self, index: int, other: int, now: float) -> None:
        for one in (index, other):
            self._put(one, SHARES, turn=self._nodes[index].round)
            self._nodes[one].busy, self._nodes[one].ahead = True, 0
        snapshot = max(now, self._nodes[other].until)
        took = MESSAGES * self.links.latency + self.payload / float(self.links.rate(index, other))
        self._exchanges += 2
        self._at(snapshot + took, self._complete, index, other)

    def _complete(self, index: int, other: int, now: float) -> None:
        left = any(self._nodes[one].away for one in (index, other))
        if self._random.random() >= self.links.drop and not left:
            tick = max(self._after(index, MERGES), self._after(other, MERGES))
            self._put(index, MERGES, tick, partner=other)
            self._put(other, MERGES, tick, partner=index)
        for one in (index, other):
            node = self._nodes[one]
            node.busy, node.had = False, True
            if node.waits:
                self._go(one, now)

    def _match(self, round: int) -> dict[str, str]:
        return matching(self._names, round, self.seed)

    # --- time, and ticks ---

    def _at(self, time: float, happens: Callable[..., None], *arguments: int) -> None:
        heapq.heappush(self._events, (time, next(self._order), happens, arguments))

    def _after(self, index: int, phase: int) -> int:
        """The first tick whose `phase` comes after all that the node has done."""
        node = self._nodes[index]
        return max(self._floor, node.tick + (phase <= node.phase))

    def _put(self, index: int, phase: int, tick: int = -1, turn: int = 0, partner: int = 0) -> None:
        tick = max(tick, self._after(index, phase))
        self._rows.extend({} for _ in range(tick + 1 - len(self._rows)))
        self._rows[tick].setdefault(phase, []).append((index, turn, partner))
        self._nodes[index].tick, self._nodes[index].phase = tick, phase

    def _mark(self, now: float) -> None:
        """Look at the swarm: what comes later goes to later ticks."""
        self._floor = len(self._rows)
        self._marks.append(Mark(self._floor, now, self._finished / self.n, self._exchanges / self.n))

    def _ticks(self) -> Ticks:
        shape = (len(self._rows), self.n)
        steps, ends, shares = (np.zeros(shape, bool) for _ in range(3))
        turns, partners = np.zeros(shape, np.int32), np.zeros((*shape, 1), np.int32)
        present = np.zeros((*shape, 1), np.float32)
        for tick, row in enumerate(self._rows):
            for mask, phase in ((steps, STEPS), (ends, ENDS), (shares, SHARES)):
                mask[tick, [index for index, _, _ in row.get(phase, ())]] = True
            for index, turn, _ in row.get(SHARES, ()):
                turns[tick, index] = turn
            for index, _, partner in row.get(MERGES, ()):
                partners[tick, index, 0], present[tick, index, 0] = partner, 1.0
        return Ticks(steps, ends, shares, turns, partners, np.full((*shape, 1), 0.5, np.float32), present)


def _filled(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """With zeros behind it, up to this length."""
    return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])
