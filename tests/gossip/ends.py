"""Real parts for the conversations' tests: learners, keys, and nodes' ends on a memory network."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import trio

from p2pnode.config import Config
from p2pnode.errors import PeerFault
from p2pnode.events import Event
from p2pnode.gossip import exchange
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Exchanger
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.standing import Standing
from p2pnode.gossip.view import Member, Stage, View
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
from p2pnode.learning import registry
from p2pnode.learning.data import Dataset, take
from p2pnode.learning.learner import Learner
from p2pnode.net.memory import MemoryFabric
from p2pnode.ports import Compute, Network, PeerAddress, PeerId
from p2pnode.trainer import Trainer, inline

CODECS = ("float32", "bfloat16", "int8", "int4")
INCARNATION = 1000  # of the first node
T = TypeVar("T")


def key(index: int) -> Key:
    """A key that is the same in every run."""
    return Key(bytes([index % 256, index // 256]) * 16)


def key_of(peer: PeerId) -> Key:
    return next(key(index) for index in range(300) if key(index).peer == peer)


def manifest(codec: str = "float32", rule: str = "average", **training: Any) -> Manifest:
    """A small swarm that does not train unless told to."""
    chosen = Training(seed=0, optimizer="sgd", learning_rate=0.0, batch_size=8, steps=0, rounds=20, overlap=0)
    return Manifest(
        version=1,
        name="test",
        task=TaskSpec("digits", {"hidden": 4}),
        rule=RuleSpec(rule, codec, {}),
        training=replace(chosen, **training),
        admission=Admission(),
        bounds=Bounds(parameters=2**20, peers=64),
    )


@cache
def learner(codec: str = "float32", rule: str = "average") -> Learner:
    """One for all nodes: nothing is compiled twice, be it for settling."""
    built = registry.build(manifest(codec, rule))
    return replace(built, settle=cache(built.settle))


@cache
def pool() -> Dataset:
    return learner().task.load()[0]


def rows(index: int, count: int = 64) -> Dataset:
    return take(pool(), np.random.default_rng(index).permutation(len(pool().y))[:count])


def vector(index: int) -> npt.NDArray[np.float32]:
    """Parameters that differ from node to node."""
    return np.random.default_rng(index).normal(size=learner().size).astype(np.float32)


@dataclass
class End:
    """One node's parts, wired as `node.py` wires them, with everything it says."""

    network: Network
    trainer: Trainer
    membership: Membership
    exchanger: Exchanger
    events: list[Event]
    faults: list[PeerFault]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def member(self) -> Member:
        """This node as the others see it."""
        return member(self.network.me, self.membership.incarnation, self.network.addresses)


def member(peer: PeerId, incarnation: int, addresses: Sequence[str] = ()) -> Member:
    """A node as the others see it."""
    return Member(
        peer=peer,
        incarnation=incarnation,
        proof=b"",
        serial=0,
        stage=Stage.TRAINING,
        round=0,
        members=b"",
        sketch=b"",
        addresses=tuple(addresses),
    )


def slow(seconds: float) -> Compute:
    """A machine on which every compiled function takes `seconds` of virtual time."""

    async def compute(function: Callable[[], T], /) -> T:
        await trio.sleep(seconds)
        return function()

    return compute


async def make_end(
    network: Network,
    index: int,
    codec: str = "float32",
    *,
    deadlines: Deadlines | None = None,
    compute: Compute = inline,
    overlap: int = 0,
    trainers: Sequence[Trainer] = (),
) -> End:
    if trainers:
        trainer = trainers[index]
    else:
        trainer = Trainer(learner(codec), rows(index), {}, compute, compute, index, overlap)
        await trainer.jump(0, vector(index))
    deadlines = deadlines or Deadlines()
    events: list[Event] = []
    faults: list[PeerFault] = []
    membership = Membership(
        network=network,
        key=key_of(network.me),
        swarm=bytes(32),
        incarnation=INCARNATION + index,
        view=View(64),
        publish=events.append,
        random=Random(index),
        interval=Config.hello,
        deadlines=deadlines,
        standing=Standing(stage=Stage.TRAINING, layout=trainer.layout),
    )
    exchanger = Exchanger(
        network=network,
        model=trainer,
        incarnation=membership.incarnation,
        view=membership.view,
        publish=events.append,
        fault=lambda peer, fault: faults.append(fault),
        suspect=membership.suspect,
        deadlines=deadlines,
    )
    network.serve(exchange.PROTOCOL, exchanger.serve)
    return End(network, trainer, membership, exchanger, events, faults)


@asynccontextmanager
async def ends(
    fabric: MemoryFabric, count: int, codec: str = "float32", **options: Any
) -> AsyncIterator[list[End]]:
    """Nodes that know each other, by peer id, with `trainers` or else parameters `vector(index)`.

    Their memberships do not run: nobody says hello unless told to.
    """
    async with AsyncExitStack() as stack:
        made = []
        for index, peer in enumerate(sorted(key(index).peer for index in range(count))):
            network = await stack.enter_async_context(fabric.network(peer))
            made.append(await make_end(network, index, codec, **options))
        for one in made:
            for other in made:
                if one is not other:
                    one.network.learn(PeerAddress(other.network.me, other.network.addresses))
                    one.membership.view.put(other.member())
        yield made


def spread(vectors: Sequence[npt.NDArray[np.float32]]) -> float:
    """Largest relative distance of any vector to their mean."""
    mean = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    return max(float(np.linalg.norm(v - mean) / np.linalg.norm(mean)) for v in vectors)
