"""A limit on how many bytes a second a node sends, over all its connections together.

Bytes leave one after the other in a row of time slots, each as long as its bytes take at the allowed rate:
who wants to send some takes the next free slot and waits for it. Slots not used are lost, but for a short
burst. This is a token bucket (RFC 2697) told from the other side.
"""

import math
import threading
import time
from collections.abc import Callable

SPAN_SECONDS = 0.02
"""How much is sent at once: what may pass in this time. Small messages wait no longer for large ones."""

LEAST = 1460
"""Bytes sent at once even so: a TCP segment over Ethernet."""


class Pace:
    """One node's; may be used from several threads.

    Args:
        rate: bytes a second; infinite for no limit.
        clock: tells seconds.
        sleep: blocks a thread for some.
    """

    def __init__(
        self,
        rate: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free = 0.0
        self._lock = threading.Lock()

    @property
    def piece(self) -> int:
        """Bytes that may be sent at once."""
        return max(LEAST, int(min(self._rate * SPAN_SECONDS, 2**62)))

    def wait(self, size: int) -> float:
        """Take the next slot for `size` bytes; seconds until it begins."""
        if math.isinf(self._rate):
            return 0.0
        with self._lock:
            now = self._clock()
            begins = max(self._free, now - SPAN_SECONDS)
            self._free = begins + size / self._rate
            return max(0.0, begins - now)

    def block(self, size: int) -> None:
        """Take the next slot for `size` bytes, and hold this thread until it begins."""
        if seconds := self.wait(size):
            self._sleep(seconds)
