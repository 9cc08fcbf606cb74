"""The bytes of one TCP connection, for the library's handshake and for what comes after it.

- After a write that does not complete nothing more is written. Noise numbers its messages, so after half a
  message nothing that follows can be read. What the peer has sent can be.
- While hands are shaken, a read of n bytes returns n bytes, and nothing is read ahead. The library's own
  gives up on a message that arrives in more than a hundred pieces, even when it is complete by then.
- Every byte is counted where it crosses the socket, encryption and framing included.
"""

import socket
from dataclasses import dataclass, field

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from multiaddr import Multiaddr

from p2pnode.errors import Disconnected
from p2pnode.net.pace import Pace
from p2pnode.ports import Bytes

LARGEST_READ = 64 * 1024
"""A handshake's message has a length of two bytes: nothing that is read here may claim to be larger."""


@dataclass
class Meter:
    """Bytes that crossed the sockets of one node, and how fast they may leave."""

    sent: int = 0
    received: int = 0
    pace: Pace = field(default_factory=Pace)


class Wire(IRawConnection):
    """One TCP connection. The library reads and writes it during the handshake, `noise.Channel` afterwards.

    Attributes:
        is_initiator: whether this side dialled.
        received: bytes that came from the other side so far: a sign of life.
        ended: nothing more will come, or go.
    """

    def __init__(self, socket: trio.SocketStream, initiator: bool, meter: Meter) -> None:
        self.is_initiator = initiator
        self.received = 0
        self.ended = False
        self._socket = socket
        self._meter = meter

    async def read(self, n: int | None = None) -> bytes:
        """Read exactly `n` bytes.

        Raises:
            Disconnected: the connection ended before.
        """
        if n is None or n > LARGEST_READ:
            raise Disconnected(f"no message here has {n} bytes")
        data = bytearray(n)
        rest = memoryview(data)
        while rest:
            if not (size := await self.receive_into(rest)):
                raise Disconnected("the connection has ended")
            rest = rest[size:]
        return bytes(data)

    async def receive_into(self, view: memoryview) -> int:
        """Wait for some bytes; 0 when no more come."""
        try:
            size = 0 if self.ended else await self._socket.socket.recv_into(view)
        except (OSError, trio.ClosedResourceError):
            size = 0
        self.ended = self.ended or not size
        self.received += size
        self._meter.received += size
        return size

    async def write(self, data: Bytes) -> None:
        """Write all of `data`. Cancelled, it ends the connection.

        Raises:
            Disconnected: the peer takes no more.
        """
        view, piece = memoryview(data), self._meter.pace.piece
        try:
            for start in range(0, len(view), piece):
                part = view[start : start + piece]
                if seconds := self._meter.pace.wait(len(part)):
                    await trio.sleep(seconds)
                await self._socket.send_all(part)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Disconnected("the connection has ended") from error
        except BaseException:  # cancelled: nobody knows how much was sent
            self.abort()
            raise
        self._meter.sent += len(data)

    def detach(self) -> socket.socket:
        """Give the connection away, from the first byte that nobody has read."""
        self.ended = True
        return socket.socket(fileno=self._socket.socket.detach())

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
