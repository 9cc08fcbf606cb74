"""Two processes with nothing in common, started for one transfer and gone after it.

New ones for each, so that no transfer profits from the memory of another.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from p2pnode.bench.transfer import Load, Outcome
from p2pnode.bench.usage import Usage


@dataclass(frozen=True)
class Both:
    """What the two processes found.

    Attributes:
        dialler: who sent.
        listener: who received.
    """

    dialler: Outcome
    listener: Outcome

    @property
    def bytes(self) -> int:
        """That reached either."""
        return self.dialler.received + self.listener.received

    @property
    def seconds(self) -> float:
        """Until both were done."""
        return max(self.dialler.usage.seconds, self.listener.usage.seconds)


def measure(path: str, load: Load) -> Both:
    """Carry out one transfer over `path`, a name in `end.PATHS`.

    Raises:
        subprocess.CalledProcessError: one process failed; it said why on stderr.
    """
    with _end("listen", path, load) as listener, _end("dial", path, load) as dialler:
        address = _line(listener)
        assert dialler.stdin is not None
        dialler.stdin.write(f"{address}\n")
        dialler.stdin.flush()
        return Both(_outcome(dialler), _outcome(listener))


@contextmanager
def _end(role: str, path: str, load: Load) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-m", "p2pnode.bench.end", role, path, json.dumps(asdict(load))]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603 - ourselves
        try:
            yield process
        finally:
            process.kill()


def _outcome(process: "subprocess.Popen[str]") -> Outcome:
    found = json.loads(_line(process))
    return Outcome(Usage(**found["usage"]), found["received"], found["trips"])


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise subprocess.CalledProcessError(process.wait(), process.args)
    return line.strip()
