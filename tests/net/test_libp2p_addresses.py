"""Addresses are read strictly, and a book of them stays small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.net.addresses import (
    ADDRESSES_PER_PEER,
    MOST_PEERS,
    Address,
    AddressBook,
    is_dialable,
    parse_address,
    reachable,
)
from p2pnode.ports import PeerId

from .libp2p_peers import key

PEER = key(1).peer


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/192.0.2.7/tcp/4001", Address("192.0.2.7", 4001)),
        ("/ip6/2001:db8::1/tcp/0", Address("2001:db8::1", 0)),
        ("/dns4/node.example.org/tcp/65535", Address("node.example.org", 65535)),
        (f"/dns/localhost/tcp/1/p2p/{PEER}", Address("localhost", 1, PEER)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.300/tcp/1",
        "/ip4/2001:db8::1/tcp/1",
        "/ip4/192.0.2.7/tcp/65536",
        "/ip4/192.0.2.7/tcp/-1",
        "/ip4/192.0.2.7/tcp/\uff11",
        "/ip4/192.0.2.7/udp/1/quic-v1",
        "/ip4/192.0.2.7/tcp/1/ws",
        "/ip4/192.0.2.7/tcp/1/p2p/somebody",
        "/dns4/no_such name/tcp/1",
        "/dns4/" + 300 * "a" + "/tcp/1",
        "/dns4/" + 64 * "a" + "/tcp/1",
        "/dns4/" + 150 * "a." + "a/tcp/1",
        "/dns4/a..b/tcp/1",
        "/dns4/a.-b/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1",
        "/ip4/192.0.2.7/tcp/1" + 500 * "/",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


@given(st.text("a-.A0", min_size=1, max_size=70))
def test_every_name_that_is_accepted_can_be_looked_up(name: str) -> None:
    if is_dialable(f"/dns4/{name}/tcp/1"):
        assert name.encode("idna")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_is_not(text: str) -> None:
    assert is_dialable(text) in (True, False)


def test_every_interface_means_several_addresses_with_the_loopback_last() -> None:
    found = reachable("0.0.0.0", 4001)
    assert found[-1] == "/ip4/127.0.0.1/tcp/4001"
    assert all(is_dialable(address) and "0.0.0.0" not in address for address in found)
    assert reachable("127.0.0.1", 1) == ["/ip4/127.0.0.1/tcp/1"]


def test_the_book_keeps_the_latest_few_addresses_of_a_peer() -> None:
    book = AddressBook()
    for port in range(1, 30):
        book.learn(PEER, [f"/ip4/127.0.0.1/tcp/{port}", "nonsense"])
    assert book.of(PEER) == tuple(
        f"/ip4/127.0.0.1/tcp/{port}" for port in range(29, 29 - ADDRESSES_PER_PEER, -1)
    )


def test_the_book_forgets_the_peer_heard_of_longest_ago() -> None:
    book = AddressBook()
    peers = [PeerId(str(number)) for number in range(MOST_PEERS + 1)]
    for peer in peers:
        book.learn(peer, ["/ip4/127.0.0.1/tcp/1"])
    assert book.of(peers[0]) == ()
    assert book.of(peers[1])


def test_the_book_keeps_nothing_for_a_peer_without_addresses() -> None:
    book = AddressBook()
    book.learn(PEER, ["nonsense"])
    assert book.of(PEER) == ()
