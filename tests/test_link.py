"""A swarm in one line, and who is admitted through it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.errors import UserError
from p2pnode.identity.keys import Key
from p2pnode.identity.link import LONGEST_ADDRESS, MOST_PEERS, Link, check_address, parse_link

SWARM = "0123456789abcdef" * 4
PEER = Key(bytes(32)).peer
ADDRESSES = (
    f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}",
    f"/ip6/::1/tcp/4001/p2p/{PEER}",
    f"/dns4/node.example.org/tcp/4001/p2p/{PEER}",
    f"/ip4/1.2.3.4/tcp/4001/p2p/{Key(b'1' * 32).peer}/p2p-circuit/p2p/{PEER}",
)


@given(st.binary(min_size=32, max_size=32), st.lists(st.sampled_from(ADDRESSES), max_size=MOST_PEERS))
def test_a_link_is_read_as_it_was_written(digest: bytes, peers: list[str]) -> None:
    link = Link(digest.hex(), tuple(peers))
    assert parse_link(str(link)) == link


def test_a_link_without_peers_is_a_swarm_id_with_a_prefix() -> None:
    assert str(Link(SWARM)) == f"p2pnode:{SWARM}"
    assert parse_link(f"p2pnode:{SWARM}") == parse_link(f"p2pnode:{SWARM}?") == Link(SWARM)


def test_a_link_that_a_mail_program_percent_encoded_is_still_read() -> None:
    address = ADDRESSES[0].replace("/", "%2F").replace(":", "%3A")
    assert parse_link(f"p2pnode:{SWARM}?peer={address}").peers == ADDRESSES[:1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a link"),
        (SWARM, "not a link"),
        ("magnet:?xt=1", "not a link"),
        ("p2pnode:" + "a" * 100_000, "not a link"),
        ("p2pnode:", "no swarm id"),
        (f"p2pnode:{SWARM[:-1]}", "no swarm id"),
        (f"p2pnode:{SWARM}0", "no swarm id"),
        (f"p2pnode:{SWARM.upper()}", "no swarm id"),
        (f"p2pnode:{SWARM}\n", "no swarm id"),
        (f"p2pnode:{SWARM}?relay=x", "newer p2pnode"),
        (f"p2pnode:{SWARM}?peer={ADDRESSES[0]}&", "damaged"),
        (f"p2pnode:{SWARM}?peer", "names no peer"),
        (f"p2pnode:{SWARM}?peer=", "names no peer"),
        (f"p2pnode:{SWARM}?peer={ADDRESSES[0]}x", "is not an address|names no peer"),
        (f"p2pnode:{SWARM}?" + "&".join([f"peer={ADDRESSES[0]}"] * (MOST_PEERS + 1)), "at most 16"),
    ],
    ids=range(15),
)
def test_a_damaged_link_is_one_clear_line(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parse_link(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001/p2p/",
        "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW",
        "/ip4/127.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        f"/ip4/127.0.0.1/tcp/99999/p2p/{PEER}",
        f"/ip4/127.0.0/tcp/4001/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit",
        f"/carrier-pigeon/1/p2p/{PEER}",
        f"127.0.0.1:4001/p2p/{PEER}",
        f"/dns4/{'a' * LONGEST_ADDRESS}/tcp/1/p2p/{PEER}",
        f"/dns4/node\x1b[2J/tcp/1/p2p/{PEER}",
        f"/dns4/n\u00f6de/tcp/1/p2p/{PEER}",
    ],
)
def test_what_is_not_a_full_address_is_one_clear_line(address: str) -> None:
    with pytest.raises(UserError) as caught:
        check_address(address)
    assert str(caught.value).isprintable()


@given(
    st.lists(
        st.sampled_from(
            ["ip4", "ip6", "dns4", "tcp", "p2p", "p2p-circuit", "unix", "1", "::1", PEER, "", "%"]
        )
    )
)
def test_whatever_is_joined_by_slashes_is_an_address_or_a_clear_line(parts: list[str]) -> None:
    try:
        address = check_address("/".join(parts))
    except UserError:
        return
    assert address.endswith("/p2p/" + PEER)
