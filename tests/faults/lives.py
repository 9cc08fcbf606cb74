"""One node after another in one data directory: each start is a whole node, alone on a memory network."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from p2pnode.config import Config, Finish, Saving, Start
from p2pnode.errors import UserError, leaves
from p2pnode.events import Event, NotRestored, NotSaved, RoundFinished
from p2pnode.identity.keys import load_or_create_key
from p2pnode.identity.manifest import Manifest, TaskSpec
from p2pnode.learning import registry
from p2pnode.learning.data import take
from p2pnode.learning.learner import Learner
from p2pnode.learning.task import Task
from p2pnode.net.memory import MemoryFabric, run_deterministic
from p2pnode.node import Node
from p2pnode.observe.control_server import serve_control
from p2pnode.observe.journal import Journal
from p2pnode.observe.stream import Stamped
from p2pnode.ports import PeerId
from p2pnode.storage import DataDirectory
from p2pnode.trainer import inline
from p2pnode.world import Invitation, Rows, World
from tests.gossip.ends import manifest

E = TypeVar("E", bound=Event)
ROUNDS = 5
WALL = 1_800_000_000.0  # seconds since the Unix epoch: when every start is
NOTHING: Mapping[int, Callable[[], None]] = {}
CONFIG = Config(
    evaluate=ROUNDS,
    start=Start(peers=0, wait=0),
    finish=Finish(grace=0, linger=0),
    saving=Saving(seconds=0),  # after every round
    peers=(),
)


@cache
def swarm() -> Manifest:
    small = manifest(steps=2, rounds=ROUNDS)
    return replace(small, task=TaskSpec("digits", {"hidden": 8}))


@cache
def learner() -> Learner:
    """One for all lives: nothing is compiled twice."""
    built = registry.build(swarm())
    return replace(built, settle=cache(built.settle))


@cache
def _rows() -> Rows:
    pool, _ = learner().task.load()
    return Rows(take(pool, np.arange(64)), {"test": take(pool, np.arange(64, 128))})


def _load(_: Manifest, __: Task) -> Rows:
    return _rows()


@dataclass
class Life:
    """What one start of a node came to.

    Attributes:
        peer: who it was, if it had a key.
        events: what it published.
        lines: what it logged.
        refused: the lines for a person with which it ended, if it did.
    """

    peer: PeerId | None = None
    events: list[Event] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def said(self) -> list[str]:
        """Every line by which somebody learns that something is wrong."""
        events = [event for event in self.events if isinstance(event, NotSaved | NotRestored)]
        return [*self.lines, *(event.reason for event in events)]


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def live(path: Path, last: int = ROUNDS, meanwhile: Mapping[int, Callable[[], None]] = NOTHING) -> Life:
    """Start a node with its data in `path`, as `p2pnode join` does, and stop it after round `last`.

    Args:
        path: of its data directory.
        last: its last round.
        meanwhile: what happens in the world when it has finished a round, by round.
    """
    life, log = Life(), logging.getLogger("p2pnode")
    handler = _Lines(life.lines)
    log.addHandler(handler)
    try:
        with DataDirectory.open(path) as directory:
            run_deterministic(lambda: _live(directory, life, last, meanwhile), seed=1)
    except UserError as error:
        life.refused.append(str(error))
    except BaseExceptionGroup as group:
        mistakes, ours = group.split(UserError)
        if mistakes is None or ours is not None:
            raise
        life.refused += map(str, leaves(mistakes))
    finally:
        log.removeHandler(handler)
    return life


async def _live(
    directory: DataDirectory, life: Life, last: int, meanwhile: Mapping[int, Callable[[], None]]
) -> None:
    key = load_or_create_key(directory.key)
    life.peer = key.peer
    incarnation = directory.next_incarnation(WALL)
    with Journal(directory.events) as journal:

        def publish(event: Event) -> None:
            life.events.append(event)
            journal(Stamped(WALL, event))
            if isinstance(event, RoundFinished):
                meanwhile.get(event.round, lambda: None)()
                if event.round == last < ROUNDS:
                    node.stop()

        async with MemoryFabric(seed=1).network(key.peer) as network:
            world = World(network, [], inline, inline, publish, directory, lambda *_: learner())
            node = Node(key, incarnation, Invitation(swarm().swarm_id, swarm()), _load, CONFIG, world)
            async with serve_control(directory.path, {}, None):
                await node.run()
