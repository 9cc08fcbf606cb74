"""Two whole nodes that average with one another over TCP, and what hostile peers need to have at one of them.

All run in one process, so what an attack has left behind shows in its tasks, descriptors and memory.
"""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import trio
from attrs import evolve

from p2pnode.config import Config, Start
from p2pnode.errors import Disconnected, LinkError
from p2pnode.events import ExchangeAborted, ExchangeCompleted, PeerFaulted, RoundFinished
from p2pnode.gossip import exchange, membership
from p2pnode.gossip.agenda import Reason
from p2pnode.gossip.standing import VERSION, claim
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import Manifest
from p2pnode.net.connection import Connection
from p2pnode.net.dht import DhtDiscovery
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.node import Node
from p2pnode.ports import PeerAddress, PeerId, Stream
from p2pnode.trainer import inline
from p2pnode.wire.messages import Accept, Decline, Fetch, Hello, Message, Offer, decode, encode
from p2pnode.world import Invitation, World
from tests.gossip.ends import key, slow
from tests.net.direct import open_files
from tests.net.libp2p_peers import LOOPBACK, full_address
from tests.nodes import Running, learner, rows_of, small_swarm

INCARNATION = 1
VICTIM, HONEST, HOSTILE = 0, 1, 100

MORE_TASKS = 24
"""Than before: those of conversations under way, and of connections that are closing."""

MORE_FILES = 8
"""The listener of a hostile peer that is still there, and both ends of its connections."""

MORE_MEMORY = 48 * 2**20
"""Bytes of the whole process, hostile peers included: their queues, and what the allocator keeps."""


@dataclass(frozen=True)
class Cost:
    """What this process holds."""

    tasks: int
    files: int
    memory: int

    def within(self, before: "Cost") -> bool:
        return (
            self.tasks <= before.tasks + MORE_TASKS
            and self.files <= before.files + MORE_FILES
            and self.memory <= before.memory + MORE_MEMORY
        )


def cost() -> Cost:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Cost(trio.lowlevel.current_statistics().tasks_living, open_files(), pages * 4096)


@dataclass
class Siege:
    """The node under attack, one that it averages with, and their swarm."""

    victim: Running
    honest: Running
    network: Libp2pNetwork
    manifest: Manifest
    before: Cost

    @property
    def node(self) -> PeerId:
        return self.victim.peer

    @property
    def swarm(self) -> bytes:
        return bytes.fromhex(self.manifest.swarm_id)

    def faults(self, peer: PeerId) -> list[str]:
        """Those of `peer` that the node counted."""
        return [event.fault for event in self.victim.of(PeerFaulted) if event.peer == peer]

    def completed(self, peer: PeerId) -> list[ExchangeCompleted]:
        """The node's exchanges with `peer`."""
        return [event for event in self.victim.of(ExchangeCompleted) if event.peer == peer]

    def over_with(self, peer: PeerId) -> bool:
        """Whether the exchange that `peer` began has ended."""
        return any(event.peer == peer for event in self.victim.of(ExchangeAborted))

    async def goes_on(self) -> None:
        """The node averages with the honest one, and is as it was."""
        done = len(self.completed(self.honest.peer))
        await until(lambda: len(self.completed(self.honest.peer)) >= done + 3)
        rounds = [event.round for event in self.victim.of(RoundFinished)]
        assert rounds == list(range(1, len(rounds) + 1))
        assert np.isfinite(await self.victim.model()).all()
        assert self.honest.peer in self.victim.node.membership.view
        assert not self.faults(self.honest.peer)
        await until(lambda: not self.network._strangers)
        gc.collect()
        await until(lambda: cost().within(self.before), lambda: f"{self.before} before, now {cost()}")


async def until(condition: Callable[[], bool], why: Callable[[], str] = lambda: "") -> None:
    with trio.move_on_after(120):
        while not condition():  # noqa: ASYNC110 - many things together
            await trio.sleep(0.01)
    assert condition(), why()


@asynccontextmanager
async def siege() -> AsyncIterator[Siege]:
    """Two nodes that have found each other and average."""
    manifest = small_swarm(1_000_000)
    manifest = replace(manifest, training=replace(manifest.training, steps=1))
    async with trio.open_nursery() as nursery:
        victim, network = await _start(nursery, manifest, VICTIM, [])
        honest, _ = await _start(nursery, manifest, HONEST, [full_address(network)])
        for node in (victim, honest):
            await node.until(ExchangeCompleted)
        yield Siege(victim, honest, network, manifest, cost())
        nursery.cancel_scope.cancel()


