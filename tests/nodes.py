"""Whole nodes over the memory network, with a clock of their own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import trio

from p2pnode.config import Config, Finish, Start
from p2pnode.events import Event
from p2pnode.identity.keys import load_or_create_key
from p2pnode.identity.manifest import Manifest, TaskSpec
from p2pnode.learning import registry
from p2pnode.learning.data import take
from p2pnode.learning.learner import Learner
from p2pnode.learning.task import Task
from p2pnode.net.memory import MemoryDiscovery, MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.node import Node
from p2pnode.observe.stream import Stamped
from p2pnode.observe.tally import Tally
from p2pnode.ports import PeerId
from p2pnode.steering import Steering
from p2pnode.storage.directory import DataDirectory
from p2pnode.trainer import inline
from p2pnode.world import Invitation, Rows, World
from tests.gossip.ends import key, manifest, slow

E = TypeVar("E", bound=Event)
WALL = 1_800_000_000.0


@cache
def learner() -> Learner:
    built = registry.build(small_swarm())
    return replace(built, settle=cache(built.settle))


def small_swarm(rounds: int = 10) -> Manifest:
    small = manifest(steps=10, rounds=rounds)
    training = replace(small.training, learning_rate=0.5)
    return replace(small, task=TaskSpec("digits", {"hidden": 8}), training=training)


def rows_of(index: int) -> Callable[[Manifest, Task], Rows]:
    """Rows with few labels: another few on each node."""

    def load(_: Manifest, task: Task) -> Rows:
        pool, test = task.load()
        mine = np.flatnonzero((pool.y + 2 * index) % 10 < 4)[:100]
        return Rows(take(pool, mine), {"test": take(test, np.arange(100))})

    return load


class Running:
    """One node, and what it said."""

    node: Node
    steering: Steering

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.events: list[Event] = []
        self.tally = Tally()
        self.started = trio.Event()
        self.stopped = trio.Event()
        self._news = trio.Event()

    def publish(self, event: Event) -> None:
        self.events.append(event)
        self.tally(Stamped(WALL, event))
        self._news.set()
        self._news = trio.Event()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[E], holds: Callable[[E], bool] = lambda _: True) -> E:
        with trio.fail_after(600):
            while True:
                for event in self.of(kind):
                    if holds(event):
                        return event
                await self._news.wait()

    async def model(self) -> np.ndarray:
        assert self.node._trainer is not None
        return await self.node._trainer.vector()


class Cluster:
    """Starts nodes on one fabric."""

    def __init__(
        self, fabric: MemoryFabric, nursery: trio.Nursery, manifest: Manifest, learner: Learner
    ) -> None:
        self.fabric = fabric
        self.manifest = manifest
        self._learner = learner  # compiled once: they differ in their number of rounds only
        self._nursery = nursery

    async def start(
        self,
        index: int,
        peers: int = 1,
        *,
        invited: bool = True,
        path: Path | None = None,
        seconds: float = 0.02,
        rows: Callable[[Manifest, Task], Rows] | None = None,
        evaluate: int = 10,
    ) -> Running:
        """Start a node that waits for so many `peers`; `seconds` is what one computation takes."""
        directory = DataDirectory.open(path) if path else None
        own = load_or_create_key(directory.key) if directory else key(index)
        incarnation = directory.next_incarnation(WALL) if directory else 1
        running = Running(own.peer)
        invitation = Invitation(self.manifest.swarm_id, self.manifest if invited else None)
        config = Config(evaluate=evaluate, start=Start(peers=peers), finish=Finish(grace=60))

        async def live() -> None:
            with directory or nullcontext():
                async with self.fabric.network(own.peer) as network:
                    discovery = MemoryDiscovery(self.fabric, own.peer)
                    world = World(
                        network,
                        [discovery],
                        slow(seconds),
                        inline,
                        running.publish,
                        directory,
                        lambda *_: self._learner,
                    )
                    running.node = Node(own, incarnation, invitation, rows or rows_of(index), config, world)
                    running.steering = Steering(running.node, world, running.tally)
                    running.started.set()
                    await running.node.run()
            running.stopped.set()

        self._nursery.start_soon(live)
        await running.started.wait()
        return running


@asynccontextmanager
async def cluster(
    manifest: Manifest | None = None,
    made: Callable[[], Learner] = learner,
    *,
    rounds: int = 10,
    latency: float = 0.005,
    seed: int = 5,
) -> AsyncIterator[Cluster]:
    fabric = MemoryFabric(seed, link=Link(latency=latency))
    async with trio.open_nursery() as nursery:
        yield Cluster(fabric, nursery, manifest or small_swarm(rounds), made())
        nursery.cancel_scope.cancel()
