"""Whether a swarm takes ever more of the machine that it is rehearsed on.

What leaks does so a little at a time. So what all nodes together take is looked at again and again: in the
last quarter of the time it may not be more than in the first one, but for what chance does to it.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

PAGE = 4096

PARTS = 4
"""Parts of the time, of which the first and the last are compared: a swarm is never twice the same."""

SHARE = 0.02
"""By which that may be more in the last part: who is just talking to whom is chance."""


@dataclass(frozen=True)
class Taken:
    """What all nodes take together.

    Attributes:
        tasks: of the event loop.
        objects: that Python's garbage collector knows.
        memory: resident, in bytes.
        files: in their data directories.
        stored: bytes of those.
    """

    tasks: int
    objects: int
    memory: int
    files: int
    stored: int


def taken(tasks: int, folder: Path | None) -> Taken:
    """By this process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder else []
    return Taken(tasks, len(gc.get_objects()), PAGE * pages, len(sizes), sum(sizes))


def peaks(samples: Sequence[Taken]) -> tuple[Taken, Taken]:
    """The most of each in the first and in the last part of the time, by samples at equal intervals."""
    part = -(-len(samples) // PARTS)
    first, last = (
        Taken(**{one.name: max(getattr(s, one.name) for s in some) for one in fields(Taken)})
        for some in (samples[:part], samples[-part:])
    )
    return first, last


def grown(first: Taken, last: Taken) -> Iterator[str]:
    """What there is more of than at first."""
    for one in fields(Taken):
        before, now = getattr(first, one.name), getattr(last, one.name)
        if now > (1 + SHARE) * before:
            yield f"nodes grow: {one.name} {before} at first, {now} in the end"
