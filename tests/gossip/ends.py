"""Real parts for the conversations' tests: learners, keys, and nodes' ends on a memory network."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from p2pnode.config import Config, Deadlines
from p2pnode.errors import PeerFault
from p2pnode.events import Event
from p2pnode.gossip import exchange
from p2pnode.gossip.exchange import Exchanger
from p2pnode.gossip.view import Member, Stage
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
from p2pnode.learning import registry
from p2pnode.learning.data import Dataset, take
from p2pnode.learning.learner import Learner
from p2pnode.net.memory import MemoryFabric, memory_address
from p2pnode.ports import Network, PeerAddress, PeerId
from p2pnode.trainer import Trainer, inline

CODECS = ("float32", "bfloat16", "int8")
DEADLINES = Deadlines(patience=10.0)


def key(index: int) -> Key:
    """A key that is the same in every run."""
    return Key(bytes([index % 256, index // 256]) * 16)


def manifest(codec: str = "float32", rule: str = "average", **training: int) -> Manifest:
    """A small swarm that does not train unless told to."""
    chosen = Training(seed=0, optimizer="sgd", learning_rate=0.1, batch_size=8, steps=0, rounds=20, overlap=0)
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
    return registry.build(manifest(codec, rule))


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
    """One node's end of its exchanges, with everything it says."""

    network: Network
    trainer: Trainer
    exchanger: Exchanger
    events: list[Event]
    faults: list[tuple[PeerId, PeerFault]]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def member(peer: PeerId, incarnation: int) -> Member:
    return Member(peer, incarnation, b"", Stage.TRAINING, 0, b"", b"", ())


@asynccontextmanager
async def ends(
    fabric: MemoryFabric, count: int, codec: str = "float32", deadlines: Deadlines = DEADLINES
) -> AsyncIterator[list[End]]:
    """Ends that know each other, in the order of their peer ids, with parameters `vector(index)`."""
    async with AsyncExitStack() as stack:
        peers = sorted(key(index).peer for index in range(count))
        members = {peer: member(peer, 1000 + index) for index, peer in enumerate(peers)}
        made = []
        for index, peer in enumerate(peers):
            network = await stack.enter_async_context(fabric.network(peer))
            for other in peers:
                network.learn(PeerAddress(other, (memory_address(other),)))
            trainer = Trainer(learner(codec), rows(index), {}, inline, index, overlap=0)
            await trainer.jump(0, vector(index))
            events: list[Event] = []
            faults: list[tuple[PeerId, PeerFault]] = []
            exchanger = Exchanger(
                network,
                trainer,
                1000 + index,
                members.get,
                events.append,
                lambda peer, fault, faults=faults: faults.append((peer, fault)),  # type: ignore[misc]
                deadlines,
            )
            network.serve(exchange.PROTOCOL, exchanger.serve)
            made.append(End(network, trainer, exchanger, events, faults))
        yield made


CONFIG = Config(listen=(), mdns=False)
