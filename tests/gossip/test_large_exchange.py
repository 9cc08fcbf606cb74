"""An exchange of a 40 MB model never holds the event loop up for long.

How late a loop runs depends on the machine; `p2pnode bench overlap` measures it. What holds on any
machine is how much a task handles before the loop may turn to the next one. So an instrument looks, at
each switch, at how much memory a task has taken and given back since the last one: whatever is copied,
joined, packed or let go of in one piece shows there.
"""

import math
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import jax
import pytest
import trio

from p2pnode.gossip import exchange
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Exchanger, Result
from p2pnode.gossip.view import Member, Stage, View
from p2pnode.identity.manifest import Bounds, TaskSpec
from p2pnode.learning import registry
from p2pnode.learning.learner import Learner
from p2pnode.net.host import Libp2pNetwork
from p2pnode.trainer import Trainer
from tests.gossip.ends import manifest, rows
from tests.net.libp2p_peers import two_peers

T = TypeVar("T")
PARAMETERS = 10_000_000
PIECE = 4 * 1024 * 1024  # bytes: what threads of a direct connection take for its records counts, too
INCARNATION = 1


class Pieces(trio.abc.Instrument):
    """The most memory, in bytes, that was taken or given back between two switches of tasks.

    What is computed by `compute` does not count: in a node it runs in the worker thread.
    """

    def __init__(self) -> None:
        self.largest = 0
        self._held = self._arrays = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        tracemalloc.start()
        self._resume()
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            tracemalloc.stop()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        tracemalloc.reset_peak()
        self._held = tracemalloc.get_traced_memory()[0]

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count()

    async def compute(self, function: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        self._count()
        try:
            return function()
        finally:
            self._resume()

    def _count(self) -> None:
        held, peak = tracemalloc.get_traced_memory()
        arrays, self._arrays = self._arrays, _in_arrays()
        self.largest = max(self.largest, peak - self._held, self._held - held, abs(arrays - self._arrays))

    def _resume(self) -> None:
        tracemalloc.reset_peak()
        self._held, self._arrays = tracemalloc.get_traced_memory()[0], _in_arrays()


def _in_arrays() -> int:
    """Bytes in JAX's arrays, which tracemalloc does not see; nearly all of them are float32."""
    return sum(4 * math.prod(array.shape) for array in jax.live_arrays())


def learner() -> Learner:
    """Of ten million parameters, give or take a few."""
    small = manifest()
    task = TaskSpec("digits", {"hidden": PARAMETERS // 75})
    return registry.build(replace(small, task=task, bounds=Bounds(parameters=PARAMETERS, peers=2)))


def exchanger(network: Libp2pNetwork, learner: Learner, partner: Member, pieces: Pieces) -> Exchanger:
    view = View(1)
    view.put(partner)
    made = Exchanger(
        network=network,
        model=Trainer(learner, rows(0), {}, pieces.compute, pieces.compute, 0, 0),
        incarnation=INCARNATION,
        view=view,
        publish=lambda event: None,
        fault=lambda peer, fault: pytest.fail(str(fault)),
        suspect=lambda peer: None,
        deadlines=Deadlines(),
    )
    network.serve(exchange.PROTOCOL, made.serve)
    return made


def member(network: Libp2pNetwork) -> Member:
    return Member(
        peer=network.me,
        incarnation=INCARNATION,
        proof=b"",
        serial=0,
        stage=Stage.TRAINING,
        round=0,
        members=b"",
        sketch=b"",
        addresses=network.addresses,
    )


async def test_no_task_handles_much_of_a_large_exchange_at_once() -> None:
    pieces, shared = Pieces(), learner()
    async with two_peers() as (near, far):
        one = exchanger(near, shared, member(far), pieces)
        other = exchanger(far, shared, member(near), pieces)
        with pieces.watching():
            assert await one.offer(member(far)) is Result.COMPLETED
            await other.close()
    assert near.traffic.sent > 4 * shared.size
    assert pieces.largest < PIECE
