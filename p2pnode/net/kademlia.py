"""This node's part in a Kademlia DHT, and its walks through it.

Kademlia (Maymounkov and Mazieres, 2002; https://github.com/libp2p/specs/tree/master/kad-dht) gives
peers and keys a place in one space, with XOR as the distance. What belongs to a key is kept by the
peers closest to it, and every peer knows many near itself and a few far away. So whoever looks for a
key *walks*: it asks the closest peers it knows for closer ones, until there are none.

Routing table, provider records and answers to others are libp2p's. The walk is ours. The library's
lookup of providers stops at the first record in its own store, so a node that announced itself would
find only itself. Here one stream to each peer asks for providers, brings closer peers, and announces
this node if it is not among those listed; which is also how a lost or forgotten announcement comes back.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import trio
import varint
from google.protobuf.message import DecodeError
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID

from p2pnode.bucket import Buckets
from p2pnode.errors import Fault, LinkError, PeerFault
from p2pnode.net.dht_host import (
    MOST_PROVIDERS,
    STREAM_BYTES,
    DhtHost,
    DhtStream,
    RefuseValues,
    id_of,
    peer_address,
    trim,
)
from p2pnode.net.host import Libp2pNetwork
from p2pnode.net.limits import MOST_ASKING_PER_PEER, QUESTIONS, QUESTIONS_PER_PEER
from p2pnode.ports import PeerAddress, PeerId, Stream

logger = logging.getLogger(__name__)

KADEMLIA = "/p2pnode/kad/1.0.0"

CLOSEST = 20
"""How many of the closest peers a walk asks: Kademlia's k."""

AT_ONCE = 5
"""Peers asked at the same time. A server answers 12 streams at once, from all that ask it."""

MOST_VISITS = 100
"""Of one walk. An honest one takes about twenty; a liar can make up closer peers for ever."""

VISIT_SECONDS = 5.0
"""For one peer's answer. A walk waits for the slowest of those it asks at once."""

FULL_LIST_ODDS = 0.1
"""Of announcing to a peer that lists as many providers as it keeps: it must forget one for us."""

Found = Callable[[PeerAddress], None]
Ask = Callable[[PeerId], Awaitable[Iterable[ID]]]
"""Asks one peer; returns those that it thinks closest to what is looked for."""


def swarm_key(swarm: str) -> bytes:
    """Where a swarm's providers are kept: a SHA-256 multihash, as the specification asks for."""
    return b"\x12\x20" + hashlib.sha256(f"p2pnode swarm {swarm}".encode()).digest()


