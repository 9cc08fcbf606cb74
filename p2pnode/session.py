"""One node in this process, from its data directory to its exit: what `join` and `cluster` share.

This is where the real world comes in: libp2p for the network, a worker thread for the computation,
the system's clock and randomness, signals.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import platformdirs
import trio

from p2pnode.config import Config
from p2pnode.errors import leaves
from p2pnode.gossip.standing import Superseded
from p2pnode.identity.keys import load_or_create_key
from p2pnode.identity.manifest import Manifest
from p2pnode.learning.cache import keep_compiled
from p2pnode.learning.data import Dataset, Shard, holdout, partition, take
from p2pnode.learning.device import devices
from p2pnode.learning.rows import rows_in
from p2pnode.learning.task import Task
from p2pnode.machine import FILES, allow_files, doubt_clock, share_arenas
from p2pnode.net.dht import DhtDiscovery
from p2pnode.net.host import open_network
from p2pnode.net.mdns import MdnsDiscovery
from p2pnode.node import Node
from p2pnode.observe.control_server import serve_control
from p2pnode.observe.journal import Journal
from p2pnode.observe.stream import EventStream, Subscriber
from p2pnode.observe.tally import Tally
from p2pnode.ports import Discovery, WallClock
from p2pnode.signals import obey_signals
from p2pnode.steering import Steering
from p2pnode.storage.directory import DataDirectory
from p2pnode.trainer import Worker
from p2pnode.world import Invitation, Rows, World

_log = logging.getLogger(__name__)

HOLDOUT = 0.1
"""Share of its own rows by which a node judges its model. They are never trained on."""

LEAST = 20
"""Rows that each part of a shared-out data set has at least."""


def rows_of(
    source: Path | Shard, test: Path | None = None, any_units: bool = False
) -> Callable[[Manifest, Task], Rows]:
    """How a node gets its rows, once it knows the manifest: from a file, or a share of the task's own.

    Args:
        source: where its own rows are.
        test: a file with the common test set, for a task that has none or to replace it.
        any_units: whether a table's numbers may lie anywhere.
    """

    def read(path: Path, task: Task, least: int) -> Dataset:
        rows, notes = rows_in(path, task, least, any_units)
        for note in notes:
            _log.warning("%s: %s", path, note)
        return rows

    def load(manifest: Manifest, task: Task) -> Rows:
        task = replace(task, load=cache(task.load))
        seed = manifest.training.seed
        if isinstance(source, Shard):
            pool, _ = task.load()
            mine = take(pool, partition(pool.y, source.nodes, source.alpha, seed, LEAST)[source.index])
        else:
            mine = read(source, task, LEAST)
        train, own = holdout(mine, HOLDOUT, seed)
        probes = {"holdout": own}
        if test is not None:
            probes["test"] = read(test, task, 1)
        elif task.schema is None:
            probes["test"] = task.load()[1]
        return Rows(train, probes)

    return load


async def take_part(
    directory: DataDirectory,
    invitation: Invitation,
    rows: Callable[[Manifest, Task], Rows],
    config: Config,
    subscribers: Sequence[Subscriber],
    wall: WallClock = time.time,
) -> None:
    """Run one node until its rounds are done and settled, or a signal or a command ends it.

    Raises:
        UserError: possibly in a group.
    """
    devices()  # said before anything else if there is none
    if (files := allow_files()) < FILES:
        _log.warning("only %d files may be open at once, which limits the peers: see `ulimit -n`", files)
    share_arenas()
    keep_compiled(Path(platformdirs.user_cache_dir("p2pnode")) / "xla")
    key = load_or_create_key(directory.key)
    stream = EventStream(wall)
    random = Random()
    with Journal(directory.events) as journal:
        stream.subscribe(journal)
        for subscriber in subscribers:
            stream.subscribe(subscriber)
        async with open_network(key, config.listen, config.direct, config.bandwidth) as network:
            discoveries: list[Discovery] = [DhtDiscovery(network, lambda: config.peers, random)]
            if config.mdns:
                discoveries.append(MdnsDiscovery(network, random))
            world = World(network, discoveries, Worker(), Worker(), stream.publish, directory)
            incarnation = directory.next_incarnation(wall())
            if doubt := doubt_clock(wall(), last=incarnation / 1000):
                _log.warning("%s; the node goes on, but times in its files are wrong", doubt)
            node = Node(key, incarnation, invitation, rows, config, world)
            tally = Tally()
            stream.subscribe(tally)
            async with trio.open_nursery() as nursery:
                await nursery.start(obey_signals, node.stop)
                try:
                    async with serve_control(directory.path, Steering(node, world, tally).commands(), stream):
                        await node.run()
                except* Superseded as group:
                    # If it was a clock that ran ahead once, the next start is the later one again.
                    directory.keep_incarnation(max(one.incarnation for one in leaves(group)))
                    raise
                nursery.cancel_scope.cancel()
