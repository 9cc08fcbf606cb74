"""Peers of hivemind on this machine, told what to do by bench_hivemind.py, and what they take.

A peer is a process (see hivemind_peer.py) with two Python children and a daemon in Go. It leads a session
of its own, by which all of them are found: processor time (proc_pid_stat(5)) and memory (proportional set
size, proc_pid_smaps(5)) count for the whole session.
"""

import json
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import click
import hivemind_peer

PEER = Path(hivemind_peer.__file__)
SMALL = 4810  # parameters: digits, see bench_simulate.py
TICKS = os.sysconf("SC_CLK_TCK")  # a second, in which the kernel counts processor time


@dataclass(frozen=True)
class Work:
    """What is to be done: the same by hivemind, and by `p2pnode bench` with these arguments."""

    name: str
    bench: tuple[str, ...]
    peers: int = 2
    parameters: int = SMALL
    rounds: int = 1
    compression: str = "NoCompression"
    part: int = 2**21  # bytes


class Swarm:
    """Peers of hivemind, from their start on."""

    def __init__(self, python: str, work: Work) -> None:
        self.began = time.monotonic()
        self.work = work
        self._peers = [
            subprocess.Popen(  # noqa: S603 - the person's own Python
                [python, str(PEER), json.dumps({**asdict(work), "index": index})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "HIVEMIND_LOGLEVEL": "CRITICAL"},  # what fails is raised as well
            )
            for index in range(work.peers)
        ]

    def join(self) -> list[dict[str, Any]]:
        """Let all know the first; what each said of its imports."""
        self._say("[]", to=slice(1))
        imports = self._hear()
        [first] = self._hear(of=slice(1))
        self._say(json.dumps(first["address"]), to=slice(1, None))
        self._hear(of=slice(1, None))
        return imports

    def average(self, *, watch: bool = False) -> dict[str, float]:
        """One round: seconds and CPU-seconds to find the group and to average; bytes only where watched."""
        cpu = [self.cpu()]
        self._say("match")
        found = self._hear()
        cpu.append(self.cpu())
        self._say("average")
        memory = self._highest() if watch else 0
        done = self._hear()
        cpu.append(self.cpu())
        mean = (self.work.peers - 1) / 2  # each starts with its number
        if not all(
            one["group"] == self.work.peers and math.isclose(one["value"], mean, rel_tol=1e-3) for one in done
        ):
            raise click.ClickException(f"hivemind did not find the mean: {done}")
        return {
            "matching": _between(found),
            "seconds": _between(done),
            "matching_cpu": cpu[1] - cpu[0],
            "cpu": cpu[2] - cpu[1],
            "memory": memory,
        }

    def memory(self) -> int:
        """Bytes of the peer that takes the most of them."""
        return max(sum(map(_memory, _session(peer.pid))) for peer in self._peers)

    def cpu(self) -> float:
        """Seconds that all peers have used."""
        return sum(_cpu(process) for peer in self._peers for process in _session(peer.pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ask all to leave, and end what remains."""
        for peer in self._peers:
            assert peer.stdin is not None
            with suppress(BrokenPipeError):  # it has ended by itself
                peer.stdin.close()
        for peer in self._peers:
            try:
                peer.wait(20)
            except subprocess.TimeoutExpired:
                click.echo("a peer of hivemind did not end by itself", err=True)
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(peer.pid, signal.SIGKILL)
            peer.wait()

    def _say(self, word: str, *, to: slice = slice(None)) -> None:
        for peer in self._peers[to]:
            assert peer.stdin is not None
            with suppress(BrokenPipeError):  # that it ended shows when it does not answer
                peer.stdin.write(word + "\n")
                peer.stdin.flush()

    def _hear(self, *, of: slice = slice(None)) -> list[dict[str, Any]]:
        lines = [peer.stdout.readline() for peer in self._peers[of] if peer.stdout]
        if not all(lines):
            raise click.ClickException("a peer of hivemind ended; what it said stands above")
        return [json.loads(line) for line in lines]

    def _highest(self) -> int:
        answers, highest = [peer.stdout for peer in self._peers], self.memory()
        while len(select.select(answers, [], [], 0.05)[0]) < len(answers):
            highest = max(highest, self.memory())
        return highest


def _session(leader: int) -> list[int]:
    """Processes that one has started, however deep, and itself."""
    found = []
    for process in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            if os.getsid(process) == leader:
                found.append(process)
        except ProcessLookupError:  # it just ended
            continue
    return found


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS  # user and system, its own and of children that ended


def _memory(process: int) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _between(said: Sequence[dict[str, float]]) -> float:
    """From when the first began to when the last ended."""
    return max(one["ended"] for one in said) - min(one["began"] for one in said)
