"""This node's end of the libp2p network: listening, dialling, and who is connected.

libp2p's parts shake hands and keep the Kademlia table; Noise's data phase, yamux and multistream are
ours, and anybody's libp2p understands them. The library's own host and swarm do not run here. They wait
250 ms in every dial and try one TCP address of a peer; one failure bars the peer for a minute; each
connection accepted costs a task and a slot that come back only at shutdown; and errors of handlers
disappear. What is left to do without them fits on this page.

*Connections* are kept and reused (`connections`), one dial at a time for each peer. One that turns out to be
dead is dropped, so the next `open` dials again. One on which nothing came while somebody waited to open a
stream, for as long as that was willing to, is doubted: until a byte comes, it is not used again.

*Error handling*: a `LinkError` that leaves a handler ends its stream and nothing else. Any other
exception is our own bug: it leaves `open_network` and takes the node with it. A `PeerFault` below all
handlers, in Noise or yamux, ends the connection, and `on_fault` hears of it.

*Limits*: see `limits`.
"""

import logging
import math
import socket
from collections import ChainMap, Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import trio

from p2pnode.bucket import Buckets
from p2pnode.errors import Disconnected, LinkError, PeerFault, Unreachable
from p2pnode.identity.keys import Key
from p2pnode.net.addresses import AddressBook, parse_address, reachable
from p2pnode.net.budget import Budget
from p2pnode.net.bulk import BulkStream
from p2pnode.net.bulk_keys import invite, preferred
from p2pnode.net.connection import NOISE, Connection, admit, dial, dial_direct, noise_of, secure
from p2pnode.net.connections import Connections
from p2pnode.net.identify import IDENTIFY, PING, identify, ping
from p2pnode.net.limits import (
    ARRIVALS,
    ARRIVALS_PER_SUBNET,
    DIALS,
    DIALS_PER_HOST,
    FEW_SERVED,
    MOST_SERVED,
    MOST_SERVED_PER_PEER,
    MOST_STRANGERS,
    MOST_STRANGERS_PER_SUBNET,
    STREAMS,
    STREAMS_PER_PEER,
    subnet_of,
    target_of,
)
from p2pnode.net.listeners import bind
from p2pnode.net.meeting import Meeting
from p2pnode.net.multistream import agree, receive
from p2pnode.net.pace import Pace
from p2pnode.net.wire import Meter, Wire
from p2pnode.net.yamux import MOST_UNREAD_IN_ALL, YamuxStream
from p2pnode.ports import Handler, PeerAddress, PeerId, Stream, Traffic

logger = logging.getLogger(__name__)

OPEN_SECONDS = 10.0
"""For dialling and agreeing on a protocol: about six round trips, and a busy peer's patience."""

NEXT_ADDRESS_SECONDS = 0.25
"""Before a peer's next address is tried beside the first, as Happy Eyeballs does (RFC 8305)."""


@asynccontextmanager
async def open_network(
    key: Key, listen: Sequence[str], direct: bool = True, bandwidth: float = math.inf
) -> AsyncIterator["Libp2pNetwork"]:
    """Listen on the multiaddrs `listen` and be reachable until the block ends.

    Args:
        key: of this node.
        listen: multiaddrs.
        direct: whether direct connections are wanted.
        bandwidth: bytes a second that are sent at most.

    Raises:
        UserError: an address of `listen` cannot be used.
    """
    listeners = await bind(listen)
    addresses = [found for listener in listeners for found in reachable(*listener.socket.getsockname()[:2])]
    # The library logs what strangers do to us as warnings and errors; nobody can act on them.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    async with trio.open_nursery() as nursery:
        network = Libp2pNetwork(key, tuple(dict.fromkeys(addresses)), nursery, direct, bandwidth)
        await nursery.start(trio.serve_listeners, network.welcome, listeners)
        try:
            yield network
        finally:
            await network.close()
            nursery.cancel_scope.cancel()


