"""The same conversations over libp2p on loopback: real sockets, real threads, the real clock."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import numpy as np
import pytest
import trio

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.events import ExchangeCompleted, ExchangeUnsettled, PeerFaulted
from p2pnode.gossip import exchange, membership
from p2pnode.gossip.agenda import Reason
from p2pnode.gossip.exchange import Result
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.ports import PeerAddress, Stream
from p2pnode.trainer import Worker
from p2pnode.wire.messages import Decline, Offer, receive, send
from tests.gossip.ends import CODECS, End, key, make_end, spread, vector
from tests.gossip.test_consensus import assert_mean_is_kept, gossip
from tests.gossip.test_settle import far_from, mean, settling
from tests.net.libp2p_peers import until


@asynccontextmanager
async def strangers(count: int, codec: str = "float32") -> AsyncIterator[Sequence[End]]:
    """Nodes that know where the others are, each with a libp2p host of its own."""
    async with AsyncExitStack() as stack:
        made = []
        for index in range(count):
            network = await stack.enter_async_context(open_network(key(index), ["/ip4/127.0.0.1/tcp/0"]))
            made.append(await make_end(network, index, codec, compute=Worker()))
        for one in made:
            for other in made:
                one.network.learn(PeerAddress(other.network.me, other.network.addresses))
        yield made


@asynccontextmanager
async def tcp_ends(count: int, codec: str = "float32") -> AsyncIterator[Sequence[End]]:
    """Members of one swarm."""
    async with strangers(count, codec) as made:
        for one in made:
            for other in made:
                if one is not other:
                    one.membership.view.put(other.member())
        yield made


async def test_a_node_of_another_swarm_is_refused_by_both_sides() -> None:
    async with strangers(2) as (one, other), trio.open_nursery() as nursery:
        other.membership.swarm = bytes([7]) * 32
        await nursery.start(one.membership.run)
        await nursery.start(other.membership.run)
        with trio.fail_after(60):
            with pytest.raises(PeerFault, match=Fault.WRONG_SWARM):
                await one.membership.greet(other.network.me)
        assert [event.fault for event in other.of(PeerFaulted)] == [Fault.WRONG_SWARM]  # type: ignore[attr-defined]
        assert len(one.membership.view) == len(other.membership.view) == 0
        assert await one.exchanger.offer(other.member()) is Result.STRANGER
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "hello",
    [
        b"\xff\xff\xff\xff",  # announces four gigabytes
        (3).to_bytes(4, "big") + b"\xc1\xc1\xc1",  # not msgpack
        (600).to_bytes(4, "big") + b"\x91" * 600,  # nested deeper than any message
        (2).to_bytes(4, "big") + b"\x91\x63",  # a tag that nobody has
    ],
)
async def test_a_node_whose_hello_is_malformed_is_refused(hello: bytes) -> None:
    async with strangers(2) as (one, other), trio.open_nursery() as nursery:
        await nursery.start(one.membership.run)
        with trio.fail_after(60):
            stream = await other.network.open(one.network.me, membership.PROTOCOL)
            await stream.send(hello)
            with pytest.raises(Disconnected):
                await stream.receive_into(memoryview(bytearray(1)))
        (fault,) = one.of(PeerFaulted)
        assert fault.fault in (Fault.MALFORMED, Fault.OVERSIZED)  # type: ignore[attr-defined]
        assert len(one.membership.view) == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("codec", CODECS)
async def test_an_exchange_over_tcp_conserves_the_sum_of_its_two_ends(codec: str) -> None:
    async with tcp_ends(2, codec) as (one, other):
        with trio.fail_after(60):
            assert await one.exchanger.offer(other.member()) is Result.COMPLETED
            await other.exchanger.close()
        total = (await one.trainer.vector()).astype(np.float64) + await other.trainer.vector()
        np.testing.assert_allclose(total, vector(0).astype(np.float64) + vector(1), atol=2e-6)
        assert len(one.of(ExchangeCompleted)) == len(other.of(ExchangeCompleted)) == 1


def idle(network: Libp2pNetwork) -> bool:
    """Whether no stream is open."""
    return all(one.idle for one in network._connections)


async def test_an_offer_that_was_withdrawn_leaves_no_stream_behind() -> None:
    """Its answer comes when nobody reads it any more."""
    async with tcp_ends(2) as both, trio.open_nursery() as nursery:
        one, other = sorted(both, key=lambda end: end.network.me)  # the lower id's offer is accepted
        asked, answer = trio.Event(), trio.Event()
        results = []

        async def decline_late(stream: Stream) -> None:
            await receive(stream, Offer)
            asked.set()
            await answer.wait()
            with suppress(Disconnected):
                await send(stream, Decline(Reason.BUSY, 0.1))

        async def offer() -> None:
            results.append(await other.exchanger.offer(one.member()))

        one.network.serve(exchange.PROTOCOL, decline_late)
        with trio.fail_after(60):
            nursery.start_soon(offer)
            await asked.wait()
            assert await one.exchanger.offer(other.member()) is Result.COMPLETED
            answer.set()
            await until(lambda: bool(results))
        assert results == [Result.WITHDRAWN]
        for end in (one, other):
            assert isinstance(end.network, Libp2pNetwork)
            await until(partial(idle, end.network))


async def test_four_nodes_contract_to_their_mean_over_tcp() -> None:
    async with tcp_ends(4) as members:
        with trio.fail_after(120):
            await gossip(list(members), rounds=60, overlap=0)
        vectors = [await end.trainer.vector() for end in members]
        assert spread(vectors) < 1e-6
        assert_mean_is_kept(vectors)
        assert not any(end.of(ExchangeUnsettled) for end in members)


@pytest.mark.parametrize("leaver", [None, 1])
async def test_five_nodes_settle_by_halves_over_tcp(leaver: int | None) -> None:
    """Also those that are left when one leaves in the middle of it."""
    async with tcp_ends(5) as members, trio.open_nursery() as nursery:
        stays = [index for index in range(5) if index != leaver]
        ended = []

        async def settle(end: End) -> None:
            ended.append(await settling(end, large=1).run())

        async def leave(end: End) -> None:
            async with trio.open_nursery() as short:
                short.start_soon(settle, end)
                while not end.of(ExchangeCompleted):  # noqa: ASYNC110 - a list has no event
                    await trio.sleep(0.001)
                short.cancel_scope.cancel()
            end.exchanger.slot.closed = True
            await end.membership.say_goodbye()

        for end in members:
            await nursery.start(end.membership.run)
        with trio.fail_after(60):
            async with trio.open_nursery() as settled:
                for index, end in enumerate(members):
                    settled.start_soon(leave if index == leaver else settle, end)
        assert {(s.members, s.counted) for s in ended} == {(len(stays), len(stays))}
        assert await far_from(mean(stays), [members[index] for index in stays]) < 1e-6
        nursery.cancel_scope.cancel()
