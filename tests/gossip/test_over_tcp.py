"""The same conversations over libp2p on loopback: real sockets, real threads, the real clock."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
import trio

from p2pnode.events import ExchangeCompleted, ExchangeUnsettled
from p2pnode.gossip.exchange import Result
from p2pnode.net.host import open_network
from p2pnode.ports import PeerAddress
from p2pnode.trainer import Worker
from tests.gossip.ends import CODECS, End, key, make_end, spread, vector
from tests.gossip.test_consensus import assert_mean_is_kept, gossip


@asynccontextmanager
async def tcp_ends(count: int, codec: str = "float32") -> AsyncIterator[Sequence[End]]:
    """Nodes that know each other, each with a libp2p host of its own."""
    async with AsyncExitStack() as stack:
        made = []
        for index in range(count):
            network = await stack.enter_async_context(open_network(key(index), ["/ip4/127.0.0.1/tcp/0"]))
            made.append(await make_end(network, index, codec, compute=Worker()))
        for one in made:
            for other in made:
                if one is not other:
                    one.network.learn(PeerAddress(other.network.me, other.network.addresses))
                    one.membership.view.put(other.member())
        yield made


@pytest.mark.parametrize("codec", CODECS)
async def test_an_exchange_over_tcp_conserves_the_sum_of_its_two_ends(codec: str) -> None:
    async with tcp_ends(2, codec) as (one, other):
        with trio.fail_after(60):
            assert await one.exchanger.offer(other.member()) is Result.COMPLETED
            await other.exchanger.close()
        total = (await one.trainer.vector()).astype(np.float64) + await other.trainer.vector()
        np.testing.assert_allclose(total, vector(0).astype(np.float64) + vector(1), atol=2e-6)
        assert len(one.of(ExchangeCompleted)) == len(other.of(ExchangeCompleted)) == 1


async def test_four_nodes_contract_to_their_mean_over_tcp() -> None:
    async with tcp_ends(4) as members:
        with trio.fail_after(120):
            await gossip(list(members), rounds=60, overlap=0)
        vectors = [await end.trainer.vector() for end in members]
        assert spread(vectors) < 1e-6
        assert_mean_is_kept(vectors)
        assert not any(end.of(ExchangeUnsettled) for end in members)
