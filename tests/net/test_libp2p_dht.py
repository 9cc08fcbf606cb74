"""Nodes of a swarm find each other through the DHT, whoever of them goes away."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import varint
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.kad_dht.provider_store import ProviderRecord
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from trio.testing import MockClock

from p2pnode.errors import Disconnected
from p2pnode.net.addresses import ADDRESSES_PER_PEER
from p2pnode.net.dht import FAILURES_TO_TELL, TELL_AGAIN_SECONDS, DhtDiscovery, not_too_often
from p2pnode.net.dht_host import MOST_KEYS, MOST_PROVIDERS, STREAM_BYTES, id_of, peer_address, trim
from p2pnode.net.host import Libp2pNetwork
from p2pnode.net.kademlia import KADEMLIA, _read_message, swarm_key
from p2pnode.ports import PeerAddress, PeerId, Stream

from .libp2p_peers import full_address, key, peer, until


class Node:
    """A network that looks for a swarm, and whom it has found."""

    def __init__(self, network: Libp2pNetwork, entries: list[str], swarm: str) -> None:
        self.network = network
        self.address = full_address(network)
        self.found: dict[PeerId, PeerAddress] = {}
        self._discovery = DhtDiscovery(network, lambda: entries, Random(network.me))
        self._swarm = swarm

    async def run(self) -> None:
        await self._discovery.run(self._swarm, lambda one: self.found.update({one.peer: one}))

    def knows(self, *others: "Node") -> bool:
        return {other.network.me for other in others if other is not self} <= set(self.found)


@asynccontextmanager
async def node(number: int, entries: list[str], swarm: str = "ours", listen: str = "") -> AsyncIterator[Node]:
    async with peer(number, listen or "/ip4/127.0.0.1/tcp/0") as network, trio.open_nursery() as nursery:
        one = Node(network, entries, swarm)
        nursery.start_soon(one.run)
        yield one
        nursery.cancel_scope.cancel()


async def test_four_nodes_with_one_entry_point_find_each_other() -> None:
    async with (
        node(1, []) as first,
        node(2, [first.address]) as second,
        node(3, [first.address]) as third,
        node(4, [first.address]) as fourth,
    ):
        nodes = [first, second, third, fourth]
        await until(lambda: all(one.knows(*nodes) for one in nodes))
        assert second.found[third.network.me].addresses == third.network.addresses


async def test_a_swarm_goes_on_when_its_entry_point_dies() -> None:
    stop, addresses = trio.Event(), list[str]()

    async def be_the_entry_point() -> None:
        async with node(1, [], swarm="") as entry:
            addresses.append(entry.address)
            await stop.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_the_entry_point)
        await until(lambda: bool(addresses))
        async with node(2, addresses) as second, node(3, addresses) as third:
            await until(lambda: second.knows(third) and third.knows(second))
            stop.set()
            await until(lambda: key(1).peer not in second.network.connected + third.network.connected)
            async with node(4, [*addresses, third.address]) as fourth:
                await until(lambda: fourth.knows(second, third))
                await until(lambda: second.knows(fourth) and third.knows(fourth))


async def test_a_bootstrap_node_belongs_to_no_swarm() -> None:
    async with (
        node(1, [], swarm="") as bootstrap,
        node(2, [bootstrap.address]) as second,
        node(3, [bootstrap.address]) as third,
    ):
        await until(lambda: second.knows(third) and third.knows(second))
        assert bootstrap.found == {}
        assert bootstrap.network.me not in second.found


async def test_swarms_that_share_a_dht_do_not_mix() -> None:
    async with (
        node(1, []) as first,
        node(2, [first.address]) as second,
        node(3, [first.address], swarm="theirs") as third,
        node(4, [first.address], swarm="theirs") as fourth,
    ):
        await until(lambda: first.knows(second) and second.knows(first))
        await until(lambda: third.knows(fourth) and fourth.knows(third))
        assert set(first.found) == {second.network.me}
        assert set(third.found) == {fourth.network.me}


async def test_a_node_that_moved_is_found_where_it_is_now() -> None:
    async with node(1, [], swarm="") as entry, node(2, [entry.address]) as second:
        async with node(3, [entry.address]) as third:
            await until(lambda: second.knows(third))
            before = third.network.addresses
        async with node(3, [entry.address]) as third:
            assert third.network.addresses != before
            await until(lambda: second.found[third.network.me].addresses == third.network.addresses)


async def test_a_peer_that_is_too_busy_to_answer_is_asked_again() -> None:
    async with node(1, []) as first:
        limiter = first._discovery._kademlia._dht._inbound_limiter
        others = [object() for _ in range(int(limiter.total_tokens))]
        for other in others:
            limiter.acquire_on_behalf_of_nowait(other)
        async with node(2, [first.address]) as second:
            await until(lambda: first.network.me in second.network.connected)
            await trio.sleep(0.1)
            assert not second.found
            for other in others:
                limiter.release_on_behalf_of(other)
            await until(lambda: first.knows(second) and second.knows(first))


async def test_a_full_bucket_asks_whether_a_peer_is_still_there() -> None:
    async with node(1, []) as first, peer(2) as second:
        await first.network.connect(full_address(second))
        [bucket] = first._discovery._kademlia._dht.routing_table.buckets
        assert await bucket._ping_peer(id_of(second.me))
        assert not await bucket._ping_peer(id_of(key(3).peer))


async def test_without_any_entry_point_a_node_says_so_once_and_goes_on_trying(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("FIRST_ENTRY_PAUSE", "LONGEST_ENTRY_PAUSE"):
        monkeypatch.setattr(f"p2pnode.net.dht.{pause}", 0.02)
    async with peer(1) as network:
        listen = network.addresses[0]
        address = full_address(network)
    with caplog.at_level(logging.DEBUG, "p2pnode"):
        async with node(2, [address]) as second:
            await until(lambda: caplog.text.count("no entry: ") >= 3 * FAILURES_TO_TELL)
            async with node(1, [], listen=listen) as first:
                await until(lambda: second.knows(first) and first.knows(second))
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert address in warning.message


async def test_a_node_that_is_its_own_entry_point_is_content(caplog: pytest.LogCaptureFixture) -> None:
    entries: list[str] = []
    async with node(1, entries) as first:
        entries.append(first.address)
        async with node(2, entries) as second:
            await until(lambda: second.knows(first) and first.knows(second))
    assert not caplog.records


# Strangers


@asynccontextmanager
async def asked(network: Libp2pNetwork) -> AsyncIterator[Stream]:
    """A stranger's DHT stream with `network`."""
    async with peer(99) as stranger:
        await stranger.connect(full_address(network))
        yield await stranger.open(network.me, KADEMLIA)


