"""The event log: one JSON object a line, in a few files of bounded size.

A line is written by one call and nothing is held back, so a killed process loses at most the line
it was writing. What is left of that line is cut off when the log is next opened. A log that cannot
be written is a pity, never a reason to stop training: that is said once a minute.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from p2pnode.observe.stream import Stamped, from_json, to_json

MAX_BYTES = 10_000_000
FILES = 3
"""30 MB: some 100,000 events, a day of a busy node."""

MAX_LINE = 1 << 20
"""Bytes; far more than an event has."""

COMPLAIN_EVERY = 60.0
"""Seconds between two lines that say that the log cannot be written."""

_log = logging.getLogger("p2pnode.journal")


class Journal:
    """Appends events to `path`, and moves it to `path.1`, `path.2` … when it is full.

    A subscriber of the event stream, and a context manager.

    Args:
        path: the newest file.
        max_bytes: of one file; a longer event gets a file to itself.
        files: how many files there are at most.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._file: FileIO | None = None
        self._complained: float | None = None

    def __call__(self, stamped: Stamped) -> None:
        """Append one event. Never raises for what the disk does."""
        line = json.dumps(to_json(stamped), separators=(",", ":")).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            self.close()
            self._complain(stamped.time, error)

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = _open_whole(self._path)
        size = self._file.tell()
        if size and size + len(line) > self._max_bytes:
            self.close()
            self._rotate()
            self._file = _open_whole(self._path)
        # A disk that fills up takes half a line, and says so only by the count.
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self) -> None:
        for age in range(self._files - 1, 0, -1):
            if (younger := _aged(self._path, age - 1)).exists():
                younger.replace(_aged(self._path, age))

    def _complain(self, now: float, error: OSError) -> None:
        if self._complained is None or abs(now - self._complained) >= COMPLAIN_EVERY:
            self._complained = now
            _log.warning("events are not being logged to %s: %s", self._path, error.strerror)


def read_journal(path: Path, report: Callable[[str], None], files: int = FILES) -> Iterator[Stamped]:
    """The events in the log, oldest first. Works while the node runs.

    Half a line at the end of a file is one that is being written, or whose writer was killed.

    Args:
        path: the newest file, as for `Journal`.
        report: called with one line for each line that is not an event of this version.
        files: how many files there are at most.
    """
    for age in range(files - 1, -1, -1):
        file = _aged(path, age)
        if file.exists():
            yield from _read_file(file, report)


def _read_file(path: Path, report: Callable[[str], None]) -> Iterator[Stamped]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
            if not line.endswith(b"\n"):
                continue
            try:
                yield from_json(json.loads(line))
            except (ValueError, RecursionError) as error:
                report(f"{path}:{number} is not an event of this version: {error}")


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}") if age else path


def _open_whole(path: Path) -> FileIO:
    """Open `path` for appending, without the half line that a killed process left at its end."""
    file = FileIO(path, "a+")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_LINE))
    tail = file.read(MAX_LINE)
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        file.truncate(size - torn)
        file.seek(0, os.SEEK_END)
    return file