class Kademlia:
    """Answers other nodes' questions from the moment it is made.

    Args:
        network: carries the streams.
        random: decides whether to announce where the list is full.

    Attributes:
        heard: called after every incoming conversation, which may have announced a provider.
    """

    def __init__(self, network: Libp2pNetwork, random: Random) -> None:
        self.heard: Callable[[], None] = lambda: None
        self._network = network
        self._random = random
        self._questions = Buckets[PeerId](QUESTIONS_PER_PEER, QUESTIONS)
        self._asking: list[PeerId] = []  # those who are being answered
        self._me = id_of(network.me)
        self._host = DhtHost(network)
        self._dht = KadDHT(
            cast(Any, self._host),
            DHTMode.SERVER,
            validator=cast(Any, RefuseValues()),
            validator_changed=True,
            max_peers_per_subnet=0,  # a swarm often is one subnet
        )
        network.serve(KADEMLIA, self._serve)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer
        busy = self._asking.count(peer) >= MOST_ASKING_PER_PEER
        if busy or not self._questions.take(peer, trio.current_time()):
            await stream.reset()
            return
        self._asking.append(peer)
        try:
            with trio.move_on_after(VISIT_SECONDS):  # whoever asks waits no longer either
                await self._dht.handle_stream(cast(Any, DhtStream(stream)))
        finally:
            self._asking.remove(peer)
        await self.add(peer)
        trim(self._dht.provider_store.providers)
        self.heard()

    async def add(self, peer: PeerId) -> None:
        """Put a peer that speaks Kademlia into the routing table."""
        await self._dht.add_peer(id_of(peer), skip_server_mode_check=True)

    def announced_here(self, key: bytes) -> list[PeerAddress]:
        """Providers that came to this node to announce themselves."""
        here = self._dht.provider_store.get_providers(key)
        peers = (
            peer_address(one.peer_id.to_bytes(), [addr.to_bytes() for addr in one.addrs]) for one in here
        )
        return [peer for peer in peers if peer is not None]

    async def find(self, key: bytes, found: Found) -> None:
        """Report who provides `key`, and become one of them."""

        async def ask(peer: PeerId) -> Iterable[ID]:
            async with self._conversation(peer) as stream:
                answer = await self._question(stream, Message.MessageType.GET_PROVIDERS, key)
                listed = list(answer.providerPeers[:MOST_PROVIDERS])
                if self._shall_announce(listed):
                    await self._question(stream, Message.MessageType.ADD_PROVIDER, key)
            for one in listed:
                if (provider := peer_address(one.id, one.addrs)) is not None:
                    found(provider)
            return self._closer(answer)

        await self._walk(key, ask)

    async def settle(self) -> None:
        """Walk to this node's own place, so that those around it know it, and it them."""
        key = self._me.to_bytes()

        async def ask(peer: PeerId) -> Iterable[ID]:
            async with self._conversation(peer) as stream:
                return self._closer(await self._question(stream, Message.MessageType.FIND_NODE, key))

        await self._walk(key, ask)

    async def _walk(self, key: bytes, ask: Ask) -> None:
        known = dict.fromkeys(self._dht.routing_table.find_local_closest_peers(key, CLOSEST))
        asked = {self._me: None}

        async def visit(peer: ID) -> None:
            name = PeerId(str(peer))
            try:
                with trio.fail_after(VISIT_SECONDS):
                    known.update(dict.fromkeys(await ask(name)))
                await self.add(name)
            except (LinkError, PeerFault, trio.TooSlowError) as error:
                logger.debug("%s does not answer: %s", peer, error)
                known.pop(peer, None)
                if name not in self._network.connected:  # else it is only busy, and refuses the thirteenth
                    self._dht.routing_table.remove_peer(peer)

        while len(asked) < MOST_VISITS:
            closest = sort_peer_ids_by_distance(key, list(known))[:CLOSEST]
            batch = [peer for peer in closest if peer not in asked][:AT_ONCE]
            if not batch:
                return
            asked.update(dict.fromkeys(batch))
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(visit, peer)

    def _shall_announce(self, listed: list[Message.Peer]) -> bool:
        mine = sorted(address.to_bytes() for address in self._host.get_addrs())
        if any(one.id == self._me.to_bytes() and sorted(one.addrs) == mine for one in listed):
            return False
        return len(listed) < MOST_PROVIDERS - 1 or self._random.random() < FULL_LIST_ODDS

    def _closer(self, answer: Message) -> list[ID]:
        """Learn where the closer peers of an answer are; returns their names."""
        peers = (peer_address(one.id, one.addrs) for one in answer.closerPeers[:CLOSEST])
        closer = [peer for peer in peers if peer is not None and peer.peer != self._network.me]
        for peer in closer:
            self._network.learn(peer)
        return [id_of(peer.peer) for peer in closer]

    @asynccontextmanager
    async def _conversation(self, peer: PeerId) -> AsyncIterator[Stream]:
        stream = await self._network.open(peer, KADEMLIA)
        try:
            yield stream
        except BaseException:
            await stream.reset()
            raise
        await stream.close()

    async def _question(self, stream: Stream, kind: Message.MessageType, key: bytes) -> Message:
        message = Message(type=kind, key=key, senderRecord=self._host.get_local_record().marshal_envelope())
        if kind == Message.MessageType.ADD_PROVIDER:
            addresses = [address.to_bytes() for address in self._host.get_addrs()]
            message.providerPeers.append(Message.Peer(id=self._me.to_bytes(), addrs=addresses))
        data = message.SerializeToString()
        await stream.send(varint.encode(len(data)) + data)
        return await _read_message(stream)


async def _read_message(stream: Stream) -> Message:
    size, shift, byte = 0, 0, bytearray([0x80])
    while byte[0] & 0x80:  # a varint: seven bits in each byte, the lowest first
        await stream.receive_into(memoryview(byte))
        size |= (byte[0] & 0x7F) << shift
        shift += 7
        if size > STREAM_BYTES or shift > 28:
            raise PeerFault(Fault.OVERSIZED, "DHT message")
    data = bytearray(size)
    await stream.receive_into(memoryview(data))
    try:
        return Message.FromString(bytes(data))
    except DecodeError as error:
        raise PeerFault(Fault.MALFORMED, "DHT message") from error
