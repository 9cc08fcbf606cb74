"""Many streams over one connection: the library's yamux, with its sharp edges covered.

yamux (https://github.com/hashicorp/yamux/blob/master/spec.md) cuts each stream into frames. What is
replaced here is how frames get written, and how much may lie unread:

- Frames are queued, and one task writes them. Whoever sends waits for room in the queue, and a frame
  is queued whole or not at all, so a cancelled sender never leaves half a frame behind. The reading
  loop answers pings and new streams through the same queue without ever waiting; in the library it
  waits for the socket, and two sides that do so while both send large messages wait for ever.
- Queued frames are written together as far as they fit into one Noise message.
- A peer that ignores its windows is cut off. The library only warns, and keeps all it is sent.
- What arrived before the connection ended can still be read for a moment.
"""

from collections import deque

import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, Yamux, YamuxStream

from p2pnode.net.wire import Wire

NOISE_BYTES = 65_519
"""Plaintext of one Noise message: 65,535 less the 16 bytes of its authentication tag."""

SLICE_BYTES = NOISE_BYTES - HEADER_SIZE
"""Most payload of a frame that is written as one Noise message; a 64 KiB frame would take two."""

ROOM_BYTES = 256 * 1024
"""Queued before a sender waits: enough to keep the socket busy, little enough to abandon."""

MOST_QUEUED_FRAMES = 4096
"""Frames that no sender waits for are answers of 12 bytes; who provokes more reads none of them."""

UNREAD_BYTES = 64 * 1024 * 1024
"""Most that may lie unread on all streams of one connection: four windows grown to their full 16 MiB."""

LAST_READS_SECONDS = 1.0
"""For reading what arrived before the connection ended: our readers take what is there at once."""


class Muxer(Yamux):
    """One connection's streams. Run `start` and `write_frames` for as long as it lives."""

    def __init__(self, secured: ISecureConn, peer: ID, wire: Wire) -> None:
        super().__init__(secured, peer, is_initiator=wire.is_initiator)
        self._wire = wire
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._work = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        wire.before_end = self._last_reads

    async def _write_frame(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while len(data) > HEADER_SIZE and self._queued_bytes >= ROOM_BYTES and not self._wire.ended:
            await self._room.park()
        if len(self._frames) >= MOST_QUEUED_FRAMES:
            self._wire.abort()
        if self._wire.ended:
            raise ConnectionClosedError("connection closed")
        self._frames.append(data)
        self._queued_bytes += len(data)
        self._work.set()

    async def write_frames(self) -> None:
        """Write what is queued until the connection ends. Returns when it did."""
        try:
            while not self._wire.ended:
                await self._work.wait()
                batch = self._next_batch()
                await self.secured_conn.write(b"".join(batch) if len(batch) > 1 else batch[0])
                self._queued_bytes -= sum(map(len, batch))
                self._room.unpark_all()
        except ConnectionClosedError:
            return
        finally:
            self._wire.abort()
            self._room.unpark_all()

    def _next_batch(self) -> list[bytes]:
        batch = [self._frames.popleft()]
        size = len(batch[0])
        while self._frames and (size := size + len(self._frames[0])) <= NOISE_BYTES:
            batch.append(self._frames.popleft())
        if not self._frames:
            self._work = trio.Event()
        return batch

    async def flush(self) -> None:
        """Wait until everything queued is written, or the connection has ended."""
        while self._queued_bytes and not self._wire.ended:
            await self._room.park()

    async def read_some(self, stream: YamuxStream, most: int) -> bytes:
        """Read between 1 and `most` bytes; when cancelled, none are lost."""
        try:
            if stream.reset_received:  # by either side: the library would still give what arrived before
                raise MuxedStreamReset("reset")
            return await self.read_stream(stream.stream_id, most)
        finally:
            if stream.stream_id not in self.streams:  # over; the library may have put this back
                self.stream_events.pop(stream.stream_id, None)

    async def grant(self, stream: YamuxStream, read: int) -> None:
        """Let the sender send as much as was `read`. Never waits for the network, see `_write_frame`."""
        with trio.CancelScope(shield=True):
            await stream._auto_tune_and_send_window_update(bytes_read=read)  # noqa: SLF001

    async def reset_stream(self, stream: YamuxStream) -> None:
        """End both directions of `stream`, waking whoever reads it; the library leaves a reader asleep."""
        reader = self.stream_events.get(stream.stream_id)
        await stream.reset()
        if reader is not None:
            reader.set()

    async def _read_data_body(self, length: int) -> bytes:
        if self._unread_bytes() + length > UNREAD_BYTES:
            self._wire.abort()
            raise ConnectionClosedError("connection closed: more unread than windows allow")
        return await super()._read_data_body(length)

    def _unread_bytes(self) -> int:
        return sum(map(len, self.stream_buffers.values()))

    async def _last_reads(self) -> None:
        self._room.unpark_all()
        with trio.move_on_after(LAST_READS_SECONDS):
            while self._unread_bytes():  # noqa: ASYNC110  # the library has no event for it
                await trio.sleep(0.01)
