"""Whole nodes of a small swarm in processes of their own, to be measured from outside."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2pnode.bench.node import IMPORTED
from p2pnode.cluster.assignment import Assignment
from p2pnode.cluster.wiring import entry, reserved_port
from p2pnode.config import Config
from p2pnode.identity.manifest import Manifest
from p2pnode.learning.data import Shard

LOOPBACK = "/ip4/127.0.0.1/tcp/{}"


class Running:
    """A process that writes lines."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_imported(self) -> float:
        """Wait until a node has its modules; the CPU-seconds that took."""
        return float(self._next()[IMPORTED])

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for an event of this kind, and return it as it was written."""
        while (found := self._next()).get("event") != event:
            pass
        return found

    def line(self) -> str:
        """The next line.

        Raises:
            subprocess.CalledProcessError: it has ended; it said why on stderr.
        """
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise subprocess.CalledProcessError(self.process.wait(), self.process.args)
        return line.decode().strip()

    def _next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.line())
        return found


@contextmanager
def running(*words: str, given: bytes = b"") -> Iterator[Running]:
    """Python with these arguments and `given` as its input, until the block ends."""
    command = [sys.executable, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:  # noqa: S603 - ourselves
        try:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.close()
            yield Running(process)
        finally:
            process.kill()


@contextmanager
def nodes(folder: Path, manifest: Manifest, configs: Sequence[Config]) -> Iterator[list[Running]]:
    """A node for each of `configs`, its files in a folder called by its index. All know the first."""
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        known = entry(folder / "0", LOOPBACK.format(port))
        started = []
        for index, chosen in enumerate(configs):
            listen, peers = (LOOPBACK.format(0), (known,)) if index else (LOOPBACK.format(port), ())
            config = replace(chosen, listen=(listen,), peers=peers, mdns=False)
            rows = Shard(index, max(2, len(configs)), None)
            assignment = pickle.dumps(Assignment(folder / str(index), manifest, config, rows))
            started.append(stack.enter_context(running("-m", "p2pnode.bench.node", given=assignment)))
        yield started
