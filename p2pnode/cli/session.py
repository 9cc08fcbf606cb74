"""One node in this process, from its data directory to its exit: what `join` and `demo` share.

This is where the real world comes in: libp2p for the network, a worker thread for the computation,
the system's clock and randomness, signals.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import platformdirs
import trio

from p2pnode.config import Config
from p2pnode.errors import UserError
from p2pnode.identity.keys import load_or_create_key
from p2pnode.identity.manifest import Manifest
from p2pnode.learning.cache import keep_compiled
from p2pnode.learning.data import Dataset, holdout, load_npz, partition, take
from p2pnode.learning.task import Task
from p2pnode.net.dht import DhtDiscovery
from p2pnode.net.host import open_network
from p2pnode.net.mdns import MdnsDiscovery
from p2pnode.node import Invitation, Node, Rows, World
from p2pnode.observe.journal import Journal
from p2pnode.observe.stream import EventStream, Subscriber
from p2pnode.ports import Discovery
from p2pnode.storage.directory import DataDirectory
from p2pnode.trainer import Worker

HOLDOUT = 0.1
"""Share of its own rows by which a node judges its model. They are never trained on."""

LEAST = 20
"""Rows that each part of a shared-out data set has at least."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `nodes` of a task's own data.

    Attributes:
        alpha: how evenly labels are dealt out, see `partition`; None deals evenly.
    """

    index: int
    nodes: int
    alpha: float | None = None


def rows_of(source: Path | Shard) -> Callable[[Manifest, Task], Rows]:
    """How a node gets its rows, once it knows the manifest: from a file, or a share of the task's own."""

    def load(manifest: Manifest, task: Task) -> Rows:
        seed = manifest.training.seed
        pool, test = task.load()
        if isinstance(source, Shard):
            mine = take(pool, partition(pool.y, source.nodes, source.alpha, seed, LEAST)[source.index])
        else:
            mine = load_npz(source, least=LEAST)
            _check_shape(mine, pool, source)
        train, own = holdout(mine, HOLDOUT, seed)
        return Rows(train, {"holdout": own, "test": test})

    return load


def _check_shape(mine: Dataset, pool: Dataset, path: Path) -> None:
    if mine.x.shape[1:] != pool.x.shape[1:]:
        raise UserError(
            f"rows of x in {path} have shape {mine.x.shape[1:]}, the task wants {pool.x.shape[1:]}"
        )
    if mine.y.max() > pool.y.max():
        raise UserError(f"{path} has label {mine.y.max()}, the task knows 0 to {pool.y.max()}")


async def take_part(
    directory: DataDirectory,
    invitation: Invitation,
    rows: Callable[[Manifest, Task], Rows],
    config: Config,
    subscribers: Sequence[Subscriber],
) -> None:
    """Run one node until its rounds are done and settled, or a signal asks it to end.

    Raises:
        UserError: possibly in a group.
    """
    keep_compiled(Path(platformdirs.user_cache_dir("p2pnode")) / "xla")
    key = load_or_create_key(directory.key)
    stream = EventStream(time.time)
    random = Random()
    with Journal(directory.events) as journal:
        stream.subscribe(journal)
        for subscriber in subscribers:
            stream.subscribe(subscriber)
        async with open_network(key, config.listen) as network:
            discoveries: list[Discovery] = [DhtDiscovery(network, lambda: config.peers, random)]
            if config.mdns:
                discoveries.append(MdnsDiscovery(network, random))
            world = World(network, discoveries, Worker(), stream.publish, directory)
            incarnation = directory.next_incarnation(time.time())
            node = Node(key, incarnation, invitation, rows, config, world)
            async with trio.open_nursery() as nursery:
                await nursery.start(obey_signals, node.stop)
                await node.run()
                nursery.cancel_scope.cancel()


async def obey_signals(
    stop: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Let the first SIGINT or SIGTERM end the node in good order, and the second one end it at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
        stop()
        number = await anext(signals)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
