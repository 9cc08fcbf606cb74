"""Whether exchanges conserve: what each moved at either end, until both have been heard of."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from p2pnode.events import ExchangeCompleted, ExchangeUnsettled
from p2pnode.ports import PeerId
from p2pnode.rehearsal.invariants import Moved, conserved

Id = tuple[PeerId, PeerId, str]
"""Initiator, acceptor, and a number that the two have used once."""

WITHIN = 300.0
"""Seconds before or after it is completed in which the other end may have died: longer than any takes."""


def id_of(me: PeerId, event: ExchangeCompleted) -> Id:
    """The exchange that node `me` says to have completed."""
    initiator, acceptor = (me, event.peer) if event.initiator else (event.peer, me)
    return initiator, acceptor, event.exchange


@dataclass
class Sums:
    """The books of all exchanges.

    Attributes:
        computing: the name of the node whose turn it is.
        wrong: a line for each exchange that is not as it must be.
    """

    computing: str = ""
    wrong: list[str] = field(default_factory=list)
    _moved: dict[str, Moved] = field(default_factory=dict)
    _halves: dict[Id, tuple[PeerId, Moved, float]] = field(default_factory=dict)  # who, what, when
    _excused: set[tuple[PeerId, str]] = field(default_factory=set)  # peer and exchange
    _died: dict[PeerId, list[float]] = field(default_factory=dict)

    def moved(self, by: Moved) -> None:
        """A merge has moved the parameters of the node whose turn it is, f64[n]."""
        if not by.any():
            return
        if self.computing in self._moved:
            self.wrong.append(f"{self.computing}: parameters were moved by no exchange")
        self._moved[self.computing] = by

    def completed(self, name: str, me: PeerId, event: ExchangeCompleted, now: float) -> None:
        """A node has completed an exchange."""
        exchange, mine = id_of(me, event), self._moved.pop(name, np.zeros(1))
        other, theirs, _ = self._halves.pop(exchange, (None, mine, now))
        if other in (None, me):
            self._halves[exchange] = (me, mine, now)
        else:
            self.wrong += conserved(event.exchange, mine, theirs)

    def unsettled(self, event: ExchangeUnsettled) -> None:
        """A node has not learned the outcome, and said so."""
        self._excused.add((event.peer, event.exchange))

    def ended(self, name: str, me: PeerId, now: float, *, by_surprise: bool) -> None:
        """A process has ended; by surprise, perhaps in the middle of an exchange."""
        self._moved.pop(name, None)
        if by_surprise:
            self._died.setdefault(me, []).append(now)

    def one_sided(self) -> Iterator[str]:
        """Exchanges that only one end completed, though the other lived on and did not say so."""
        for (initiator, acceptor, exchange), (me, _, done) in self._halves.items():
            other = acceptor if me == initiator else initiator
            died = any(abs(when - done) <= WITHIN for when in self._died.get(other, ()))
            if not died and (me, exchange) not in self._excused:
                yield f"exchange {exchange} was completed by {me} only"
