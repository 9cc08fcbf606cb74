"""Snapshots cross in pieces, over a direct connection while it lasts."""

from collections.abc import Callable

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from p2pnode.events import ExchangeUnsettled
from p2pnode.gossip import exchange
from p2pnode.gossip.exchange import Result
from p2pnode.gossip.transfer import Room, Transfer
from p2pnode.learning import recipe, registry
from p2pnode.net.bulk_keys import PROTOCOL
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import PeerId
from p2pnode.trainer import Trainer, inline
from tests.gossip.ends import CODECS, End, ends, manifest, rows, vector
from tests.gossip.test_exchange import assert_both_or_neither, clock, fabric, offer

__all__ = ["clock"]

PIECES = 5


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "PIECE", 64)
    monkeypatch.setattr(exchange, "DIRECT_BYTES", 0)


async def trainers(codec: str) -> list[Trainer]:
    """Two whose snapshots have several pieces."""
    learner = registry.build(manifest(codec))
    assert len(learner.pieces) == PIECES
    both = [Trainer(learner, rows(index), {}, inline, inline, index, 0) for index in range(2)]
    for index, trainer in enumerate(both):
        await trainer.jump(0, vector(index))
    return both


def tapped(judge: Callable[[int], Verdict]) -> tuple[MemoryFabric, list[bytes]]:
    """A fabric that asks `judge` about each send on a direct connection, by number, and what they were."""
    network, seen = fabric(), []

    def tap(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        if not protocol.startswith(PROTOCOL):
            return Verdict.DELIVER
        seen.append(data)
        return judge(len(seen) - 1)

    network.tap = tap
    return network, seen


def loses(lost: int, verdict: Verdict) -> Callable[[int], Verdict]:
    """A judge that lets one send not through."""
    return lambda number: verdict if number == lost else Verdict.DELIVER


async def idle(*both: End) -> None:
    """Nothing of an exchange is left, and the next one completes."""
    await trio.sleep(60)
    assert not any(end.exchanger.slot.busy or end.of(ExchangeUnsettled) for end in both)
    assert await offer(*both) is Result.COMPLETED


@pytest.mark.parametrize("codec", CODECS)
async def test_a_large_snapshot_goes_over_a_direct_connection(codec: str, clock: MockClock) -> None:
    network, seen = tapped(lambda number: Verdict.DELIVER)
    async with ends(network, 2, codec, trainers=await trainers(codec)) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(1)
        assert await assert_both_or_neither(one, other)
        size = sum(one.trainer.payload)
        assert 2 * size <= sum(map(len, seen)) <= 2 * size + 100


@pytest.mark.parametrize("verdict", [Verdict.DROP, Verdict.RESET])
async def test_losing_any_part_of_a_direct_connection_costs_time_only(
    verdict: Verdict, clock: MockClock
) -> None:
    for lost in range(2 * PIECES + 2):
        network, seen = tapped(loses(lost, verdict))
        async with ends(network, 2, trainers=await trainers("float32")) as (one, other):
            assert await offer(one, other) is Result.COMPLETED
            await trio.sleep(60)
            assert await assert_both_or_neither(one, other)
            await idle(one, other)
        assert len(seen) > lost


async def test_where_none_comes_about_the_stream_carries_all(clock: MockClock) -> None:
    network, seen = tapped(lambda number: Verdict.RESET)
    async with ends(network, 2, trainers=await trainers("float32")) as (one, other):
        assert await offer(one, other) is Result.COMPLETED
        await trio.sleep(1)
        assert await assert_both_or_neither(one, other)
        tried = len(seen)
        await idle(one, other)
        assert len(seen) == tried  # and it is not tried again at once


async def test_a_peer_that_claims_more_pieces_than_there_are_is_at_fault(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = tapped(lambda number: Verdict.DELIVER)
    async with ends(network, 2, trainers=await trainers("float32")) as (one, other):
        real = Transfer._compare

        async def lying(transfer: Transfer) -> int:
            if transfer._model is other.trainer:
                transfer._arrived += 1
            return await real(transfer)

        monkeypatch.setattr(Transfer, "_compare", lying)
        assert await offer(one, other) is Result.ABORTED
        await trio.sleep(60)
        assert len(one.faults) == 1
        assert (await one.trainer.vector() == vector(0)).all()


def test_room_is_kept_and_begins_where_a_page_does() -> None:
    room = Room()
    pieces = room.pieces([8192, 100, 1])
    assert [len(piece) for piece in pieces] == [8192, 100, 1]
    assert np.frombuffer(pieces[0], np.uint8).ctypes.data % 4096 == 0
    pieces[1][:] = b"x" * 100
    again = room.pieces([8292])
    assert bytes(again[0][8192:]) == b"x" * 100
    assert room.pieces([]) == []
