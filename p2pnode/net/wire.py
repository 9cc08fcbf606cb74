"""The bytes of one TCP connection, as libp2p's Noise wants to read and write them.

Three things are better here than in the library's own TCP stream, and everything above relies on
them:

- A write that does not complete ends the connection. Noise numbers its messages, so after half a
  message nothing that follows can be read; the library would go on.
- A read of n bytes returns n bytes. The library gives up on a message that arrives in more than a
  hundred pieces, even when it is complete by then.
- Every byte is counted where it crosses the socket, encryption and framing included.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from multiaddr import Multiaddr

RECEIVE_BYTES = 256 * 1024
"""Taken from the socket at once: four full Noise messages, so that a transfer costs few system calls."""

LARGEST_READ = 64 * 1024
"""A Noise message has a length of two bytes: nothing that is read here may claim to be larger."""


@dataclass
class Meter:
    """Bytes that crossed the sockets of one node."""

    sent: int = 0
    received: int = 0


class Wire(IRawConnection):
    """One TCP connection. Its errors are libp2p's: only the library's own code reads and writes it.

    Attributes:
        is_initiator: whether this side dialled.
        received: bytes that came from the other side so far: a sign of life.
        ended: nothing more will come, or go.
        before_end: waited for between the last byte and the error that says so.
    """

    def __init__(self, socket: trio.SocketStream, initiator: bool, meter: Meter) -> None:
        self.is_initiator = initiator
        self.received = 0
        self.ended = False
        self.before_end: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._socket = socket
        self._meter = meter
        self._unread = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """Read exactly `n` bytes.

        Raises:
            ConnectionClosedError: the connection ended before.
        """
        if n is None or n > LARGEST_READ:
            raise ConnectionClosedError(f"no message here has {n} bytes")
        while len(self._unread) < n:
            self._unread += await self._receive()
        with memoryview(self._unread) as view:
            data = bytes(view[:n])
        del self._unread[:n]
        return data

    async def _receive(self) -> bytes:
        try:
            data = b"" if self.ended else await self._socket.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self.ended = True
            await self.before_end()
            raise ConnectionClosedError("connection closed")
        self.received += len(data)
        self._meter.received += len(data)
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """Write all of `data`, or end the connection.

        Raises:
            ConnectionClosedError: the connection ended before.
        """
        try:
            await self._socket.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.abort()
            raise ConnectionClosedError("connection closed") from error
        except BaseException:  # cancelled: nobody knows how much was sent
            self.abort()
            raise
        self._meter.sent += len(data)

    def abort(self) -> None:
        """End both directions at once."""
        self.ended = True
        self._socket.socket.close()

    async def close(self) -> None:
        """End both directions, letting what was written arrive."""
        self.ended = True
        await self._socket.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None  # the library only logs it

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT
