"""A burst passes, a flood does not, and who is over a limit takes nothing from the others."""

import math
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2pnode.bucket import MOST_KEPT, Bucket, Buckets, Rate
from p2pnode.errors import Disconnected, Fault, LinkError, PeerFault, Unreachable
from p2pnode.net import connection, connections, host, identify, kademlia
from p2pnode.net.host import Libp2pNetwork
from p2pnode.net.limits import MOST_ANSWERS, subnet_of, target_of
from p2pnode.net.wire import Meter, Wire
from p2pnode.ports import PeerAddress, PeerId

from .contract import PROTOCOL, ask_echo, echo, parked_handler
from .libp2p_peers import dial_raw, full_address, key, peer, two_peers, until
from .limits_page import PAGE, page
from .test_libp2p_dht import node

# Buckets

rates = st.builds(Rate, st.floats(0.01, 1000), st.integers(1, 50))
pauses = st.lists(st.floats(0, 10), max_size=200)


@given(rates, pauses)
def test_no_stretch_of_time_sees_more_than_the_burst_and_what_is_filled_up(
    rate: Rate, waits: list[float]
) -> None:
    bucket, now, taken = Bucket(rate), 1e6, list[float]()
    for wait in waits:
        now += wait
        if bucket.take(now):
            taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= rate.burst + (end - start) * rate.second + 1e-6


@given(rates)
def test_who_stays_within_its_rate_is_never_refused(rate: Rate) -> None:
    bucket = Bucket(rate)
    assert all(bucket.take(now * 1.001 / rate.second) for now in range(100))
    assert all(bucket.take(1e9) for _ in range(rate.burst))
    assert not bucket.take(1e9)


def test_what_is_given_back_was_never_taken() -> None:
    bucket = Bucket(Rate(1, 2))
    for _ in range(10):
        assert bucket.take(0)
        bucket.give_back()
    assert bucket.take(0) and bucket.take(0) and not bucket.take(0)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(Rate(1, 2))
    for _ in range(5):
        bucket.give_back()
    assert [bucket.take(100) for _ in range(3)] == [True, True, False]


def test_who_is_refused_takes_nothing_from_the_others() -> None:
    buckets = Buckets[str](Rate(0.001, 2), Rate(0.001, 4))
    assert [buckets.take("greedy", 0) for _ in range(100)] == [True] * 2 + [False] * 98
    assert [buckets.take("other", 0) for _ in range(3)] == [True, True, False]


def test_many_names_share_what_there_is_for_all() -> None:
    buckets = Buckets[int](Rate(1, 2), Rate(0.001, 10))
    assert sum(buckets.take(name, 0) for name in range(1000)) == 10
    assert not buckets.take(None, 0)
    buckets.give_back(0)
    assert buckets.take(None, 0)


def test_a_refusal_for_all_costs_nothing_of_ones_own() -> None:
    buckets = Buckets[str](Rate(0.001, 1), Rate(1, 1))
    assert buckets.take("first", 0)
    assert not buckets.take("second", 0)
    assert buckets.take("second", 1)


def test_the_bucket_used_longest_ago_is_forgotten() -> None:
    buckets = Buckets[int](Rate(0.001, 1), Rate(1, 10**9))
    for name in range(MOST_KEPT):
        assert buckets.take(name, 0)
    assert not buckets.take(0, 0)  # which makes it the one used last
    assert buckets.take(-1, 0)
    assert len(buckets._kept) == MOST_KEPT
    assert not buckets.take(0, 0)
    assert buckets.take(1, 0)


# Who is counted together


@pytest.mark.parametrize(
    ("address", "subnet"),
    [
        ("8.8.8.8", "8.8.8.0/24"),
        ("8.8.8.255", "8.8.8.0/24"),
        ("::ffff:8.8.8.8", "8.8.8.0/24"),
        ("2001:4860:4860:11aa::1", "2001:4860:4860:1100::/56"),
        ("2001:4860:4860:11ff:1:2:3:4", "2001:4860:4860:1100::/56"),
        ("2001:4860:4860:1200::1", "2001:4860:4860:1200::/56"),
        *((local, None) for local in ("127.0.0.1", "127.8.8.8", "::1", "10.1.2.3", "172.20.0.2")),
        *((local, None) for local in ("192.168.1.1", "169.254.1.1", "100.64.0.1", "fd00::1", "fe80::1%eth0")),
        ("::ffff:10.1.2.3", None),
    ],
)
def test_public_addresses_count_by_their_network_and_private_ones_do_not(
    address: str, subnet: str | None
) -> None:
    assert subnet_of(address) == subnet


def test_dials_count_by_host_except_on_this_machine() -> None:
    assert target_of("10.1.2.3") == "10.1.2.3"
    assert target_of("Node.Example.org") == "node.example.org"
    assert target_of("127.0.0.1") is target_of("::1") is None


