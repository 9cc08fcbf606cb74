"""Nodes that are started, killed and told to leave: `node.Node` itself on a memory network."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import trio
from trio import TaskStatus

from p2pnode import config
from p2pnode.config import Config
from p2pnode.errors import UserError, leaves
from p2pnode.events import (
    Event,
    ExchangeCompleted,
    ExchangeUnsettled,
    RoundFinished,
    Settled,
    Stopped,
)
from p2pnode.gossip.rounds import chunk_length
from p2pnode.gossip.view import Stage
from p2pnode.identity.files import create_file
from p2pnode.identity.keys import Key
from p2pnode.learning.learner import Learner
from p2pnode.net.memory import MemoryDiscovery, MemoryFabric
from p2pnode.node import Node
from p2pnode.ports import PeerId
from p2pnode.rehearsal.harm import Harm, link_of
from p2pnode.rehearsal.invariants import Glimpse
from p2pnode.rehearsal.learner import manifest_of, rows_of
from p2pnode.rehearsal.machine import Machine, Pace
from p2pnode.rehearsal.scenario import Scenario
from p2pnode.rehearsal.sums import Sums
from p2pnode.storage.directory import DataDirectory
from p2pnode.world import Invitation, World

COMPANY = 3
"""Peers that a node waits for before its first round, where there will be so many."""


@dataclass
class Life:
    """One process of a node, from its start to its end.

    Attributes:
        end: why it ended: `finished`, `signal`, `killed`, or a line for a person; empty while it lives.
        changed: when it last finished a round, or began.
        accuracy: of its model on the test set when that was last measured; None before.
    """

    name: str
    index: int
    key: Key
    machine: Machine
    began: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    end: str = ""
    changed: float = 0.0
    accuracy: float | None = None
    node: Node | None = None  # until it is made
    root: trio.lowlevel.Task = field(init=False)

    @property
    def peer(self) -> PeerId:
        return self.key.peer

    def stop(self) -> None:
        """Have it end in good order."""
        if self.node is not None:
            self.node.stop()
        else:
            self.scope.cancel()


class Swarm:
    """All nodes of a rehearsal, dead or alive.

    Args:
        scenario: what they are like.
        seed: of their keys, and of all chance.
        learner: which they share.
        folder: for their files; None when nobody ever comes back.
        nursery: in which they live.
        say: takes events, with the node's name.
        sums: takes what exchanges moved.

    Attributes:
        folder: as given.
        lives: the last of each name.
        settled: how nodes did, by name.
        longest: seconds that an exchange took at most.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        learner: Learner,
        folder: Path | None,
        nursery: trio.Nursery,
        say: Callable[[str, Event], None],
        sums: Sums,
    ) -> None:
        self.fabric = MemoryFabric(seed, link_of(scenario.link))
        self.harm = Harm(
            self.fabric, lambda index: self._key(index).peer, lambda index: self._machine(str(index))
        )
        self.lives: dict[str, Life] = {}
        self.settled: dict[str, Settled] = {}
        self.longest = 0.0
        self.manifest = manifest_of(scenario)
        self._scenario = scenario
        self._seed = seed
        self._learner = learner
        self.folder = folder
        self._nursery = nursery
        self._say = say
        self._sums = sums
        self._keys: dict[int, Key] = {}
        self._machines: dict[str, Machine] = {}

    # --- their lives ---

    async def start(self, index: int, twin: bool = False) -> None:
        """Start a node, unless it runs."""
        name = f"{index}'" if twin else str(index)
        if (last := self.lives.get(name)) is not None:
            if not last.end:
                return
            await last.ended.wait()
        now = trio.current_time()
        self.lives[name] = life = Life(
            name, index, self._key(index), self._machine(name), began=now, changed=now
        )
        await self._nursery.start(self._live, life)

    async def kill(self, name: str) -> None:
        """End it without a word, if it runs. Returns when nothing of it is left."""
        if (life := self.lives.get(name)) is not None and not life.end:
            self.fabric.kill(self._place(life))
            life.scope.cancel()
            await life.ended.wait()

    async def leave(self, name: str) -> None:
        """Have it end in good order, if it runs. Returns when it has."""
        if (life := self.lives.get(name)) is not None and not life.end:
            life.stop()
            await life.ended.wait()

    def living(self) -> list[Life]:
        """Those that run, in the order of their first starts."""
        return [life for life in self.lives.values() if not life.end]

    def _key(self, index: int) -> Key:
        if index not in self._keys:
            self._keys[index] = Key(hashlib.sha256(f"{self._seed} {index}".encode()).digest())
        return self._keys[index]

    def _machine(self, name: str) -> Machine:
        if name not in self._machines:
            self._machines[name] = Machine(self._scenario.compute, partial(self._turn, name))
        return self._machines[name]

    def _place(self, life: Life) -> str:
        return f"{life.peer}.2" if life.name.endswith("'") else life.peer

    def _turn(self, name: str) -> None:
        self._sums.computing = name

    async def _live(self, life: Life, *, task_status: TaskStatus[None]) -> None:
        life.root = trio.lowlevel.current_task()
        try:
            with life.scope:
                await self._run(life, task_status)
        except* UserError as group:
            life.end = str(next(leaves(group)))
        if life.scope.cancelled_caught:
            life.end = "killed"
        now = trio.current_time()
        self._sums.ended(life.name, life.peer, now, by_surprise=life.end not in ("finished", "signal"))
        life.ended.set()

    async def _run(self, life: Life, task_status: TaskStatus[None]) -> None:
        scenario, machine = self._scenario, life.machine
        directory = self._directory(life)
        wall = machine.wall()
        incarnation = directory.next_incarnation(wall) if directory else int(wall * 1000)
        with directory or nullcontext():
            async with self.fabric.network(life.peer, place=self._place(life)) as network:
                discovery = MemoryDiscovery(self.fabric, life.peer, scenario.lookup, network.addresses)
                publish, compute = partial(self._heard, life), machine.compute
                world = World(
                    network, [discovery], compute, compute, publish, directory, lambda *_: self._learner
                )
                invitation = Invitation(self.manifest.swarm_id, self.manifest)
                rows = rows_of(life.index, scenario.learning)
                life.node = Node(life.key, incarnation, invitation, rows, self._config(), world)
                chunks = max(1, scenario.learning.steps // chunk_length(scenario.learning.steps))
                random = Random(f"{self._seed} {life.name} pace {incarnation}")
                life.node.gate = Pace(machine, scenario.pace / chunks, scenario.uneven, random)
                task_status.started()
                await life.node.run()

    def _directory(self, life: Life) -> DataDirectory | None:
        if self.folder is None:
            return None
        directory = DataDirectory.open(self.folder / life.name)
        if not directory.key.exists():
            create_file(directory.key, life.key.pem(), mode=0o600)
        return directory

    def _config(self) -> Config:
        scenario = self._scenario
        return Config(
            evaluate=scenario.evaluate or self.manifest.training.rounds,
            hello=scenario.hello,
            start=config.Start(peers=min(COMPANY, scenario.nodes - 1)),
            finish=config.Finish(grace=60 + 3 * scenario.pace),
            saving=config.Saving(seconds=scenario.saving),
        )

    def _heard(self, life: Life, event: Event) -> None:
        if isinstance(event, ExchangeCompleted):
            self.longest = max(self.longest, event.seconds)
            self._sums.completed(life.name, life.peer, event, trio.current_time())
        elif isinstance(event, ExchangeUnsettled):
            self._sums.unsettled(event)
        elif isinstance(event, RoundFinished):
            life.changed = trio.current_time()
            life.accuracy = event.metrics.get("test_accuracy", life.accuracy)
        elif isinstance(event, Settled):
            self.settled[life.name] = event
        elif isinstance(event, Stopped):
            life.end = event.reason
        self._say(life.name, event)

    # --- what can be seen of them ---

    def accuracy(self) -> float:
        """Mean of those that live and have measured theirs."""
        measured = [life.accuracy for life in self.living() if life.accuracy is not None]
        return sum(measured) / max(1, len(measured))

    def glimpses(self) -> list[Glimpse]:
        """All that live."""
        return [self._glimpse(life, life.node) for life in self.living() if life.node is not None]

    def _glimpse(self, life: Life, node: Node) -> Glimpse:
        now, free, membership = trio.current_time(), self.harm.since(life.index), node.membership
        since = now if free is None else max(free, life.began)
        training = free is not None and membership.standing.stage == Stage.TRAINING
        return Glimpse(
            name=life.name,
            peer=life.peer,
            view=[member.peer for member in membership.view.all()],
            tasks=tasks(life.root),
            undisturbed=now - since,
            stuck=now - max(since, life.changed) if training else 0.0,
        )


def tasks(root: trio.lowlevel.Task) -> int:
    """How many tasks there are under one, itself included."""
    return 1 + sum(tasks(child) for nursery in root.child_nurseries for child in nursery.child_tasks)
