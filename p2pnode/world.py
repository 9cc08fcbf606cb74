"""What a node is given: its rows, the world outside, and which swarm to join."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from p2pnode.events import Event
from p2pnode.identity.manifest import Manifest
from p2pnode.learning import registry
from p2pnode.learning.data import Dataset
from p2pnode.learning.learner import Learner
from p2pnode.learning.own import Own
from p2pnode.ports import Compute, Discovery, Network
from p2pnode.storage.directory import DataDirectory


@dataclass(frozen=True)
class Rows:
    """A node's data. It never leaves this process.

    Attributes:
        train: rows to learn from.
        probes: rows to evaluate on, by name: `holdout`, and `test` where there is a common test set.
    """

    train: Dataset
    probes: Mapping[str, Dataset]


@dataclass(frozen=True)
class World:
    """What a node is given of the world outside.

    Attributes:
        network: its end of the network, open.
        discoveries: where to look for peers.
        compute: where compiled functions run.
        beside: where those of them run that need not wait for training.
        publish: takes events.
        directory: where its files are; None keeps nothing.
        build: makes the learner of a manifest, and of a person's own task. Nodes that share a process may
            share what is compiled.
    """

    network: Network
    discoveries: Sequence[Discovery]
    compute: Compute
    beside: Compute
    publish: Callable[[Event], None]
    directory: DataDirectory | None = None
    build: Callable[[Manifest, Own | None], Learner] = registry.build


@dataclass(frozen=True)
class Invitation:
    """Which swarm to join: its id, and the manifest unless a member must be asked for it.

    Where the swarm's task is in a person's file, `own` is that, already run.
    """

    swarm_id: str
    manifest: Manifest | None = None
    own: Own | None = None
