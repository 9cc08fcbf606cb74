"""Without training, gossip must bring everybody to the mean: over any schedule, with any overlap."""

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from p2pnode.events import ExchangeCompleted
from p2pnode.gossip.exchange import Result
from p2pnode.gossip.rounds import Rounds, chunk_length
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from tests.gossip.ends import CODECS, End, ends, manifest, slow, spread, vector

ROUND = 0.1  # seconds that the steps of a round take
STEPS = 2


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric(rounds_an_exchange: float) -> MemoryFabric:
    """Links on which an exchange, five one-way trips after the stream is open, takes so many rounds."""
    return MemoryFabric(seed=3, link=Link(latency=rounds_an_exchange * ROUND / 7))


async def run_rounds(end: End, rounds: int, overlap: int) -> None:
    async def finished(loss: float, seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    training = manifest(steps=STEPS, rounds=rounds, overlap=overlap).training
    await Rounds(
        end.network.me, end.trainer, end.exchanger, end.membership, training, end.membership.random, finished
    ).run()


async def gossip(members: list[End], rounds: int, overlap: int) -> None:
    async with trio.open_nursery() as nursery:
        for end in members:
            nursery.start_soon(run_rounds, end, rounds, overlap)
    for end in members:
        await end.exchanger.close()


def assert_mean_is_kept(vectors: list[np.ndarray]) -> None:
    mean = np.mean([vector(i).astype(np.float64) for i in range(len(vectors))], axis=0)
    np.testing.assert_allclose(np.mean(vectors, axis=0, dtype=np.float64), mean, atol=1e-5)


@pytest.mark.parametrize("duration", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [2, 3, 4, 8])
async def test_rounds_contract_to_the_mean_with_overlap_on(n: int, duration: int, clock: MockClock) -> None:
    async with ends(fabric(duration), n, compute=slow(ROUND), overlap=10 * STEPS) as members:
        await gossip(members, rounds=250 + 60 * duration, overlap=10 * STEPS)
        vectors = [await end.trainer.vector() for end in members]
        assert spread(vectors) < 1e-6
        assert_mean_is_kept(vectors)


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_keeps_the_mean_and_contracts_to_its_resolution(
    codec: str, clock: MockClock
) -> None:
    async with ends(fabric(0.5), 4, codec, compute=slow(ROUND)) as members:
        await gossip(members, rounds=40, overlap=0)
        vectors = [await end.trainer.vector() for end in members]
        assert spread(vectors) < {"float32": 1e-5, "bfloat16": 1e-2, "int8": 3e-2, "int4": 0.5}[codec]
        assert_mean_is_kept(vectors)


@pytest.mark.parametrize("duration", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [2, 4, 8])
async def test_a_fixed_schedule_contracts_with_overlap_on(n: int, duration: int, clock: MockClock) -> None:
    """Node i offers to i XOR 2^t, over and over, while its steps go on."""
    async with ends(fabric(duration), n, compute=slow(ROUND), overlap=10 * STEPS) as members:

        async def steps(end: End) -> None:
            while True:
                await end.trainer.steps(0)

        async def exchanges(index: int) -> None:
            for turn in range(60):
                partner = members[index ^ 1 << turn % (n.bit_length() - 1)]
                if index < members.index(partner):
                    result = Result.DECLINED
                    while result is not Result.COMPLETED:
                        result = await members[index].exchanger.offer(partner.member())
                        await trio.sleep(ROUND)

        async with trio.open_nursery() as background:
            for end in members:
                background.start_soon(steps, end)
            async with trio.open_nursery() as nursery:
                for index in range(n):
                    nursery.start_soon(exchanges, index)
            background.cancel_scope.cancel()
        vectors = [await end.trainer.vector() for end in members]
        assert spread(vectors) < 1e-6
        assert_mean_is_kept(vectors)


async def test_sixteen_nodes_in_lock_step_nearly_all_find_a_partner_each_round(clock: MockClock) -> None:
    rounds = 20
    async with ends(fabric(0.5), 16, compute=slow(ROUND)) as members:
        await gossip(members, rounds, overlap=0)
        completed = sum(len(end.of(ExchangeCompleted)) for end in members) / 2
        assert completed >= 0.9 * rounds * 16 / 2


def test_a_chunk_divides_its_round() -> None:
    for steps in range(201):
        assert steps % chunk_length(steps) == 0
        assert 1 <= chunk_length(steps) <= 10


async def test_a_node_that_is_a_moment_ahead_of_the_others_does_not_run_away_alone(clock: MockClock) -> None:
    async with ends(fabric(0), 3) as (one, *others):
        for end in others:
            end.exchanger.slot.closed = True  # warm, known, but not taking part yet
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_rounds, one, 20, 0)
            await trio.sleep(0.5)
            assert one.trainer.round <= 1
            for end in others:
                end.exchanger.slot.closed = False
        assert len(one.of(ExchangeCompleted)) >= 19