# Connections


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback counts as a public network."""
    monkeypatch.setattr(host, "subnet_of", lambda _: "here")


async def is_refused(network: Libp2pNetwork) -> bool:
    """Whether a TCP connection is closed before anything is said."""
    stream = await dial_raw(network)
    with trio.move_on_after(0.2):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True
        finally:
            await trio.aclose_forcefully(stream)
    return False


async def test_connections_of_one_network_make_room_for_one_another_only(
    public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS_PER_SUBNET", 2)
    async with peer(1) as busy, peer(2) as first, peer(3) as second, peer(4) as third, peer(5) as ours:
        busy.serve(PROTOCOL, echo)
        ours.serve(PROTOCOL, echo)
        await busy.connect(full_address(ours))  # dialled by us: from no network, and not in the way
        await first.connect(full_address(busy))
        stream = await first.open(busy.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"
        for network in (second, third):
            await network.connect(full_address(busy))
        await until(lambda: set(busy.connected) == {ours.me, first.me, third.me})
        held = await third.open(busy.me, PROTOCOL)
        assert await ask_echo(held, b"hello") == b"hello"
        assert await is_refused(busy)


async def test_many_that_come_at_once_make_room_for_each_other_too(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 4
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", most)
    async with peer(1) as busy, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(peer(number)) for number in range(2, 22)]
        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(other.connect, full_address(busy))
        await until(lambda: len([*busy._connections]) == most)


async def test_connections_that_this_node_dials_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    async with peer(1) as near, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(peer(number)) for number in range(2, 7)]
        for other in others:
            other.serve(PROTOCOL, echo)
            await near.connect(full_address(other))
        await until(lambda: len([*near._connections]) == 2)
        held = [await near.open(peer, PROTOCOL) for peer in near.connected]
        with pytest.raises(Unreachable, match="in use"):
            await near.connect(full_address(others[0]))
        for stream in held:
            assert await ask_echo(stream, b"hello") == b"hello"


async def test_strangers_of_one_network_do_not_keep_others_out(
    public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MOST_STRANGERS_PER_SUBNET", 2)
    async with peer(1) as busy, peer(2) as near:
        silent = [await dial_raw(busy) for _ in range(2)]
        await until(lambda: len(busy._strangers) == 2)
        assert await is_refused(busy)
        monkeypatch.setattr(host, "subnet_of", lambda _: "elsewhere")
        await near.connect(full_address(busy))
        for stream in silent:
            await stream.aclose()
        await until(lambda: not busy._strangers)


async def test_connections_that_come_too_fast_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(1) as busy, peer(2) as near:
        busy._arrivals = Buckets(Rate(1, 1), Rate(1000, 3))
        monkeypatch.setattr(trio, "current_time", lambda: 0.0)
        assert [await is_refused(busy) for _ in range(5)] == [False] * 3 + [True] * 2
        with pytest.raises(Unreachable):
            await near.connect(full_address(busy))
        monkeypatch.setattr(trio, "current_time", lambda: 1.0)
        await near.connect(full_address(busy))


# Dials


async def test_dials_in_vain_end_soon_and_the_next_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(1) as near:
        near._dials = Buckets(Rate(0.001, 1), Rate(0.001, 3))
        tried = list[str]()

        async def dial(address: str, meter: Meter) -> Wire:
            tried.append(address)
            return await connection.dial(address, meter)

        monkeypatch.setattr(host, "dial", dial)
        for number in range(10):
            near.learn(PeerAddress(key(number + 2).peer, (f"/ip4/127.0.0.1/tcp/{number + 1}",)))
            with pytest.raises(Unreachable):
                await near.open(key(number + 2).peer, PROTOCOL)
        assert len(tried) == 3


async def test_dials_that_find_a_node_cost_nothing() -> None:
    async with peer(1) as near, peer(2) as far:
        near._dials = Buckets(Rate(0.001, 1), Rate(0.001, 1))
        for _ in range(5):
            await near.connect(full_address(far))
            await near.disconnect(far.me)
        with pytest.raises(Unreachable, match=far.me):
            await near.connect(f"{far.addresses[0]}/p2p/{key(3).peer}")
        with pytest.raises(Unreachable, match="in vain"):
            await near.connect(full_address(far))


# Streams


async def test_a_peer_that_opens_streams_too_fast_is_refused_and_others_are_served() -> None:
    async with two_peers() as (near, far), peer(3) as other:
        far.serve(PROTOCOL, echo)
        far._streams = Buckets(Rate(0.001, 3), Rate(0.001, 5))
        for _ in range(3):
            await (await near.open(far.me, PROTOCOL)).reset()
        with pytest.raises(Unreachable):
            await near.open(far.me, PROTOCOL)
        await other.connect(full_address(far))
        stream = await other.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"


async def test_streams_that_are_served_are_counted_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MOST_SERVED", 2)
    async with two_peers() as (near, far):
        far.serve(PROTOCOL, echo)
        held = [await near.open(far.me, PROTOCOL) for _ in range(2)]
        with pytest.raises(Unreachable):
            await near.open(far.me, PROTOCOL)
        await held[0].reset()
        await until(lambda: far._served.total() == 1)
        await near.open(far.me, PROTOCOL)
        await near.disconnect(far.me)
        await until(lambda: not far._served)


async def test_who_holds_many_streams_keeps_nobody_else_from_being_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "MOST_SERVED", 8)
    monkeypatch.setattr(host, "MOST_SERVED_PER_PEER", 6)
    monkeypatch.setattr(host, "FEW_SERVED", 1)
    async with two_peers() as (near, far), peer(3) as other:
        far.serve(PROTOCOL, echo)
        for _ in range(4):
            await near.open(far.me, PROTOCOL)
        with pytest.raises(Unreachable):  # half of all are taken
            await near.open(far.me, PROTOCOL)
        await other.connect(full_address(far))
        stream = await other.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"


async def test_a_ping_that_nobody_uses_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "PATIENCE_SECONDS", 0.1)
    async with two_peers() as (near, far):
        stream = await near.open(far.me, identify.PING)
        assert await identify.round_trip(stream) > 0
        await until(lambda: not far._served)


async def test_who_goes_on_opening_refused_streams_is_cut_off_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pnode.net.yamux.REFUSALS", Rate(0.001, 3))
    monkeypatch.setattr(host, "MOST_SERVED", 0)
    faults = list[tuple[PeerId, Fault]]()
    async with two_peers() as (near, far):
        far.on_fault = lambda who, error: faults.append((who, error.fault))
        [dialled] = near._connections.of(far.me)
        for _ in range(4):
            assert not faults
            stream = dialled._muxer.open()
            with pytest.raises(Disconnected):
                await stream.receive_into(memoryview(bytearray(1)))
        assert faults == [(near.me, Fault.OVERSIZED)]


# The DHT


async def ask(near: Libp2pNetwork, far: PeerId, times: int = 1) -> None:
    stream = await near.open(far, kademlia.KADEMLIA)
    for _ in range(times):
        question = Message(type=Message.MessageType.GET_PROVIDERS, key=kademlia.swarm_key("ours"))
        data = question.SerializeToString()
        await stream.send(bytes([len(data)]) + data)
        await kademlia._read_message(stream)
    await stream.close()


async def test_a_peer_that_asks_too_often_is_refused() -> None:
    async with node(1, []) as one, peer(2) as near, peer(3) as other:
        for network in (near, other):
            await network.connect(one.address)
        one._discovery._kademlia._questions = Buckets(Rate(0.001, 2), Rate(0.001, 3))
        for _ in range(2):
            await ask(near, one.network.me)
        with pytest.raises(LinkError):
            await ask(near, one.network.me)
        await ask(other, one.network.me)
        with pytest.raises(LinkError):
            await ask(other, one.network.me)


async def test_one_conversation_has_few_answers() -> None:
    async with node(1, []) as one, peer(2) as near:
        await near.connect(one.address)
        await ask(near, one.network.me, MOST_ANSWERS)
        with pytest.raises(Disconnected):
            await ask(near, one.network.me, MOST_ANSWERS + 1)


async def test_who_asks_and_says_nothing_keeps_the_dht_from_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kademlia, "VISIT_SECONDS", 0.1)
    async with node(1, []) as one, peer(2) as silent, peer(3) as other:
        await silent.connect(one.address)
        await other.connect(one.address)
        for _ in range(12):  # as many as the library answers at once
            with suppress(LinkError):
                await silent.open(one.network.me, kademlia.KADEMLIA)
        await ask(other, one.network.me)
        asking = one._discovery._kademlia._asking
        await until(lambda: not asking)


# Telling


async def test_a_fault_below_all_handlers_is_told() -> None:
    faults = list[tuple[PeerId, PeerFault]]()
    async with two_peers() as (near, far):
        far.on_fault = lambda who, error: faults.append((who, error))
        accept, _ = parked_handler()
        far.serve(PROTOCOL, accept)
        stream = await near.open(far.me, PROTOCOL)
        stream._sendable = math.inf  # type: ignore[assignment]
        with trio.fail_after(10), pytest.raises(Disconnected):
            await stream.send(bytes(2**23))
        [(who, error)] = faults
        assert (who, error.fault) == (near.me, Fault.OVERSIZED)


def test_the_page_of_limits_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.net.limits_page"
