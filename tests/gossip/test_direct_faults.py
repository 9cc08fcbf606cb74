"""A direct connection that is spoiled, at ten points of its life, each way, whoever offers.

`pytest -v -m "slow or not slow"` on this file reads as a table. Whatever happens to the direct connection,
the stream carries the rest: the exchange completes on both ends, what they have in sum is conserved, nothing
is left behind, and the next exchange completes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from p2pnode.events import ExchangeAborted, ExchangeCompleted, ExchangeUnsettled
from p2pnode.gossip import exchange
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Result
from p2pnode.identity.manifest import TaskSpec
from p2pnode.learning import recipe, registry
from p2pnode.learning.learner import Learner
from p2pnode.net import bulk, connection, host, meeting
from p2pnode.net.bulk import LENGTH, TAG
from p2pnode.net.host import open_network
from p2pnode.net.meeting import PROOF
from p2pnode.trainer import Trainer, Worker
from tests.gossip.ends import End, key, make_end, manifest, rows
from tests.gossip.held import held
from tests.net.libp2p_peers import LOOPBACK, until
from tests.net.middleman import Middleman, Spoil, corrupt, cut, freeze, kill, middleman, throttle

RECORD = 1 << 16  # bytes of plaintext
PIECE = 2 * RECORD // 4  # entries of a vector
HIDDEN = 1700

SEALED = LENGTH + RECORD + TAG
ASKED = 20 + 50  # bytes of multistream: the greeting, and the protocol's name
PROVEN = ASKED + LENGTH + len(PROOF) + TAG


def sent() -> int:
    """Bytes that each end sends over a direct connection."""
    size = 4 * learner().size
    return PROVEN + size + -(-size // RECORD) * (LENGTH + TAG)


POINTS: Mapping[str, Callable[[], int]] = {
    "in the negotiation": lambda: ASKED // 2,
    "in the proof": lambda: ASKED + LENGTH + 9,
    "at the first record": lambda: PROVEN,
    "in the length of a record": lambda: PROVEN + 2,
    "in the middle of a record": lambda: PROVEN + SEALED // 2,
    "in the middle of a piece": lambda: PROVEN + SEALED,
    "at the end of a piece": lambda: PROVEN + 4 * SEALED,
    "near the end": lambda: sent() - SEALED,
    "in the last record": lambda: sent() - 1,
    "after all was sent": sent,
}

KINDS: Sequence[Spoil] = (kill, cut, corrupt, freeze, throttle)
PATIENCE = 2.0
WAYS = ("dialler to listener", "listener to dialler")
OFFERS = ("dialler offers", "listener offers")


@pytest.fixture(autouse=True)
def _small_and_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "PIECE", PIECE)
    monkeypatch.setattr(bulk, "MOST_PLAIN", RECORD)
    monkeypatch.setattr(bulk, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(connection, "ADDRESS_SECONDS", 0.1)
    monkeypatch.setattr(meeting, "MEETING_SECONDS", 1.0)
    monkeypatch.setattr(exchange, "DIRECT_BYTES", 0)
    monkeypatch.setattr(host, "OPEN_SECONDS", 1.0)


@cache
def learner() -> Learner:
    """Of four pieces, each of two records."""
    small = manifest()
    task = TaskSpec("digits", {"hidden": HIDDEN})
    return registry.build(replace(small, task=task))


def vector(index: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(index).normal(size=learner().size).astype(np.float32)


async def trainers() -> list[Trainer]:
    both = [Trainer(learner(), rows(index), {}, Worker(), Worker(), index, 0) for index in range(2)]
    for index, trainer in enumerate(both):
        await trainer.warm_up()
        await trainer.jump(0, vector(index))
    return both


@asynccontextmanager
async def two_ends(spoil: Spoil, way: int, after: int) -> AsyncIterator[tuple[Middleman, End, End]]:
    """Members of one swarm; the first has dialled the second through the middleman."""
    made = await trainers()
    async with (
        open_network(key(0), [LOOPBACK]) as near,
        open_network(key(1), [LOOPBACK]) as far,
        middleman(far.addresses[0], spoil, way, after) as between,
    ):
        one = await make_end(near, 0, trainers=made, deadlines=Deadlines(patience=PATIENCE))
        other = await make_end(far, 1, trainers=made, deadlines=Deadlines(patience=PATIENCE))
        await near.connect(f"{between.address}/p2p/{far.me}")
        one.membership.view.put(other.member())
        other.membership.view.put(one.member())
        yield between, one, other


async def exchanged(initiator: End, acceptor: End) -> Result:
    """One exchange, until both are free for the next."""
    result = await initiator.exchanger.offer(acceptor.member())
    await until(lambda: not acceptor.exchanger.slot.busy)
    return result


async def assert_conserved(one: End, other: End) -> None:
    total = (await one.trainer.vector()).astype(np.float64) + await other.trainer.vector()
    np.testing.assert_allclose(total, vector(0).astype(np.float64) + vector(1), atol=4e-6)


def case(spoil: Spoil, point: str, way: int, offers: int) -> object:
    """Slow are those that wait for something, but for one point; and half of the others."""
    waits = spoil in (freeze, throttle) or point == "in the negotiation"
    quick = way == offers and (point == "in the middle of a piece" or not waits)
    name = f"{spoil.__name__}-{point}-{WAYS[way]}-{OFFERS[offers]}"
    return pytest.param(spoil, point, way, offers, id=name, marks=() if quick else pytest.mark.slow)


CASES = [case(*one) for one in product(KINDS, POINTS, range(2), range(2))]


@pytest.mark.parametrize(("spoil", "point", "way", "offers"), CASES)
@pytest.mark.fault("direct connection killed, cut, frozen, throttled or corrupted at ten points")
async def test_a_spoiled_direct_connection_costs_time_only(
    spoil: Spoil, point: str, way: int, offers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil is freeze:
        monkeypatch.setattr(bulk, "STALL_SECONDS", 0.3)
    async with two_ends(spoil, way, POINTS[point]()) as (between, *both):
        before = held(both, between)
        for turn in (1, 2):
            assert await exchanged(both[offers], both[1 - offers]) is Result.COMPLETED
            assert between.struck
            assert [len(end.of(ExchangeCompleted)) for end in both] == [turn, turn]
            assert not any(end.faults or end.of(ExchangeAborted) or end.of(ExchangeUnsettled) for end in both)
            await assert_conserved(*both)
        await until(lambda: held(both, between) == before)