class Libp2pNetwork:
    """Implements `ports.Network`; made by `open_network`.

    Attributes:
        on_fault: told when a connection is cut because the peer broke the rules below all handlers.
    """

    def __init__(
        self, key: Key, addresses: tuple[str, ...], nursery: trio.Nursery, direct: bool, bandwidth: float
    ) -> None:
        self._key = key
        self._addresses = addresses
        self._nursery = nursery
        self._noise = noise_of(key.seed)
        self._meter = Meter(pace=Pace(bandwidth))
        self._budget = Budget(MOST_UNREAD_IN_ALL)
        self._book = AddressBook()
        self._connections = Connections(lambda connection: nursery.start_soon(connection.close))
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._strangers: list[str | None] = []  # the subnets of those whose handshake is under way
        self._served = Counter[PeerId]()  # streams that are served now
        self._arrivals = Buckets[str](ARRIVALS_PER_SUBNET, ARRIVALS)
        self._dials = Buckets[str](DIALS_PER_HOST, DIALS)
        self._streams = Buckets[PeerId](STREAMS_PER_PEER, STREAMS)
        self.on_fault: Callable[[PeerId, PeerFault], None] = _log_fault
        self._meeting = Meeting[socket.socket, BulkStream](
            (lambda: invite(preferred())) if direct else None,
            lambda peer, name: dial_direct(self._book.of(peer), name, self._meter, self._in_vain),
            lambda connection, peer, keys: BulkStream(connection, peer, keys, self._meter),
        )
        self._entrances = ChainMap[str, Any]({NOISE: None}, self._meeting.awaited)
        self._handlers: dict[str, Handler] = {
            IDENTIFY: identify(key.public, lambda: self._addresses, lambda: tuple(self._handlers)),
            PING: ping,
        }

    @property
    def key(self) -> Key:
        """Proves `me`."""
        return self._key

    @property
    def me(self) -> PeerId:
        return self._key.peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._meter.sent, self._meter.received)

    @property
    def connected(self) -> tuple[PeerId, ...]:
        """Peers that a connection is open with."""
        return tuple(self._connections.peers)

    def serve(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    def learn(self, peer: PeerAddress) -> None:
        self._book.learn(peer.peer, peer.addresses)

    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Where `peer` may be dialled, best first."""
        return self._book.of(peer)

    async def connect(self, address: str) -> PeerId:
        try:
            place = parse_address(address)
        except ValueError as error:
            raise Unreachable(f"{address}: {error}") from error
        if place.peer is not None:
            self._book.learn(place.peer, [address.partition("/p2p/")[0]])
        with trio.move_on_after(OPEN_SECONDS):
            if place.peer is None:
                return (await self._dial(address)).peer
            return (await self._connection(place.peer, [address])).peer
        raise Unreachable(f"{address}: no answer in {OPEN_SECONDS:.0f} s")

    async def open(self, peer: PeerId, protocol: str) -> YamuxStream:
        heard = [(one, one.received) for one in self._connections.of(peer)]
        try:
            with trio.fail_after(OPEN_SECONDS):
                return await self._open(peer, protocol)
        except trio.TooSlowError as error:
            # Without a sign of life all the while they are dead.
            await _close_all([one for one, received in heard if one.received == received])
            raise Unreachable(f"{peer} did not answer in {OPEN_SECONDS:.0f} s") from error
        except trio.Cancelled:
            for one, received in heard:
                one.doubted = received
            raise

    async def _open(self, peer: PeerId, protocol: str) -> YamuxStream:
        for _ in range(2):  # a connection may turn out to be gone, and is dialled anew
            connection = await self._connection(peer, self._book.of(peer))
            try:
                return await connection.open_stream(protocol)
            except Disconnected as error:
                logger.debug("%s", error)
        raise Unreachable(f"{peer} hangs up instead of speaking {protocol}")

    def invitation(self, stream: Stream) -> bytes:
        return self._meeting.invitation(stream.peer)

    async def direct(self, stream: Stream, mine: bytes, theirs: bytes, context: bytes) -> BulkStream | None:
        assert isinstance(stream, YamuxStream)
        return await self._meeting.meet(stream, mine, theirs, context)

    async def disconnect(self, peer: PeerId) -> None:
        await self._meeting.part(peer)
        await _close_all(self._connections.of(peer))

    async def close(self) -> None:
        """Close every connection once what was sent has left, or soon after."""
        await self._meeting.part()
        await _close_all([*self._connections])

    async def welcome(self, stream: trio.SocketStream) -> None:
        """Serve one accepted TCP connection until it ends."""
        wire = Wire(stream, initiator=False, meter=self._meter)
        subnet = _subnet(stream)
        if self._connections.full(subnet) or not self._may_arrive(subnet):
            wire.abort()
            return
        self._strangers.append(subnet)
        try:
            with trio.fail_after(OPEN_SECONDS):
                if (name := await admit(wire, self._entrances)) != NOISE:
                    self._meet(name, wire.detach())
                    return
                connection = await secure(wire, self._noise, self._budget)
        except (LinkError, trio.TooSlowError):
            return
        finally:
            self._strangers.remove(subnet)
        connection.subnet = subnet
        if self._connections.admit(connection):
            await self._run(connection)
        else:
            await connection.close()

    def _meet(self, name: str, direct: socket.socket) -> None:
        if not self._meeting.arrived(name, direct):
            direct.close()

    def _may_arrive(self, subnet: str | None) -> bool:
        if len(self._strangers) >= MOST_STRANGERS:
            return False
        if subnet is not None and self._strangers.count(subnet) >= MOST_STRANGERS_PER_SUBNET:
            return False
        return self._arrivals.take(subnet, trio.current_time())

    async def _connection(self, peer: PeerId, addresses: Sequence[str]) -> Connection:
        """Return the newest connection with `peer`, dialling `addresses` when there is none."""
        if peer == self.me:
            raise Unreachable("a node does not dial itself")
        if newest := self._connections.newest(peer):
            return newest
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                return self._connections.newest(peer) or await self._dial_any(peer, addresses)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dialling.pop(peer, None)

    async def _dial_any(self, peer: PeerId, addresses: Sequence[str]) -> Connection:
        """Dial `addresses`, each a moment after the one before; the first to answer wins."""
        answered: list[Connection] = []
        refused: list[str] = []

        async def dial(address: str, failed: trio.Event) -> None:
            try:
                answered.append(await self._dial(address, peer))
                nursery.cancel_scope.cancel()
            except Unreachable as error:
                refused.append(str(error))
                failed.set()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(dial, address, failed)
                with trio.move_on_after(NEXT_ADDRESS_SECONDS):
                    await failed.wait()
        if not answered:
            raise Unreachable(f"{peer}: " + ("; ".join(refused) or "no address is known"))
        return answered[0]

    @contextmanager
    def _in_vain(self, address: str) -> Iterator[None]:
        """Dial there. It counts unless it succeeds.

        Raises:
            Unreachable: too much was dialled in vain of late.
        """
        target = target_of(parse_address(address).host)
        if not self._dials.take(target, trio.current_time()):
            raise Unreachable(f"{address} is not dialled: too many dials were in vain")
        yield
        self._dials.give_back(target)

    async def _dial(self, address: str, peer: PeerId | None = None) -> Connection:
        with self._in_vain(address):
            wire = await dial(address, self._meter)
            connection = await secure(wire, self._noise, self._budget, peer)
        if connection.peer == self.me:
            await connection.close()
            raise Unreachable(f"{address} is this node itself")
        self._book.learn(connection.peer, [address.partition("/p2p/")[0]])
        if not self._connections.admit(connection):
            await connection.close()
            raise Unreachable(f"{address} has no room: all connections are in use")
        self._nursery.start_soon(self._run, connection)
        return connection

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run(self._serve, self._nursery, partial(self._admit, connection.peer))
        except PeerFault as error:
            self.on_fault(connection.peer, error)
        finally:
            self._connections.remove(connection)

    def _admit(self, peer: PeerId) -> bool:
        """Whether `peer` may open one more stream, which is then served."""
        everybody = self._served.total()
        most = FEW_SERVED if 2 * everybody >= MOST_SERVED else MOST_SERVED_PER_PEER
        if everybody >= MOST_SERVED or self._served[peer] >= most:
            return False
        if not self._streams.take(peer, trio.current_time()):
            return False
        self._served[peer] += 1
        return True

    async def _serve(self, stream: YamuxStream) -> None:
        try:
            await self._converse(stream)
        finally:
            self._served[stream.peer] -= 1
            if not self._served[stream.peer]:
                del self._served[stream.peer]

    async def _converse(self, stream: YamuxStream) -> None:
        try:
            with trio.fail_after(OPEN_SECONDS):
                name = await agree(lambda size: receive(stream, size), stream.send, self._handlers)
        except (LinkError, trio.TooSlowError):
            await stream.reset()
            return
        try:
            await self._handlers[name](stream)
        except* LinkError:
            await stream.reset()
        else:
            await stream.finish()


def _subnet(stream: trio.SocketStream) -> str | None:
    try:
        return subnet_of(stream.socket.getpeername()[0])
    except OSError:  # it has left already
        return None


def _log_fault(peer: PeerId, error: PeerFault) -> None:
    logger.warning("the connection with %s is cut: %s", peer, error)


async def _close_all(connections: Sequence[Connection]) -> None:
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.close)
