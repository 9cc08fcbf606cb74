"""`p2pnode` in processes of their own: started, watched through what they write, ended by their pid."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from p2pnode.events import Event, NodeReady
from p2pnode.observe.stream import Stamped, from_json

E = TypeVar("E", bound=Event)

PATIENCE = 60.0
"""Seconds for anything that must come: ten times what it takes on two cores that are busy."""

ROOT = Path(__file__).parents[2]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Program:
    """One running `p2pnode`.

    Args:
        words: its arguments.
        folder: where it runs; what it writes to stdout and stderr is kept there. As `--data-dir` it is
            given `data`.
        environment: of the process.
    """

    def __init__(self, words: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
        self.began = time.time()
        self.data = folder / "data"
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._history: list[Stamped] = []
        self._read = 0  # bytes of the event log
        folder.mkdir(exist_ok=True)
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "p2pnode", *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def output(self) -> str:
        """What it wrote to stdout so far."""
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self._err.read_text()

    def history(self) -> list[Stamped]:
        """All its events so far, without those of earlier starts with the same data directory."""
        log = self.data / "events.jsonl"
        if log.exists():
            with log.open("rb") as file:
                file.seek(self._read)
                lines, _, _ = file.read().rpartition(b"\n")
            self._read += len(lines) + bool(lines)
            events = [from_json(json.loads(line)) for line in lines.splitlines()]
            self._history += [one for one in events if one.time >= self.began]
        return self._history

    def events(self, kind: type[E]) -> list[tuple[float, E]]:
        """Its events of one kind so far, and when they happened."""
        return [(one.time, one.event) for one in self.history() if isinstance(one.event, kind)]

    def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until `what` is true; fail when the process ends before, or it takes too long."""
        wait_until(lambda: what() or self.popen.poll() is not None, self)
        assert what(), f"exit code {self.popen.returncode}: {self.errors}"

    def wait_ready(self) -> NodeReady:
        """Wait until the node listens."""
        self.wait_for(lambda: self.events(NodeReady))
        return self.events(NodeReady)[0][1]

    @property
    def address(self) -> str:
        """Where the node, which is ready, is reached."""
        ready = self.wait_ready()
        return f"{ready.addresses[0]}/p2p/{ready.peer}"

    def send(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to this process."""
        self.popen.send_signal(number)

    def code(self) -> int:
        """Wait for the end; the exit code, negative for the signal that killed it."""
        return self.popen.wait(PATIENCE)


def wait_until(what: Callable[[], object], *programs: Program) -> None:
    """Wait until `what` is true; when that takes too long, fail with what the programs said."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline:
            pytest.fail("\n\n".join(["waited in vain", *(one.errors[-2000:] for one in programs)]))
        time.sleep(0.05)


@contextlib.contextmanager
def launcher(folder: Path, cache: Path) -> Iterator[Callable[..., Program]]:
    """A function that starts `p2pnode` with some arguments; none outlives the block.

    Args:
        folder: where each gets a folder of its own.
        cache: shared by all, for compiled programs.
    """
    programs: list[Program] = []
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), "XDG_DATA_HOME": str(folder)}

    def start(*words: object, name: str = "") -> Program:
        place = folder / (name or f"{words[0]}-{len(programs)}")
        programs.append(Program(tuple(map(str, words)), place, {**os.environ, **threads, **own}))
        return programs[-1]

    try:
        yield start
    finally:
        for program in programs:
            program.popen.kill()
            program.popen.wait()
