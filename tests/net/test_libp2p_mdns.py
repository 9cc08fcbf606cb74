"""Nodes of a swarm find each other on a local network: here, on the loopback interface alone."""

from random import Random

import pytest
import trio
from zeroconf import Zeroconf

from p2pnode.net.addresses import ADDRESSES_PER_PEER
from p2pnode.net.mdns import MdnsDiscovery, read_text_record, text_record
from p2pnode.ports import PeerAddress

from .libp2p_peers import key, peer

HERE = "/ip4/127.0.0.1/tcp/4001"


def announced(swarm: str, peer: str, *addresses: str) -> dict[bytes, bytes | None]:
    """What arrives when it was announced."""
    record = text_record(swarm, peer, addresses)  # type: ignore[arg-type]
    return {str(name).encode(): str(value).encode() for name, value in record.items()}


def test_an_announcement_is_read_as_it_was_written() -> None:
    me = key(1).peer
    assert read_text_record("ours", announced("ours", me, HERE)) == PeerAddress(me, (HERE,))


def test_another_swarms_announcement_is_none_of_ours() -> None:
    assert read_text_record("ours", announced("theirs", key(1).peer, HERE)) is None


def test_an_announcement_does_not_tell_the_swarms_id() -> None:
    assert "ours" not in str(announced("ours", key(1).peer, HERE))


@pytest.mark.parametrize(
    "record",
    [{}, {b"peer": None}, announced("ours", "somebody", HERE), announced("ours", key(1).peer, "nowhere")],
)
def test_what_is_no_announcement_is_overlooked(record: dict[bytes, bytes | None]) -> None:
    assert read_text_record("ours", record) is None


def test_an_announcement_has_few_addresses() -> None:
    addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 100)]
    found = read_text_record("ours", announced("ours", key(1).peer, *addresses))
    assert found is not None
    assert found.addresses == tuple(addresses[:ADDRESSES_PER_PEER])


@pytest.mark.parametrize(
    "name", ["x._other._tcp.local.", f"{70 * 'a'}._p2pnode._tcp.local.", "\x01._p2pnode"]
)
async def test_a_name_that_is_none_is_overlooked(name: str) -> None:
    """Anybody on the local network may announce one."""
    names, noticed = trio.open_memory_channel[str](1)
    await names.send(name)
    names.close()
    zeroconf = Zeroconf(interfaces=["127.0.0.1"])
    try:
        async with peer(1) as network:
            discovery = MdnsDiscovery(network, Random(1), ["127.0.0.1"])
            await discovery._look_up(zeroconf, noticed, "ours", lambda _: None)
    finally:
        await trio.to_thread.run_sync(zeroconf.close)


@pytest.mark.slow
async def test_two_nodes_find_each_other_and_not_a_third_of_another_swarm() -> None:
    found: dict[str, set[str]] = {}
    both = trio.Event()

    def note(me: str, other: PeerAddress) -> None:
        found.setdefault(me, set()).add(other.peer)
        if {one.me, two.me} <= set(found):
            both.set()

    async with peer(1) as one, peer(2) as two, peer(3) as third, trio.open_nursery() as nursery:
        for network, swarm in ((third, "theirs"), (one, "ours"), (two, "ours")):
            discovery = MdnsDiscovery(network, Random(1), ["127.0.0.1"])
            nursery.start_soon(discovery.run, swarm, lambda other, me=network.me: note(me, other))
        with trio.fail_after(20):
            await both.wait()
        assert found == {one.me: {two.me}, two.me: {one.me}}
        nursery.cancel_scope.cancel()
