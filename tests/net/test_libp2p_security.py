"""Only Noise is spoken, a peer is who its key says, and strangers' bytes hurt nobody."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import libp2p.security.secio.transport as secio
import pytest
import trio
from libp2p import new_host
from libp2p.abc import ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2pnode.errors import Disconnected, Unreachable
from p2pnode.net.budget import Budget
from p2pnode.net.connection import noise_of, secure
from p2pnode.net.identify import IDENTIFY, PING
from p2pnode.net.multistream import receive
from p2pnode.net.wire import Meter, Wire
from p2pnode.net.yamux import MOST_STREAMS
from p2pnode.ports import PeerAddress, Stream

from .contract import MIB, PROTOCOL, echo, parked_handler
from .libp2p_peers import dial_raw, full_address, key, peer, two_peers

Unsafe = Callable[[KeyPair], dict[TProtocol, ISecureTransport]]


def plaintext(pair: KeyPair) -> dict[TProtocol, ISecureTransport]:
    return {PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)}


def secured_by_secio(pair: KeyPair) -> dict[TProtocol, ISecureTransport]:
    return {secio.ID: secio.Transport(pair)}


UNSAFE = pytest.mark.parametrize("unsafe", [plaintext, secured_by_secio], ids=["plaintext", "secio"])


def upgrader(unsafe: Unsafe, number: int) -> TransportUpgrader:
    return TransportUpgrader(unsafe(create_new_key_pair(key(number).seed)), {}, 5)


@UNSAFE
async def test_a_dialer_that_offers_less_than_noise_is_refused(unsafe: Unsafe) -> None:
    async with peer(1) as network:
        raw = RawConnection(TrioTCPStream(await dial_raw(network)), True)
        with trio.fail_after(10), pytest.raises(SecurityUpgradeFailure):
            await upgrader(unsafe, 2).upgrade_security(raw, True, ID.from_string(network.me))
        await raw.close()
        assert network.connected == ()


@UNSAFE
async def test_a_listener_that_offers_less_than_noise_is_unreachable(unsafe: Unsafe) -> None:
    async def listen(stream: trio.SocketStream) -> None:
        with pytest.raises(SecurityUpgradeFailure):
            await upgrader(unsafe, 2).upgrade_security(RawConnection(TrioTCPStream(stream), False), False)

    async with peer(1) as network, serving(listen) as address:
        for ending in ("", f"/p2p/{key(2).peer}"):
            with trio.fail_after(10), pytest.raises(Unreachable):
                await network.connect(address + ending)
        assert network.connected == ()


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Accept TCP connections at the address."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_peer_with_another_key_than_its_id_is_refused() -> None:
    async with peer(1) as near, peer(2) as impostor:
        with pytest.raises(Unreachable, match=impostor.me):
            await near.connect(f"{impostor.addresses[0]}/p2p/{key(3).peer}")
        near.learn(PeerAddress(key(3).peer, impostor.addresses))
        with pytest.raises(Unreachable):
            await near.open(key(3).peer, PING)
        assert near.connected == ()


async def test_a_peer_with_another_kind_of_key_is_refused() -> None:
    pair = create_secp256k1_pair()
    other = Noise(pair, create_x25519_pair().private_key)
    async with peer(1) as network:
        wire = Wire(await dial_raw(network), initiator=True, meter=Meter())
        with trio.fail_after(10), pytest.raises(Unreachable):
            await secure(wire, other, Budget(MIB), network.me)
        assert network.connected == ()


@pytest.mark.parametrize("seed", range(8))
async def test_a_stranger_that_sends_noise_of_another_kind_leaves_the_network_as_it_was(seed: int) -> None:
    random = Random(seed)
    polite = b"\x13/multistream/1.0.0\n\x07/noise\n"
    async with two_peers() as (near, far):
        far.serve(PROTOCOL, echo)
        stream = await dial_raw(far)
        try:
            await stream.send_all(
                polite[: random.choice([0, 20, 28])] + random.randbytes(random.choice([1, 40, 5000]))
            )
            await stream.send_eof()
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            assert near.connected == (far.me,)
        await stream.aclose()
        assert far.connected == (near.me,)


async def test_the_library_hands_over_the_keys_of_its_handshake() -> None:
    """The one place where our data phase takes over: another version of the library must still do so."""
    ends: list[ISecureConn] = []
    near, far = (trio.SocketStream(socket) for socket in trio.socket.socketpair())
    dialled, accepted = Wire(near, initiator=True, meter=Meter()), Wire(far, initiator=False, meter=Meter())

    async def dial() -> None:
        ends.append(await noise_of(key(1).seed).get_pattern().handshake_outbound(dialled, None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        ends.append(await noise_of(key(2).seed).secure_inbound(accepted))
    await dialled.close()
    await accepted.close()
    one, other = (end.conn.noise_state.noise_protocol for end in ends)  # type: ignore[attr-defined]
    for sending, receiving in (
        (one.cipher_state_encrypt, other.cipher_state_decrypt),
        (other.cipher_state_encrypt, one.cipher_state_decrypt),
    ):
        assert sending.k == receiving.k
        assert (len(sending.k), sending.n, receiving.n) == (32, 0, 0)


async def test_a_peer_that_ignores_its_window_is_cut_off() -> None:
    async with two_peers() as (near, far):
        accept, accepted = parked_handler()
        far.serve(PROTOCOL, accept)
        stream = await near.open(far.me, PROTOCOL)
        stream._sendable = 1 << 40
        with trio.fail_after(10), pytest.raises(Disconnected):
            await stream.send(bytes(64 * MIB))
        assert (await accepted.receive()).peer == near.me


async def test_more_streams_than_anybody_needs_are_refused() -> None:
    async def hold(stream: Stream) -> None:
        await trio.sleep_forever()

    async with two_peers() as (near, far):
        far.serve(PROTOCOL, hold)
        held = [await near.open(far.me, PROTOCOL) for _ in range(MOST_STREAMS)]
        with pytest.raises(Unreachable):
            await near.open(far.me, PROTOCOL)
        assert len(held) == MOST_STREAMS


async def test_identify_tells_the_key_and_ping_echoes() -> None:
    async with two_peers() as (near, far):
        stream = await near.open(far.me, IDENTIFY)
        [size] = await receive(stream, 1)  # a varint; this message is short
        message = Identify.FromString(await receive(stream, size))
        assert message.public_key.endswith(key(2).public)
        assert {IDENTIFY, PING} <= set(message.protocols)

        stream = await near.open(far.me, PING)
        for number in range(3):
            await stream.send(bytes([number]) * 32)
            assert await receive(stream, 32) == bytes([number]) * 32


async def test_the_librarys_own_host_reaches_a_network() -> None:
    pair = create_new_key_pair(key(2).seed)
    host = new_host(key_pair=pair, sec_opt={NOISE: noise_of(key(2).seed)})
    async with peer(1) as network, host.run(listen_addrs=[]):
        info = info_from_p2p_addr(Multiaddr(full_address(network)))
        await host.connect(info)
        assert network.connected == (key(2).peer,)
        assert len(await PingService(host).ping(info.peer_id, 2)) == 2
        await host.close()
