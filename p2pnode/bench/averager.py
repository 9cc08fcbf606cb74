"""A node reduced to what an exchange takes, in a process of its own: `python -m p2pnode.bench.averager PLAN`.

It has what `node.py` wires together: libp2p on loopback, a trainer with its worker thread, membership and the
exchanger. What it shares is one vector, so that nothing is measured but the exchange. It first writes its
address; then it is told what to do by lines of standard input, and answers each in a line of JSON. Moments
are seconds since the machine was started, which all processes share.
"""

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
import optax
import trio

from p2pnode.bench.process import now
from p2pnode.config import Config, Finish
from p2pnode.errors import PeerFault
from p2pnode.events import Event, ExchangeCompleted
from p2pnode.gossip import exchange
from p2pnode.gossip.agenda import Agenda
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Exchanger, Result
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.settle import Settling
from p2pnode.gossip.standing import Standing
from p2pnode.gossip.view import Stage, View
from p2pnode.identity.keys import Key
from p2pnode.learning.compress import CODECS
from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import layout_of
from p2pnode.learning.learner import compiled
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.registry import TASKS
from p2pnode.learning.rules.average import average
from p2pnode.learning.task import Task
from p2pnode.machine import share_arenas
from p2pnode.net.host import open_network
from p2pnode.ports import Compute, Network, PeerAddress, PeerId
from p2pnode.trainer import Trainer, Worker

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
SWARM = bytes(32)
TRANSFORMER = {"heads": 8, "layers": 4, "groups": 8}
"""Three million parameters."""

BATCH = 32
"""Windows of 64 characters: a step computes with each parameter 2,048 times."""

BEAT = 0.001
"""Seconds that the heartbeat sleeps."""

