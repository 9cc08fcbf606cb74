"""One authenticated connection with one peer.

Only `/noise` is ever proposed or accepted for security, and only `/yamux/1.0.0` above it, so a
connection that exists is encrypted and its peer is who its key says: in Noise's XX handshake each
side signs its session key with the key that its peer id contains
(https://github.com/libp2p/specs/blob/master/noise/README.md).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import cast

import trio
from libp2p.abc import ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2pnode.errors import Disconnected, LinkError, Unreachable
from p2pnode.identity.keys import public_of
from p2pnode.net.multistream import Read, Write, agree, propose
from p2pnode.net.muxer import Muxer
from p2pnode.net.stream import Libp2pStream, receive
from p2pnode.net.wire import Wire
from p2pnode.ports import PeerId

logger = logging.getLogger(__name__)

MOST_INBOUND_STREAMS = 64
"""Open at once on one connection: an exchange, hellos and lookups need a handful."""

FAREWELL_SECONDS = 1.0
"""For what was sent to leave, when a connection is closed on purpose."""

Serve = Callable[[Libp2pStream], Awaitable[None]]
"""Serves one incoming stream on which no protocol is agreed yet."""


def noise_of(seed: bytes) -> Noise:
    """The security of the node with this 32-byte Ed25519 seed: the only one it offers."""
    return Noise(ed25519_key_pair(seed), x25519_key_pair().private_key)


async def secure(wire: Wire, noise: Noise, expected: PeerId | None = None) -> "Connection":
    """Shake hands over a new TCP connection; ends it when that fails or is cancelled.

    Raises:
        Unreachable: the other side offers no Noise and yamux, or is not `expected`.
    """
    try:
        secured = await _shake_hands(wire, noise, expected)
        choose = propose if wire.is_initiator else _agree_on
        await choose(secured.read, secured.write, YAMUX)
    except LinkError:
        wire.abort()
        raise
    except Exception as error:  # whatever a stranger's bytes make the library raise
        wire.abort()
        raise Unreachable(f"no Noise handshake there: {error!r}") from error
    except BaseException:
        wire.abort()
        raise
    return Connection(wire, secured)


async def _shake_hands(wire: Wire, noise: Noise, expected: PeerId | None) -> ISecureConn:
    if wire.is_initiator:
        await propose(wire.read, wire.write, NOISE)
        secured = await noise.get_pattern().handshake_outbound(wire, None)
    else:
        await agree(wire.read, wire.write, [NOISE])
        secured = await noise.secure_inbound(wire)
    actual = PeerId(str(secured.get_remote_peer()))
    public_of(actual)  # other kinds of key are a ValueError: no node of ours has one
    if expected not in (None, actual):
        raise Unreachable(f"{actual} answers there, not {expected}")
    return secured


async def _agree_on(read: Read, write: Write, name: str) -> None:
    await agree(read, write, [name])


class Connection:
    """An authenticated connection; carries streams while `run` runs."""

    def __init__(self, wire: Wire, secured: ISecureConn) -> None:
        remote = secured.get_remote_peer()
        self.peer = PeerId(str(remote))
        self._wire = wire
        self._muxer = Muxer(secured, ID(remote.to_bytes()), wire)
        self._inbound = 0

    @property
    def alive(self) -> bool:
        """False as soon as its end is known here; a peer that fell silent still counts."""
        return not self._wire.ended

    @property
    def idle(self) -> bool:
        """Whether no stream is open on it."""
        return not self._muxer.streams

    @property
    def received(self) -> int:
        """Bytes that came from the peer so far: a sign of life."""
        return self._wire.received

    async def run(self, serve: Serve, nursery: trio.Nursery) -> None:
        """Carry streams until the connection ends; each incoming one is served in `nursery`."""
        try:
            async with trio.open_nursery() as own:
                own.start_soon(self._read_frames)
                own.start_soon(self._muxer.write_frames)
                await self._accept(serve, nursery)
                own.cancel_scope.cancel()
        finally:
            self._wire.abort()

    async def _read_frames(self) -> None:
        try:
            await self._muxer.start()
        except Exception:  # the library's loop read a stranger's bytes: not our bug
            logger.warning("the connection with %s failed", self.peer, exc_info=True)
        finally:
            self._wire.abort()
            self._muxer.new_stream_send_channel.close()

    async def _accept(self, serve: Serve, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await self._muxer.accept_stream()
            except MuxedConnUnavailable:
                return
            if self._inbound < MOST_INBOUND_STREAMS:
                self._inbound += 1
                nursery.start_soon(
                    self._serve, serve, Libp2pStream(self.peer, self._muxer, cast(YamuxStream, stream))
                )
            else:
                await stream.reset()

    async def _serve(self, serve: Serve, stream: Libp2pStream) -> None:
        try:
            await serve(stream)
        finally:
            self._inbound -= 1

    async def open_stream(self, protocol: str) -> Libp2pStream:
        """Open a stream and agree on `protocol`.

        Raises:
            Unreachable: the peer does not speak it.
            Disconnected: the connection is gone.
        """
        try:
            stream = Libp2pStream(self.peer, self._muxer, await self._muxer.open_stream())
        except (IOException, MuxedStreamError) as error:
            raise Disconnected(f"the connection with {self.peer} has ended") from error
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
                await self._muxer.flush()
            await self._wire.close()
