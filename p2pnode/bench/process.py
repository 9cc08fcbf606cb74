"""What a process has cost so far, read from outside of it (proc_pid_stat(5), proc_pid_smaps_rollup(5)).

CPU time is user and system time of all its threads, by the process's own clock. Memory is the proportional
set size: a page that several processes share counts for each by its part.
"""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(process: int) -> float:
    """CPU-seconds since its start, without its children."""
    # The number of that clock, as clock_getcpuclockid(3) makes it on Linux. /proc counts whole ticks,
    # of which a process that ran for ten milliseconds may have been there for none.
    return time.clock_gettime(~process << 3 | 2)


def parent(process: int) -> int:
    """The process that started it."""
    return int(_stat(process)[1])


def began(process: int) -> float:
    """When it was started, by the clock of `now`."""
    return int(_stat(process)[19]) / _TICKS


def memory(process: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024  # "Pss:   12345 kB"


def resident(process: int) -> int:
    """Bytes in memory now (VmRSS in proc_pid_status(5))."""
    return _status(process, "VmRSS")


def peak(process: int) -> int:
    """The most bytes that were in memory since `forget_peak`, or since its start."""
    return _status(process, "VmHWM")


def forget_peak(process: int) -> None:
    """Let `peak` count from here on (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def now() -> float:
    """Seconds since the machine was started, the same in every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _status(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024  # "VmRSS:   12345 kB"


def _stat(process: int) -> list[str]:
    """The fields after the name, which may hold anything; the first is the third of the manual's."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
