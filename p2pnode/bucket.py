"""How often something may happen.

A *bucket* holds tokens. It begins full and is filled at a steady rate; whatever is counted takes a token, and
is refused when none is left (a token bucket, as in RFC 2697). So a burst passes and a flood does not.

Each of many has a bucket of its own, so that one cannot take what is there for all; behind them is one for
all together, where it costs nothing to be many.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_KEPT = 4096
"""Buckets of one kind that are kept, 200 bytes each. Of more, the one used longest ago is forgotten."""


@dataclass(frozen=True)
class Rate:
    """How often something may happen: so often a second for long, and `burst` times at once."""

    second: float
    burst: int


class Bucket:
    """Tokens for one kind of thing. Begins full."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = -math.inf

    def take(self, now: float) -> bool:
        """Whether there is a token at `now`, in seconds; it is gone then."""
        filled = self._left + (now - self._at) * self._rate.second
        self._left, self._at = min(self._rate.burst, filled), now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """What took a token shall cost nothing."""
        self._left += 1


class Buckets(Generic[K]):
    """A bucket for each of many, and one for all of them together.

    Args:
        each: of one.
        together: of all.
    """

    def __init__(self, each: Rate, together: Rate) -> None:
        self._each = each
        self._together = Bucket(together)
        self._kept: OrderedDict[K, Bucket] = OrderedDict()

    def take(self, key: K | None, now: float) -> bool:
        """Whether `key` may go on at `now`. None has no bucket of its own.

        Who may not takes nothing from the others.
        """
        own = self._bucket(key)
        if own is not None and not own.take(now):
            return False
        if not self._together.take(now):
            if own is not None:
                own.give_back()
            return False
        return True

    def give_back(self, key: K | None) -> None:
        """What took a token shall cost nothing."""
        if (own := self._bucket(key)) is not None:
            own.give_back()
        self._together.give_back()

    def _bucket(self, key: K | None) -> Bucket | None:
        if key is None:
            return None
        bucket = self._kept.pop(key) if key in self._kept else Bucket(self._each)
        self._kept[key] = bucket
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return bucket
