"""Two runs that were the same, to the last event and instant, have the same digest."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable

from p2pnode.events import Event
from p2pnode.observe.stream import Stamped, to_json


class Trace:
    """A SHA-256 over all that happened, in its order.

    Args:
        hide: a path that is another in each run; what is in it keeps its place.
        write: takes each line.
    """

    def __init__(self, hide: str, write: Callable[[str], object] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._hide = hide
        self._write = write
        self._hash = hashlib.sha256()

    def event(self, time: float, node: str, event: Event) -> None:
        """A node said something, at a virtual time."""
        self.counts[type(event).__name__] += 1
        self._add(json.dumps({"node": node, **to_json(Stamped(time, event))}))

    def deed(self, time: float, what: str) -> None:
        """Something was done to the swarm."""
        self._add(json.dumps({"time": time, "deed": what}))

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()

    def _add(self, line: str) -> None:
        line = line.replace(self._hide, "") + "\n"
        self._hash.update(line.encode())
        if self._write is not None:
            self._write(line)
