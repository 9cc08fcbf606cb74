"""How long bytes take from one peer to another, and when they do not get through.

A `Line` is one direction between two peers, shared by all their streams as the streams of a real
host share one TCP connection: bytes leave one after the other at the link's bandwidth, travel for
its latency, and never overtake each other. Nothing is carried by background tasks. A line says, as
a plain number, *when* something sent now will arrive, and whoever waits for it sleeps until then.

Two kinds of harm can come to what is under way, and neither tears a living stream, as in TCP:

- **Loss** delays. A lost segment is sent again after a timeout that doubles each time (RFC 6298),
  and all that follows on the line waits for it.
- **An outage** silences. What would arrive while two peers are parted arrives one latency after
  they are joined again. Nobody is told; only their own deadlines end the waiting.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from random import Random

import trio

from p2pnode.ports import PeerId

RETRANSMISSION_SECONDS = 0.2
"""Added to the round trip before a lost segment is sent again: Linux's least timeout."""


@dataclass(frozen=True)
class Link:
    """What one direction between two peers is like.

    Attributes:
        latency: seconds from leaving one end to arriving at the other.
        jitter: up to so many seconds more, drawn anew for every segment. Order is kept, so a slow
            segment also holds back those behind it.
        bandwidth: bytes per second, shared by all streams between the two.
        loss: probability in [0, 1) that a segment of at most 64 KiB must be sent again.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float = math.inf
    loss: float = 0.0

    def __post_init__(self) -> None:
        if min(self.latency, self.jitter) < 0 or self.bandwidth <= 0 or not 0 <= self.loss < 1:
            raise ValueError(f"no link can be like this: {self}")


@dataclass(eq=False)
class Outage:
    """A time during which some do not reach some others.

    Attributes:
        cuts: whether what its first argument sends does not reach its second.
        start, end: virtual seconds; the end is infinite until it is known.
    """

    cuts: Callable[[PeerId, PeerId], bool]
    start: float
    end: float = math.inf


class Line:
    """One direction between two peers.

    Args:
        link: what it is like now; may be replaced at any time, for what is sent from then on.
        outages: those that are on; of others `notice` tells.
        seed: of jitter and loss, for this line alone: more peers elsewhere change nothing here.
    """

    def __init__(
        self, source: PeerId, target: PeerId, link: Link, outages: Iterable[Outage], seed: int
    ) -> None:
        self.source = source
        self.target = target
        self.link = link
        self._outages = [outage for outage in outages if outage.cuts(source, target)]  # oldest first
        self._seed = seed
        self._idle_at = 0.0  # when the last byte accepted so far has left
        self._last_arrival = 0.0
        self._lots: dict[trio.lowlevel.ParkingLot, None] = {}  # where anybody waits

    @cached_property
    def _random(self) -> Random:
        """Made when first asked for: it takes 2.5 KB, and there is a line for each two peers that meet."""
        return Random(f"{self._seed} {self.source} {self.target}")

    def notice(self, outage: Outage) -> None:
        """An outage begins now. Those that can delay nothing any more are forgotten."""
        if outage.cuts(self.source, self.target):
            past = outage.start - self.link.latency
            self._outages = [*(one for one in self._outages if one.end >= past), outage]

    def depart(self, size: int) -> float:
        """Put `size` bytes on the line now; returns when they arrive if no outage is in the way."""
        self._idle_at = max(self._idle_at, trio.current_time()) + size / self.link.bandwidth
        self._last_arrival = max(self._last_arrival, self._idle_at + self._delay())
        return self._last_arrival

    def _delay(self) -> float:
        delay, timeout = self.link.latency, 2 * self.link.latency + RETRANSMISSION_SECONDS
        if self.link.jitter:
            delay += self._random.uniform(0, self.link.jitter)
        while self.link.loss and self._random.random() < self.link.loss:
            delay += timeout
            timeout *= 2
        return delay

    def due(self, arrival: float) -> float:
        """When something that `depart` promised for `arrival` is really there; infinite: unknown."""
        for outage in self._outages:
            if outage.start <= arrival < outage.end:
                arrival = outage.end + self.link.latency
        return arrival

    async def until(self, due: Callable[[], float], lot: trio.lowlevel.ParkingLot) -> None:
        """Wait for the moment that `due` names, asking again when called out of `lot`."""
        while (moment := due()) > trio.current_time():
            self._lots[lot] = None
            try:
                if moment < math.inf:
                    with trio.move_on_at(moment):
                        await lot.park()
                else:
                    await lot.park()
            finally:
                if not lot:
                    self._lots.pop(lot, None)

    def changed(self) -> None:
        """Let everybody who waits on this line ask again what they are waiting for."""
        for lot in self._lots:
            lot.unpark_all()
