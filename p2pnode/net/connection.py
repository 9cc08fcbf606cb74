"""One authenticated connection with one peer.

Only `/noise` is ever proposed or accepted for security, and only `/yamux/1.0.0` above it, so a
connection that exists is encrypted and its peer is who its key says: in Noise's XX handshake each
side signs its session key with the key that its peer id contains
(https://github.com/libp2p/specs/blob/master/noise/README.md).

In place of `/noise` a peer may ask for a direct connection that is waited for, which brings its own keys:
see `meeting`.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import trio
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as Noise

from p2pnode.errors import LinkError, Unreachable
from p2pnode.identity.keys import public_of
from p2pnode.net.addresses import parse_address
from p2pnode.net.budget import Budget
from p2pnode.net.multistream import agree, propose, receive
from p2pnode.net.noise import Channel, Opener, Sealer
from p2pnode.net.wire import Meter, Wire
from p2pnode.net.yamux import PROTOCOL as YAMUX
from p2pnode.net.yamux import Yamux, YamuxStream
from p2pnode.ports import PeerId

logger = logging.getLogger(__name__)

NOISE: str = PROTOCOL_ID

FAREWELL_SECONDS = 1.0
"""For what was sent to leave, when a connection is closed on purpose."""

ADDRESS_SECONDS = 0.5
"""For one address of a peer that is connected: the first in the book answered before, and answers soon."""

T = TypeVar("T")

Serve = Callable[[YamuxStream], Awaitable[None]]
"""Serves one incoming stream on which no protocol is agreed yet."""


def noise_of(seed: bytes) -> Noise:
    """The security of the node with this 32-byte Ed25519 seed: the only one it offers."""
    return Noise(ed25519_key_pair(seed), x25519_key_pair().private_key)


async def dial(address: str, meter: Meter) -> Wire:
    """Reach a multiaddr. Raises `Unreachable`."""
    place = parse_address(address)
    try:
        return Wire(await trio.open_tcp_stream(place.host, place.port), initiator=True, meter=meter)
    except (OSError, UnicodeError) as error:  # a name that cannot be looked up is the latter
        raise Unreachable(f"{address} does not answer: {error}") from error


async def dial_direct(
    addresses: Sequence[str], name: str, meter: Meter, in_vain: Callable[[str], AbstractContextManager[None]]
) -> socket.socket:
    """Reach a peer at the first of its addresses where the protocol `name` is spoken.

    Each is dialled within `in_vain`.

    Raises:
        Unreachable: there is none.
    """
    for address in addresses:
        with trio.move_on_after(ADDRESS_SECONDS):
            try:
                with in_vain(address):
                    wire = await dial(address, meter)
                    await _ended_on_error(wire, propose(wire.read, wire.write, name))
                return wire.detach()
            except LinkError as error:
                logger.debug("%s", error)
    raise Unreachable(f"{name} is spoken at none of {len(addresses)} addresses")


async def admit(wire: Wire, names: Collection[str]) -> str:
    """Let whoever dialled ask for one of `names`; ends the connection when that fails or is cancelled.

    Raises:
        Disconnected: it wants none of them.
    """
    return await _ended_on_error(wire, agree(wire.read, wire.write, names))


async def _ended_on_error(wire: Wire, conversation: Awaitable[T]) -> T:
    try:
        return await conversation
    except BaseException:
        wire.abort()
        raise


async def secure(wire: Wire, noise: Noise, budget: Budget, expected: PeerId | None = None) -> "Connection":
    """Shake hands over a new TCP connection; ends it when that fails or is cancelled.

    Whoever was dialled has agreed on `NOISE` before, with `admit`.

    Raises:
        Unreachable: the other side offers no Noise and yamux, or is not `expected`.
    """
    try:
        channel, peer = await _shake_hands(wire, noise)
        if expected not in (None, peer):
            raise Unreachable(f"{peer} answers there, not {expected}")
        if wire.is_initiator:
            await propose(channel.read, channel.send, YAMUX)
        else:
            await agree(channel.read, channel.send, [YAMUX])
    except Unreachable:
        wire.abort()
        raise
    except Exception as error:  # whatever a stranger's bytes make the library raise
        wire.abort()
        raise Unreachable(f"no Noise handshake there: {error!r}") from error
    except BaseException:
        wire.abort()
        raise
    return Connection(wire, channel, peer, budget)


async def _shake_hands(wire: Wire, noise: Noise) -> tuple[Channel, PeerId]:
    """The library's handshake; what comes after it is ours."""
    if wire.is_initiator:
        await propose(wire.read, wire.write, NOISE)
        secured = await noise.get_pattern().handshake_outbound(wire, None)
    else:
        secured = await noise.secure_inbound(wire)
    peer = PeerId(str(secured.get_remote_peer()))
    public_of(peer)  # other kinds of key are a ValueError: no node of ours has one
    # tests/net/test_libp2p_security.py holds the library to this.
    keys = secured.conn.noise_state.noise_protocol  # type: ignore[attr-defined]
    sending, receiving = keys.cipher_state_encrypt, keys.cipher_state_decrypt
    return Channel(wire, Sealer(sending.k, sending.n), Opener(receiving.k, receiving.n)), peer


class Connection:
    """An authenticated connection; carries streams while `run` runs.

    Attributes:
        leaving: it was chosen to be closed, and counts and is used no more.
        doubted: what `received` was when somebody last waited on it in vain.
        subnet: that the peer dialled from, where those are counted; None if this side dialled.
    """

    def __init__(self, wire: Wire, channel: Channel, peer: PeerId, budget: Budget) -> None:
        self.peer = peer
        self.leaving = False
        self.doubted = -1
        self.subnet: str | None = None
        self._wire = wire
        self._muxer = Yamux(channel, peer, wire.is_initiator, budget)

    @property
    def alive(self) -> bool:
        """False as soon as its end is known here; a peer that fell silent still counts."""
        return not (self.leaving or self._wire.ended or self._muxer.leaving)

    @property
    def idle(self) -> bool:
        """Whether no stream is open on it."""
        return not self._muxer.streams

    @property
    def received(self) -> int:
        """Bytes that came from the peer so far: a sign of life."""
        return self._wire.received

    async def run(self, serve: Serve, nursery: trio.Nursery, admits: Callable[[], bool]) -> None:
        """Carry streams until the connection ends; each incoming one that `admits` is served in `nursery`.

        Raises:
            PeerFault: the peer broke the rules.
        """
        self._muxer.admits = admits
        try:
            await self._muxer.run(lambda stream: nursery.start_soon(serve, stream))
        finally:
            self._wire.abort()

    async def open_stream(self, protocol: str) -> YamuxStream:
        """Open a stream and agree on `protocol`.

        Raises:
            Unreachable: the peer does not speak it, or too many streams are open.
            Disconnected: the connection is gone.
        """
        stream = self._muxer.open()
        try:
            await propose(lambda size: receive(stream, size), stream.send, protocol)
        except BaseException:
            await stream.reset()
            raise
        return stream

    async def close(self) -> None:
        """End the connection once what was sent has left, or soon after. Never raises."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(FAREWELL_SECONDS):
                await self._muxer.leave()
            await self._wire.close()
