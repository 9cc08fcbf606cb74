"""How long a peer may keep us waiting: learned from how long it has taken so far.

A stranger gets 10 s, and a second more for each megabyte. From then on the median of what a peer took
and how far that varies (the median absolute deviation) say what to expect of it, for each kind of wait
by itself: a node on the same machine is given up after two seconds, one behind a slow line gets what its
line needs. What a peer took is kept as a share of what a stranger would have been given, so that waits
for different numbers of bytes teach about one another. (TCP sets its retransmission timer from a mean
and a mean deviation, RFC 6298; medians are not moved by the one time in which a laptop slept.)

A peer that misses its deadline gets twice as long the next time, until it is in time again: else one
whose line became slow would never be waited for long enough to be learned about.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

import trio

from p2pnode.errors import Fault, PeerFault
from p2pnode.ports import PeerId

FIRST = 10.0
"""Seconds a stranger has for an answer: a handshake of several round trips with a busy machine on a phone."""

RATE = 1e6
"""Bytes a second that a stranger's transfer must at least reach."""

FLOOR = 2.0
"""Seconds that everybody has: a computer may be busy with something else for so long and be well."""

SPREADS = 8
"""Deviations above the median; four times the median at least. Times have long tails."""

SAMPLES = 16
"""Waits remembered of a peer and kind, so that a deadline follows a line that changes."""

LEAST = 3
"""Waits from which on there is something to go by."""

MOST_DOUBLINGS = 4
"""Of what is granted after missed deadlines: sixteen times as long at most."""

MOST_KEPT = 4096
"""Peers and kinds that are remembered; of more, the one asked about longest ago is forgotten."""


class Wait(Enum):
    """What is waited for."""

    ANSWER = "answer"  # to a question that takes no work
    PROBE = "probe"  # whether somebody else answers, which it waits for itself
    EXCHANGE = "exchange"  # of two snapshots, from its begin to its end
    STATE = "state"  # a manifest or a model


@dataclass
class _Past:
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    missed: int = 0


class Deadlines:
    """What one node has learned about all its peers.

    Args:
        patience: seconds that a stranger has for an answer.
        rate: bytes a second that its transfers must at least reach.
    """

    def __init__(self, patience: float = FIRST, rate: float = RATE) -> None:
        self._patience = patience
        self._rate = rate
        self._past: OrderedDict[tuple[PeerId, Wait], _Past] = OrderedDict()

    def first(self, size: int = 0) -> float:
        """Seconds that a stranger has for `size` bytes."""
        return self._patience + size / self._rate

    def longest(self, size: int = 0) -> float:
        """Seconds that anybody has at most, however slow it has been."""
        return self.first(size) * 2.0**MOST_DOUBLINGS

    def of(self, peer: PeerId, wait: Wait, size: int = 0) -> float:
        """Seconds that `peer` has for a wait of this kind, in which `size` bytes cross."""
        past = self._past.get((peer, wait), _Past())
        most = self.first(size) if wait is Wait.ANSWER else self.longest(size)
        return min(2.0**past.missed * self._expected(past, size), most)

    def took(self, peer: PeerId, wait: Wait, seconds: float, size: int = 0) -> None:
        """`peer` was in time."""
        past = self._remembered(peer, wait)
        past.shares.append(seconds / self.first(size))
        past.missed = 0

    def missed(self, peer: PeerId, wait: Wait) -> None:
        """`peer` was not."""
        past = self._remembered(peer, wait)
        past.missed = min(past.missed + 1, MOST_DOUBLINGS)

    @contextmanager
    def within(self, peer: PeerId, wait: Wait, complaint: str, size: int = 0) -> Iterator[None]:
        """A block that `peer` keeps waiting for `size` bytes. What it takes is learned from.

        Raises:
            PeerFault: `STALLED`: the deadline has passed.
        """
        began = trio.current_time()
        try:
            with at_most(self.of(peer, wait, size), complaint):
                yield
                self.took(peer, wait, trio.current_time() - began, size)
        except PeerFault as error:
            if error.fault is Fault.STALLED:
                self.missed(peer, wait)
            raise

    def _expected(self, past: _Past, size: int) -> float:
        if len(past.shares) < LEAST:
            return self.first(size)
        middle = median(past.shares)
        deviation = median(abs(share - middle) for share in past.shares)
        return max(FLOOR, max(4 * middle, middle + SPREADS * deviation) * self.first(size))

    def _remembered(self, peer: PeerId, wait: Wait) -> _Past:
        past = self._past.setdefault((peer, wait), _Past())
        self._past.move_to_end((peer, wait))
        if len(self._past) > MOST_KEPT:
            self._past.popitem(last=False)
        return past


@contextmanager
def at_most(seconds: float, complaint: str) -> Iterator[None]:
    """A block that a peer may keep waiting for so long.

    Raises:
        PeerFault: `STALLED`: it took longer.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise PeerFault(Fault.STALLED, f"{complaint} within {seconds:.1f} s")