async def _start(
    nursery: trio.Nursery, manifest: Manifest, index: int, entries: list[str]
) -> tuple[Running, Libp2pNetwork]:
    running, networks = Running(key(index).peer), list[Libp2pNetwork]()
    invitation = Invitation(manifest.swarm_id, manifest)
    config = Config(evaluate=1_000_000, start=Start(peers=1))

    async def live() -> None:
        async with open_network(key(index), [LOOPBACK]) as network:
            discovery = DhtDiscovery(network, lambda: entries, Random(index))
            world = World(
                network, [discovery], slow(0.005), inline, running.publish, build=lambda *_: learner()
            )
            running.node = Node(key(index), INCARNATION, invitation, rows_of(index), config, world)
            networks.append(network)
            running.started.set()
            await running.node.run()

    nursery.start_soon(live)
    await running.started.wait()
    return running, networks[0]


@dataclass
class Hostile:
    """A peer with a key of its own that may say anything to the node."""

    network: Libp2pNetwork
    key: Key
    siege: Siege

    @property
    def peer(self) -> PeerId:
        return self.key.peer

    async def connection(self) -> Connection:
        """One with the node: the same as before, if that has not ended."""
        while True:
            await self.network.connect(full_address(self.siege.network))
            if (found := self.network._connections.newest(self.siege.node)) is not None:
                return found

    async def pour(self, data: bytes) -> bool:
        """Send bytes past all rules of yamux; whether the connection is still there."""
        muxer = (await self.connection())._muxer
        for start in range(0, len(data), 48_000):
            muxer._gathered += data[start : start + 48_000]
            muxer._work.set()
            while (muxer._gathered or muxer._channel.queued or muxer._writing) and not muxer.ended:
                await muxer._written.park()
        return not muxer.ended

    async def say(self, protocol: str, data: bytes, *, close: bool = False) -> Message | None:
        """Send bytes on a new stream; the message that comes back, None when the stream ends instead."""
        try:
            stream = await self.network.open(self.siege.node, protocol)
        except LinkError:
            return None
        try:
            await stream.send(data)
            if close:
                await stream.close()
            return decode(await frame(stream))
        except Disconnected:
            return None
        finally:
            await stream.reset()

    def hello(self, **changes: Any) -> Hello:
        """One that makes it a member, unless something in it is changed."""
        own = Hello(
            version=VERSION,
            swarm=self.siege.swarm,
            incarnation=INCARNATION,
            proof=self.sign(INCARNATION),
            serial=0,
            stage=1,
            round=0,
            layout=learner().layout,
            members=b"",
            sketch=b"",
            credential=b"",
            addresses=self.network.addresses,
            known=1,
            member=True,
            peers=(),
        )
        return evolve(own, **changes)

    def sign(self, incarnation: int) -> bytes:
        return self.key.sign(claim(self.siege.swarm, incarnation))

    def offer(self, number: int = 1, **changes: Any) -> Offer:
        """One that the node accepts, unless something in it is changed."""
        ids = (INCARNATION, INCARNATION, number)
        own = Offer(
            exchange=b"".join(one.to_bytes(8, "big") for one in ids),
            layout=learner().layout,
            round=0,
            weight=0.5,
            size=4 * learner().size,
            members=b"",
            step=0,
            counted=b"",
            seconds=5.0,
        )
        return evolve(own, **changes)

    async def join(self) -> None:
        """Become a member, or be one again."""
        assert isinstance(await self.say(membership.PROTOCOL, encode(self.hello())), Hello)
        assert self.peer in self.siege.victim.node.membership.view

    async def answer(self, stream: Stream) -> None:
        """Be greeted, as a member must."""
        await frame(stream)
        await stream.send(encode(self.hello()))

    async def accepted(self) -> Stream:
        """A stream on which the node has accepted an offer of an exchange."""
        self.network.serve(membership.PROTOCOL, self.answer)  # else it is soon lost, as silent
        with trio.fail_after(30):
            for number in range(1, 10_000):
                await self.join()
                stream = await self.network.open(self.siege.node, exchange.PROTOCOL)
                await stream.send(encode(self.offer(number)))
                reply = decode(await frame(stream))
                if isinstance(reply, Accept):
                    return stream
                assert isinstance(reply, Decline)
                await stream.reset()
                await trio.sleep(0.005 if reply.reason == Reason.BUSY else 0.5)  # it was at fault just now
        raise AssertionError("always declined")


async def frame(stream: Stream) -> bytes:
    """The body of the next message."""
    header = bytearray(4)
    await stream.receive_into(memoryview(header))
    body = bytearray(int.from_bytes(header, "big"))
    await stream.receive_into(memoryview(body))
    return bytes(body)


@asynccontextmanager
async def hostile(siege: Siege, number: int = 0) -> AsyncIterator[Hostile]:
    """The `number`-th hostile peer."""
    own = key(HOSTILE + number)
    async with open_network(own, [LOOPBACK]) as network:
        network.learn(PeerAddress(siege.node, siege.network.addresses))
        yield Hostile(network, own, siege)


FETCH = Fetch("model", b"", 0)