async def test_values_are_not_stored() -> None:
    record = Record(key=b"/pk/any", value=b"value")
    message = Message(type=Message.MessageType.PUT_VALUE, key=b"/pk/any", record=record).SerializeToString()
    async with node(1, []) as first, asked(first.network) as stream:
        await stream.send(varint.encode(len(message)) + message)
        with pytest.raises(Disconnected):
            await stream.receive_into(memoryview(bytearray(1)))
        assert first._discovery._kademlia._dht.value_store.store == {}


async def test_a_message_larger_than_any_honest_one_ends_the_stream() -> None:
    async with node(1, []) as first, asked(first.network) as stream:
        await stream.send(varint.encode(STREAM_BYTES + 1) + bytes(1000))
        with pytest.raises(Disconnected):
            await stream.receive_into(memoryview(bytearray(1)))


def nonsense() -> list[Callable[[Message], bytes]]:
    peers = [Message.Peer(id=bytes(60_000), addrs=[bytes(100)]), Message.Peer(id=b"", addrs=[b"\xff" * 50])]
    return [
        lambda _: b"\x05hello",
        lambda _: varint.encode(10**9),
        lambda _: b"\xff" * 20,
        lambda _: b"",
        lambda m: framed(Message(type=m.type, key=m.key, providerPeers=peers[1:], closerPeers=peers[1:])),
        lambda m: framed(Message(type=m.type, key=m.key, closerPeers=peers[:1])),
    ]


def framed(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    length: bytes = varint.encode(len(data))
    return length + data


@pytest.mark.parametrize("answer", nonsense())
async def test_a_node_survives_entry_points_that_answer_nonsense(answer: Callable[[Message], bytes]) -> None:
    answered = trio.Event()

    async def lie(stream: Stream) -> None:
        await stream.send(answer(await _read_message(stream)))
        answered.set()

    async with peer(9) as liar, node(1, []) as first:
        liar.serve(KADEMLIA, lie)
        async with node(2, [full_address(liar), first.address]) as second:
            await answered.wait()
            await until(lambda: second.knows(first) and first.knows(second))
            assert set(second.found) == {first.network.me}


# Bounds


@given(st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=20))
def test_whatever_bytes_name_a_peer_and_its_addresses_is_bounded(raw: bytes, addresses: list[bytes]) -> None:
    found = peer_address(raw, addresses)
    assert found is None or len(found.addresses) <= ADDRESSES_PER_PEER


def test_a_peer_and_its_addresses_survive_their_binary_form() -> None:
    me = key(1).peer
    addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 20)]
    found = peer_address(id_of(me).to_bytes(), [Multiaddr(address).to_bytes() for address in addresses])
    assert found == PeerAddress(me, tuple(addresses[:ADDRESSES_PER_PEER]))


def test_the_oldest_provider_makes_room_for_the_next() -> None:
    def record(number: int) -> ProviderRecord:
        return ProviderRecord(
            PeerInfo(id_of(key(number).peer), [Multiaddr("/ip4/127.0.0.1/tcp/1")] * 50), number
        )

    records = {str(key(number).peer): record(number) for number in range(1, MOST_PROVIDERS + 1)}
    providers = {bytes([1]): dict(records)}
    trim(providers)
    [left] = providers.values()
    assert set(records) - set(left) == {key(1).peer}
    assert all(len(one.addresses) == ADDRESSES_PER_PEER for one in left.values())


def test_the_swarm_heard_of_first_is_forgotten_first() -> None:
    providers: dict[bytes, dict[str, ProviderRecord]] = {
        number.to_bytes(4): {} for number in range(MOST_KEYS + 2)
    }
    trim(providers)
    assert list(providers) == [number.to_bytes(4) for number in range(2, MOST_KEYS + 2)]


async def test_a_peer_is_reported_when_it_is_new_or_has_moved_or_after_a_while(
    autojump_clock: MockClock,
) -> None:
    here = PeerAddress(key(1).peer, ("/ip4/127.0.0.1/tcp/1",))
    there = PeerAddress(key(1).peer, ("/ip4/127.0.0.1/tcp/2",))
    myself = PeerAddress(key(2).peer, ("/ip4/127.0.0.1/tcp/3",))
    told: list[PeerAddress] = []
    tell = not_too_often(key(2).peer, told.append)
    for one in (here, here, there, there, myself):
        tell(one)
    assert told == [here, there]
    await trio.sleep(TELL_AGAIN_SECONDS)
    tell(there)
    assert told == [here, there, there]


def test_a_swarms_key_is_a_multihash_of_its_id() -> None:
    assert swarm_key("a") != swarm_key("b")
    assert len(swarm_key("a")) == 34
