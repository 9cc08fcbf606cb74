"""The host that libp2p's Kademlia is given: our network, with every number bounded.

The library's DHT asks its host for streams, connected peers and a store of addresses, and believes
what strangers send: messages of 4 MiB, any number of addresses, records without end. All that it
reads comes through here, so here is where it ends. The protocol has a name of our own, which keeps
our DHT apart from the public one; the library's `protocol_prefix` does not reach the wire.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.provider_store import ProviderRecord
from libp2p.peer.envelope import Envelope
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from multiaddr import Multiaddr

from p2pnode.errors import Disconnected, Unreachable
from p2pnode.identity.keys import peer_of
from p2pnode.net.addresses import ADDRESSES_PER_PEER, is_dialable
from p2pnode.net.host import Libp2pNetwork
from p2pnode.net.limits import MOST_ANSWERS
from p2pnode.ports import PeerAddress, PeerId, Stream

STREAM_BYTES = 64 * 1024
"""Most that is read from one DHT stream: an answer with 20 providers and 20 peers takes 8 kB."""

MOST_KEYS = 1024
"""Swarms that this node keeps providers of; the one heard of first is forgotten first."""

MOST_PROVIDERS = 20
"""Of one swarm, as the specification has it: they are entry points, not the membership."""

_LONGEST_ADDRESS = 300  # bytes; the binary form of an address is shorter than its text
_PEER_PREFIX_BYTES = 6  # before the 32 bytes of the key

_REMEMBERED = 4096
"""Names and addresses whose other form is kept, about 200 bytes each: the same few are asked for again and
again, and base58 in Python was a quarter of what a node's event loop did in its first seconds."""


class DhtHost:
    """As much of libp2p's host, and of its peer store, as the server side of its DHT asks for."""

    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network
        private = create_new_key_pair(network.key.seed).private_key
        self._record = create_signed_peer_record(self.get_id(), self.get_addrs(), private)

    def get_id(self) -> ID:
        return id_of(self._network.me)

    def get_addrs(self) -> list[Multiaddr]:
        return [_multiaddr(address) for address in self._network.addresses]

    def get_connected_peers(self) -> list[ID]:
        return [id_of(peer) for peer in self._network.connected]

    def set_stream_handler(self, _protocol: str, _handler: object) -> None:
        """Leave serving to `DhtDiscovery`, which knows the protocol's name."""

    async def new_stream(self, peer: ID, protocols: Sequence[str]) -> "DhtStream":
        if (known := peer_named(peer.to_bytes())) is None:
            raise Unreachable("no Ed25519 peer id")
        return DhtStream(await self._network.open(known, protocols[0]))

    def get_peerstore(self) -> "DhtHost":
        return self

    def addrs(self, peer: ID) -> list[Multiaddr]:
        known = peer_named(peer.to_bytes())
        return [_multiaddr(address) for address in self._network.known_addresses(known)] if known else []

    def get_protocols(self, _peer: ID) -> list[str]:
        return []

    def get_peer_record(self, _peer: ID) -> None:
        """Pass on no signed records: an address is a hint, and the handshake there is the proof."""

    def get_local_record(self) -> Envelope:
        return self._record

    def consume_peer_record(self, envelope: Envelope, _seconds: int) -> bool:
        record = envelope.record()
        # The library checked the signature, but not that this is the peer's own key.
        if record.peer_id != ID.from_pubkey(envelope.public_key):
            return False
        learned = peer_address(record.peer_id.to_bytes(), (addr.to_bytes() for addr in record.addrs))
        if learned is not None:
            self._network.learn(learned)
        return learned is not None


class DhtStream:
    """A stream as libp2p's DHT uses it, ended when too much comes out of it."""

    metric_send_channel = None

    def __init__(self, stream: Stream) -> None:
        self.muxed_conn = SimpleNamespace(peer_id=id_of(stream.peer))
        self._stream = stream
        self._left = STREAM_BYTES
        self._writes = 2 * MOST_ANSWERS  # the length of each is written by itself

    async def read(self, n: int) -> bytes:
        """Read exactly `n` bytes, or none at the end: what the library takes for one."""
        if n > self._left:
            await self._stream.reset()
            raise Disconnected(f"more than {STREAM_BYTES} bytes in one DHT stream")
        self._left -= n
        data = bytearray(n)
        try:
            await self._stream.receive_into(memoryview(data))
        except Disconnected:
            return b""
        return bytes(data)

    async def write(self, data: bytes) -> None:
        self._writes -= 1
        if self._writes < 0:
            await self._stream.reset()
            raise Disconnected(f"more than {MOST_ANSWERS} answers in one DHT stream")
        await self._stream.send(data)

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()


@lru_cache(_REMEMBERED)
def id_of(peer: PeerId) -> ID:
    """Turn our name of a peer into the library's."""
    return ID.from_string(peer)


def peer_named(raw: bytes) -> PeerId | None:
    """Turn the binary form of a peer id into our name for it; None for other kinds of key."""
    return _peer_named(raw) if len(raw) == _PEER_PREFIX_BYTES + 32 else None


@lru_cache(_REMEMBERED)
def _peer_named(raw: bytes) -> PeerId | None:
    peer = peer_of(raw[_PEER_PREFIX_BYTES:])
    return peer if id_of(peer).to_bytes() == raw else None


def peer_address(raw: bytes, addresses: Iterable[bytes]) -> PeerAddress | None:
    """Read a peer and its addresses, all in binary; None when it cannot be a node of ours."""
    peer = peer_named(raw)
    some = (data for data, _ in zip(addresses, range(2 * ADDRESSES_PER_PEER), strict=False))
    dialable = [text for data in some if len(data) <= _LONGEST_ADDRESS and (text := _dialable(data))]
    return PeerAddress(peer, tuple(dialable[:ADDRESSES_PER_PEER])) if peer and dialable else None


@lru_cache(_REMEMBERED)
def _dialable(address: bytes) -> str | None:
    try:
        text = str(Multiaddr(address))
    except Exception:  # noqa: BLE001  # the parser raises whatever a stranger's bytes lead it into
        return None
    return text if is_dialable(text) else None


@lru_cache(_REMEMBERED)
def _multiaddr(address: str) -> Multiaddr:
    return Multiaddr(address)


def trim(providers: dict[bytes, dict[str, ProviderRecord]]) -> None:
    """Bound what the library keeps of providers, by making room for the next in time.

    The library refuses newcomers while a swarm has 20 providers, dead or alive, for 48 hours. Here the
    oldest record goes instead: who is alive announces itself again when it is no longer listed.
    """
    while len(providers) > MOST_KEYS:
        del providers[next(iter(providers))]
    for records in providers.values():
        while len(records) >= MOST_PROVIDERS:
            del records[min(records, key=lambda peer: records[peer].timestamp)]
        for record in records.values():
            del record.provider_info.addrs[ADDRESSES_PER_PEER:]


class RefuseValues:
    """A validator under which the DHT stores no values: only providers are wanted here."""

    def validate(self, _key: str, _value: bytes) -> None:
        raise ValueError("no values are stored here")

    def select(self, _key: str, _values: Sequence[bytes]) -> Any:
        raise ValueError("no values are stored here")