ANY = 2**31
"""Steps that training may run ahead of an exchange."""

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a process is.

    Attributes:
        index: from 0; its vector is `index + 1` everywhere.
        members: how many there are.
        parameters: length of the vector.
        codec: how it travels.
        direct: whether direct connections are used.
        bandwidth: bytes a second that it may send.
        trains: it has a transformer to train instead of a vector.
        training_core: the only core that the trainer's thread may use, and XLA's.
        core: the only one for everything else.
    """

    index: int
    members: int = 2
    parameters: int = 4810
    codec: str = "float32"
    direct: bool = True
    bandwidth: float = Config.bandwidth
    trains: bool = False
    training_core: int | None = None
    core: int | None = None


def vector_task(size: int) -> Task:
    """A model that is one vector."""
    rows = Dataset(np.zeros((1, 1), np.float32), np.zeros(1, np.int32))
    return Task(
        name="vector",
        init=lambda key: {"vector": jnp.zeros(size)},
        loss=lambda params, batch, key: jnp.sum(params["vector"]),
        metrics=lambda params, batch: {"loss": jnp.sum(params["vector"])},
        load=lambda: (rows, rows),
    )


async def make_trainer(plan: Plan) -> Trainer:
    """With its vector, and everything compiled."""
    task = TASKS["shakespeare"].build(**TRANSFORMER) if plan.trains else vector_task(plan.parameters)
    compute = on_core(Worker(), plan.training_core, plan.core)
    recipe = Recipe(
        task,
        layout_of(task),
        average(),
        CODECS[plan.codec](),
        optax.sgd(0.0),
        (plan.codec,),
        seed=0,
        batch_size=BATCH,
    )
    learner = await compute(lambda: compiled(recipe))
    trainer = Trainer(learner, task.load()[0], {}, compute, Worker(), plan.index, ANY if plan.trains else 0)
    await trainer.warm_up()
    if not plan.trains:
        await trainer.jump(0, np.full(plan.parameters, plan.index + 1, np.float32))
    return trainer


def on_core(compute: Compute, training: int | None, rest: int | None) -> Compute:
    """`compute` on one core, on behalf of threads that otherwise keep to another."""
    if training is None or rest is None:
        return compute

    async def pinned(function: Callable[[], T], /) -> T:
        def work() -> T:
            os.sched_setaffinity(0, {training})  # of this thread; XLA's, which it starts, inherit that
            try:
                return function()
            finally:
                os.sched_setaffinity(0, {rest})

        return await compute(work)

    return pinned


@dataclass
class Averager:
    """The parts, and what can be done with them."""

    plan: Plan
    network: Network
    trainer: Trainer
    membership: Membership
    exchanger: Exchanger
    ended: list[float] = field(default_factory=list)  # of exchanges, whoever began them
    more: trio.Event = field(default_factory=trio.Event)

    def note(self, event: Event) -> None:
        """Something happened."""
        if isinstance(event, ExchangeCompleted):
            self.ended.append(now())
            self.more.set()
            self.more = trio.Event()

    async def meet(self, address: str) -> Mapping[str, object]:
        """Become a member of each other's view."""
        peer = await self.network.connect(address)
        self.membership.found(PeerAddress(peer, (address.partition("/p2p/")[0],)))
        return await self.await_members(2)

    async def await_members(self, count: int) -> Mapping[str, object]:
        """Wait until so many know each other, this one included."""
        with trio.fail_after(60):
            while len(self.membership.view) < count - 1:
                await self.membership.changed.wait()
        return {"members": len(self.membership.view) + 1}

    async def average(self, peer: str, times: int) -> Mapping[str, object]:
        """Have exchanges with a peer, one after the other: when each began, and ended here."""
        began: list[float] = []
        member = self.membership.view.get(PeerId(peer))
        assert member is not None, "it is no member"
        while len(began) < times:
            moment = now()
            result = await self.exchanger.offer(member)
            if result is Result.COMPLETED:
                began.append(moment)
            else:
                assert result is Result.DECLINED, result  # it is still about to apply the last one
                await trio.lowlevel.checkpoint()
        return {"began": began, "ended": self.ended[-times:]}

    async def accept(self, times: int) -> Mapping[str, object]:
        """Wait for so many exchanges more than there were: when each ended here."""
        while len(self.ended) < times:
            await self.more.wait()
        found, self.ended[:] = self.ended[:times], self.ended[times:]
        return {"ended": found}

    async def train(self, peer: str, seconds: float) -> Mapping[str, object]:
        """Train for some time, and average with a peer, if one is named, again and again."""
        delays: list[float] = []
        taken, done, began = self.trainer.taken, len(self.ended), now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat, delays)
            nursery.start_soon(train, self.trainer)
            while now() - began < seconds:
                if peer:
                    await self.average(peer, 1)
                else:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        took = now() - began
        return {
            "steps": (self.trainer.taken - taken) / took,
            "late": 1e3 * sorted(delays)[len(delays) * 99 // 100],
            "exchanges": (len(self.ended) - done) / took,
        }

    async def size(self) -> Mapping[str, object]:
        """How large a snapshot is."""
        await trio.lowlevel.checkpoint()
        return {"bytes": sum(self.trainer.payload)}

    async def trim(self) -> Mapping[str, object]:
        """Give memory back that was used while everything was compiled, and is free (malloc_trim(3))."""
        await trio.lowlevel.checkpoint()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return {}

    async def differ(self) -> Mapping[str, object]:
        """Be as at the start, and let the others know."""
        await self.trainer.jump(0, np.full(self.plan.parameters, self.plan.index + 1, np.float32))
        standing = self.membership.standing
        standing.stage, standing.members, standing.sketch = Stage.TRAINING, b"", b""
        self.exchanger.agenda = Agenda()
        await self.membership.greet_all()
        return {}

    async def settle(self) -> Mapping[str, object]:
        """Reach the mean of all members."""
        began, used = now(), time.process_time()
        settling = Settling(
            me=self.network.me,
            model=self.trainer,
            exchanger=self.exchanger,
            membership=self.membership,
            finish=Finish(linger=0.0),
            compute=Worker(),
        )
        settlement = await settling.run()
        ended, used = now(), time.process_time() - used
        value = float((await self.trainer.vector())[-1])  # a copy, which no node needs: not counted
        return {"began": began, "ended": ended, "cpu": used, "counted": settlement.counted, "value": value}


@asynccontextmanager
async def averager(plan: Plan, trainer: Trainer) -> AsyncIterator[Averager]:
    """A node that averages when told to, until the block ends."""
    key = Key.generate()
    async with (
        open_network(key, [LOOPBACK], plan.direct, plan.bandwidth) as network,
        trio.open_nursery() as nursery,
    ):
        deadlines = Deadlines()
        membership = Membership(
            network=network,
            key=key,
            swarm=SWARM,
            incarnation=1 + plan.index,
            view=View(plan.members),
            publish=lambda event: None,
            random=Random(plan.index),
            interval=Config.hello,
            deadlines=deadlines,
            standing=Standing(stage=Stage.TRAINING, layout=trainer.layout),
        )
        exchanger = Exchanger(
            network=network,
            model=trainer,
            incarnation=membership.incarnation,
            view=membership.view,
            publish=lambda event: parts.note(event),  # noqa: PLW0108 - made below
            fault=blame,
            suspect=membership.suspect,
            deadlines=deadlines,
        )
        network.serve(exchange.PROTOCOL, exchanger.serve)
        await nursery.start(membership.run)
        parts = Averager(plan, network, trainer, membership, exchanger)
        yield parts
        nursery.cancel_scope.cancel()


async def train(trainer: Trainer) -> None:
    """Take one step after another."""
    while True:
        await trainer.steps(1)


async def beat(delays: list[float]) -> None:
    """Note how much later than asked the loop comes back, in seconds."""
    while True:
        before = now()
        await trio.sleep(BEAT)
        delays.append(now() - before - BEAT)


def blame(peer: PeerId, fault: PeerFault) -> None:
    """Neither end should find fault with the other."""
    raise AssertionError(f"{peer}: {fault}")


def say(what: object) -> None:
    """To the process that started this one."""
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


async def main(plan: Plan) -> None:
    """Do as told until standard input ends."""
    share_arenas()  # as a node does
    trainer = await make_trainer(plan)
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    async with averager(plan, trainer) as parts:
        say(f"{parts.network.addresses[0]}/p2p/{parts.network.me}")
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            name, *rest = json.loads(line)
            command: Callable[..., Awaitable[Mapping[str, Any]]] = getattr(parts, name)
            say(await command(*rest))


if __name__ == "__main__":
    trio.run(main, Plan(**json.loads(sys.argv[1])))
