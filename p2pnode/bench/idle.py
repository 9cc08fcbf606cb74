"""What a node costs that has nothing to do: memory, and the CPU that it takes all the same.

Two kinds: a bootstrap node, which has no model and no JAX, and a member of a swarm whose training a person
has paused. Each is measured alone and with peers that are connected with it, all of them in one other
process; those of the member are members, too, and greet it as it greets them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pnode.bench.launch import LOOPBACK, Running, nodes, running
from p2pnode.bench.process import cpu, memory
from p2pnode.config import Config, Start
from p2pnode.identity.manifest import Manifest
from p2pnode.observe.control import ask

SETTLING = 10.0
"""Seconds before anything is measured: the first walks through the DHT come early."""

BOOTSTRAP, MEMBER = "bootstrap", "member"


@dataclass(frozen=True)
class Idle:
    """One kind of node with nothing to do.

    Attributes:
        kind: `bootstrap` or `member`.
        peers: that are connected with it.
        memory: bytes, see `process`.
        load: part of one core.
    """

    kind: str
    peers: int
    memory: int
    load: float


def run(manifest: Manifest, peers: int, seconds: float, tell: Callable[[str, int], None]) -> list[Idle]:
    """Measure each kind, alone and with `peers`.

    Args:
        manifest: of the member's swarm.
        peers: at least one.
        seconds: for which the CPU is measured.
        tell: is called before each with its kind and the number of its peers.

    Raises:
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    found = []
    with bootstrap() as (node, address):
        for count in (0, peers):
            tell(BOOTSTRAP, count)
            found.append(measure(BOOTSTRAP, node, address, count, "", seconds))
    with member(manifest) as (node, address):
        for count in (0, peers):
            tell(MEMBER, count)
            found.append(measure(MEMBER, node, address, count, manifest.swarm_id, seconds))
    return found


def measure(kind: str, node: Running, address: str, peers: int, swarm: str, seconds: float) -> Idle:
    """Connect so many peers with a node, and look at it."""
    with ExitStack() as stack:
        if peers:  # else nobody shares its pages with the node
            words = ("-m", "p2pnode.bench.peers", str(peers), address, swarm)
            stack.enter_context(running(*words)).line()
        time.sleep(SETTLING)
        before = cpu(node.pid)
        time.sleep(seconds)
        return Idle(kind, peers, memory(node.pid), (cpu(node.pid) - before) / seconds)


@contextmanager
def bootstrap() -> Iterator[tuple[Running, str]]:
    """A bootstrap node, and its address."""
    listen = ("--listen", LOOPBACK.format(0))
    with (
        tempfile.TemporaryDirectory() as folder,
        running("-m", "p2pnode", "bootstrap", *listen, "--data-dir", folder) as node,
    ):
        yield node, node.line()


@contextmanager
def member(manifest: Manifest) -> Iterator[tuple[Running, str]]:
    """A member that is paused before its first round, and its address."""
    alone = Config(start=Start(peers=0))
    with tempfile.TemporaryDirectory() as folder, nodes(Path(folder), manifest, [alone]) as [node]:
        node.wait_imported()
        ready = node.wait_for("NodeReady")
        ask(Path(folder) / "0", "pause")
        yield node, f"{ready['addresses'][0]}/p2p/{ready['peer']}"
