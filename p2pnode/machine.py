"""What this machine gives a process: open files, memory, a clock. Linux's words for it are read here.

Each number comes in a function that asks the system, and what it means for a node in one that only
decides, so that every answer can be tested.
"""

import ctypes
import gc
import mmap
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from p2pnode.errors import UserError

FILES = 1024
"""Open files that a busy node may need: a connection each for 512 peers, and as many being dialled."""

FEWEST_FILES = 64
"""Open files without which a node is no use: itself takes some thirty, the rest are peers."""

LEAST_MEMORY = 2_000_000_000
"""Bytes of addresses without which JAX and its threads end in a crash: they take 1.7 GB before any model."""

DAY = 86_400.0

OLDEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""Seconds since the Unix epoch. A clock that says less has lost its battery."""

M_ARENA_MAX = -8
"""Of malloc.h."""

_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)
"""In a group's folder, version 2 and version 1: limit, use, and what of the use is only a cache."""


def allow_files(wanted: int = FILES) -> int:
    """Let this process open `wanted` files at once, or as many as it may; how many that is.

    Raises:
        UserError: it may not open enough for a node.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (-1, resource.RLIM_INFINITY) or soft >= wanted:
        return wanted
    allowed = wanted if hard in (-1, resource.RLIM_INFINITY) else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < FEWEST_FILES:
        raise UserError(
            f"this process may open only {allowed} files at once, a node needs {FEWEST_FILES}, and "
            f"{FILES} for many peers: raise the limit, e.g. with `ulimit -n {FILES}`"
        )
    return allowed


def allow_memory() -> None:
    """Look whether this process may take the memory that a node takes whatever its model is.

    Raises:
        UserError: it may not. JAX would abort without a word that a person understands.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit not in (-1, resource.RLIM_INFINITY) and limit < LEAST_MEMORY:
        raise UserError(
            f"this process may take only {limit / 1e9:.1f} GB of memory, a node needs "
            f"{LEAST_MEMORY / 1e9:.1f} GB and its model's: raise the limit with `ulimit -v`"
        )


def end_at_once() -> None:
    """Let SIGINT and SIGTERM end this process in good order, as long as it has nothing to put in order.

    Files are whole at any moment, so nothing is lost; unwinding could be caught half-way, by an import.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))


def share_arenas() -> None:
    """Let this process's threads share two of glibc's arenas (mallopt(3)), which keep what they once took.

    By default there are eight for each core, and each keeps what the largest works of its threads took.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)


def pages(size: int) -> memoryview:
    """Memory for large arrays, zeros. It begins where a page does, so JAX can compute on what lies in it.

    In huge pages where the system has them: to take a gigabyte in small ones costs as much as copying it.
    """
    if not size:
        return memoryview(bytearray())
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


@contextmanager
def importing() -> Iterator[None]:
    """Spare what the block imports the garbage collector, now and from then on, and threads for BLAS.

    Modules stay for good, so looking for garbage among them finds none; while libraries as large as
    JAX and libp2p are imported, it is a tenth of the work. BLAS, with which NumPy multiplies matrices,
    starts a thread for each core, and these spin for a tenth of a second: a node never multiplies with it.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def doubt_clock(now: float, last: float) -> str | None:
    """What is wrong with a clock that says `now` after a start at `last`, in seconds since the epoch."""
    if now < OLDEST:
        return f"this machine's clock says {day(now)}: set it"
    if last > now + DAY:
        return f"this machine's clock says {day(now)}, at this node's last start it said {day(last)}: set it"
    return None


def day(when: float) -> str:
    """The date of a moment in seconds since the epoch, or a word where the calendar ends."""
    try:
        return datetime.fromtimestamp(when, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return "nonsense"


def drift(seconds: float = 0.2) -> float:
    """By how many seconds the wall clock moves more than the monotonic one, in a moment of waiting."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(seconds)
    return (time.time() - wall) - (time.monotonic() - steady)


def free_memory() -> float:
    """Bytes that are free of this machine's memory, or of the share that this process was given."""
    return min(
        _free_of_machine(Path("/proc/meminfo")),
        *map(_free_of_share, _shares(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text())),
        _free_of_addresses(),
    )


def _free_of_addresses() -> float:
    """Of what `ulimit -v` allows; infinite where it allows everything."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit in (-1, resource.RLIM_INFINITY):
        return float("inf")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return float(limit - pages * resource.getpagesize())


def _shares(top: Path, groups: str) -> Iterator[Path]:
    """Folders of the groups whose limits hold for this process: its own, and those around it.

    Args:
        top: where control groups are mounted; in a container that is the container's own.
        groups: a line for each hierarchy, see cgroups(7). Version 2 has one, which names no controller.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            base = top / "memory" if controllers else top
            group = base / path.lstrip("/")
            yield group
            yield from (around for around in group.parents if around.is_relative_to(base))


def _free_of_machine(file: Path) -> float:
    return _table(file, ":").get("MemAvailable", 0.0) * 1024


def _free_of_share(folder: Path) -> float:
    """Infinity where no share is set."""
    for limit, use, stat, caches in _CGROUPS:
        text = (folder / limit).read_text().strip() if (folder / limit).exists() else "max"
        if text != "max" and (folder / use).exists():
            cached = _table(folder / stat, " ")
            used = float((folder / use).read_text()) - sum(cached.get(name, 0.0) for name in caches)
            return float(text) - used
    return float("inf")


def _table(file: Path, separator: str) -> dict[str, float]:
    pairs = (line.partition(separator) for line in file.read_text().splitlines())
    return {name: float(value.split()[0]) for name, _, value in pairs}
