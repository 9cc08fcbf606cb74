"""What a piece of work cost this process.

CPU time is user and system time together, of all threads (getrusage(2)): on a machine that others use
too it is far steadier than wall time. Memory is how far the peak of resident memory rose (VmHWM in
proc_pid_status(5)), so what was in use before the work is not counted.
"""

import resource
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What was used.

    Attributes:
        seconds: of wall time.
        cpu: seconds of user and system time.
        memory: bytes by which the peak rose.
    """

    seconds: float
    cpu: float
    memory: int


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._memory = _peak()
        self._cpu = _cpu()
        self._began = time.perf_counter()

    def read(self) -> Usage:
        """What was used so far."""
        seconds = time.perf_counter() - self._began
        return Usage(seconds, _cpu() - self._cpu, _peak() - self._memory)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024  # "VmHWM:   12345 kB"
