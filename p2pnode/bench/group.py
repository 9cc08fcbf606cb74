"""Several averagers (`averager.py`), each in a process of its own, told what to do and watched."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from p2pnode.bench import process
from p2pnode.bench.averager import Plan


class Peer:
    """One of the processes."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.address = ""

    @property
    def name(self) -> str:
        """Its peer id."""
        return self.address.rpartition("/")[2]

    @property
    def pid(self) -> int:
        return self._child.pid

    def tell(self, *command: object) -> None:
        """What to do; `answer` waits for it to be done."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{json.dumps(command)}\n")
        self._child.stdin.flush()

    def answer(self) -> Any:
        """The next line that it writes.

        Raises:
            subprocess.CalledProcessError: it has ended; it said why on stderr.
        """
        assert self._child.stdout is not None
        if not (line := self._child.stdout.readline()):
            raise subprocess.CalledProcessError(self._child.wait(), self._child.args)
        return json.loads(line)

    def ask(self, *command: object) -> Any:
        """Both."""
        self.tell(*command)
        return self.answer()


@contextmanager
def group(plans: Sequence[Plan], settings: Mapping[str, str] | None = None) -> Iterator[list[Peer]]:
    """A process for each plan, one started after the other: they compile, and memory is short. All meet.

    Args:
        plans: at least one.
        settings: environment variables.
    """
    with ExitStack() as stack:
        peers: list[Peer] = []
        for plan in plans:
            peer = stack.enter_context(_started(plan, settings or {}))
            peer.address = peer.answer()
            for other in peers:
                peer.ask("meet", other.address)
            peers.append(peer)
        for peer in peers:
            peer.ask("await_members", len(plans))
        yield peers


def cpu(peers: Sequence[Peer]) -> float:
    """CPU-seconds of all, since they were started."""
    return sum(process.cpu(peer.pid) for peer in peers)


@contextmanager
def _started(plan: Plan, settings: Mapping[str, str]) -> Iterator[Peer]:
    command = [sys.executable, "-m", "p2pnode.bench.averager", json.dumps(asdict(plan))]
    pipe = subprocess.PIPE
    everything = os.environ | settings
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=everything) as child:  # noqa: S603
        try:
            yield Peer(child)
        finally:
            child.kill()
