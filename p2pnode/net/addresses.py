"""Where peers may be dialled: TCP multiaddrs, and a bounded book of them.

A multiaddr writes an address as a path, `/ip4/192.0.2.7/tcp/4001`, and may name who is expected
there: `/p2p/12D3KooW...` (https://github.com/multiformats/multiaddr). Only what this node can dial
is accepted here: TCP, by IP address or DNS name.
"""

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ifaddr

from p2pnode.identity.keys import public_of
from p2pnode.ports import PeerAddress, PeerId

LONGEST_ADDRESS = 400  # characters: a DNS name of 253 and a peer id of 52 fit
ADDRESSES_PER_PEER = 8
"""Interfaces of one machine and what its router calls it; a stranger may not make us dial hundreds."""

MOST_PEERS = 4096
"""Kept in the book: far above any view; a peer heard of long ago is forgotten first."""

LONGEST_NAME = 253  # characters, as RFC 1035 has it
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")  # others make the resolver raise


@dataclass(frozen=True)
class Address:
    """One place to dial.

    Attributes:
        host: an IP address or a DNS name.
        port: TCP.
        peer: who is expected there; None for anybody.
    """

    host: str
    port: int
    peer: PeerId | None = None


def parse_address(text: str) -> Address:
    """Read a TCP multiaddr.

    Raises:
        ValueError: it is none; the message says why, in words for the person who wrote it.
    """
    if len(text) > LONGEST_ADDRESS:
        raise ValueError(f"longer than {LONGEST_ADDRESS} characters")
    match text.split("/"):
        case ["", kind, host, "tcp", port]:
            return Address(_host(kind, host), _port(port))
        case ["", kind, host, "tcp", port, "p2p", peer]:
            public_of(PeerId(peer))
            return Address(_host(kind, host), _port(port), PeerId(peer))
    raise ValueError("expected something like /ip4/192.0.2.7/tcp/4001")


def _host(kind: str, host: str) -> str:
    match kind:
        case "ip4":
            return str(ipaddress.IPv4Address(host))
        case "ip6":
            if "%" in host:
                raise ValueError(f"{host}: an interface's name says nothing on another machine")
            return str(ipaddress.IPv6Address(host))
        case "dns" | "dns4" | "dns6" if len(host) <= LONGEST_NAME and _NAME.fullmatch(host):
            return host
    raise ValueError(f"/{kind}/{host} is neither an IP address nor a DNS name")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise ValueError(f"{text} is not a TCP port")
    return int(text)


def format_address(host: str, port: int) -> str:
    """Write an IP address and a port as a multiaddr."""
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def reachable(host: str, port: int) -> list[str]:
    """Multiaddrs under which a socket bound to `host` is reached, loopback last."""
    if not ipaddress.ip_address(host).is_unspecified:
        return [format_address(host, port)]
    version = ipaddress.ip_address(host).version
    texts = [
        str(ip.ip if ip.is_IPv4 else ip.ip[0]) for adapter in ifaddr.get_adapters() for ip in adapter.ips
    ]
    ips = [ip for ip in map(ipaddress.ip_address, texts) if ip.version == version and not ip.is_link_local]
    return [format_address(str(ip), port) for ip in sorted(ips, key=lambda ip: ip.is_loopback)]


class AddressBook:
    """Addresses that peers are said to have: hints from strangers, so every number is bounded."""

    def __init__(self) -> None:
        self._known: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()

    def learn(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Put `addresses` before what is known already; what cannot be dialled is left out."""
        merged = dict.fromkeys([*filter(is_dialable, addresses), *self._known.pop(peer, ())])
        if merged:
            self._known[peer] = tuple(merged)[:ADDRESSES_PER_PEER]
        if len(self._known) > MOST_PEERS:
            self._known.popitem(last=False)

    def of(self, peer: PeerId) -> tuple[str, ...]:
        """Best first; empty when nothing is known."""
        return self._known.get(peer, ())


def is_dialable(text: str) -> bool:
    """Whether `text` is a multiaddr that this node can dial, naming no peer."""
    try:
        return parse_address(text).peer is None
    except ValueError:
        return False


def bounded(peer: PeerId, addresses: Sequence[str]) -> PeerAddress:
    """What is worth passing on of addresses that came from elsewhere."""
    return PeerAddress(
        peer, tuple(filter(is_dialable, addresses[: 2 * ADDRESSES_PER_PEER]))[:ADDRESSES_PER_PEER]
    )
