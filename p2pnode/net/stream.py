"""One stream between two peers: `ports.Stream` over yamux."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio
from libp2p.io.exceptions import IOException
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2pnode.errors import Disconnected
from p2pnode.net.muxer import SLICE_BYTES, Muxer
from p2pnode.ports import Bytes, PeerId, Stream

LINGER_SECONDS = 10.0
"""How long a peer may go on after its handler is done, before the stream is dropped."""

MOST_READ = 256 * 1024
"""Taken from the library's buffer at once: a window of 16 MiB, copied whole, would hold up the loop."""

CREDIT_BYTES = 64 * 1024
"""Read before the sender is told: a quarter of the first window. A short conversation so takes no credit
at all, where the library sends 30 bytes of it for each few that are read."""

_ENDED = (IOException, MuxedConnError, MuxedStreamError)
"""What the library raises when a stream or its connection is over."""

_SHORTEST_POLL, _LONGEST_POLL = 0.0002, 0.01  # seconds between looks at a full window


class Libp2pStream:
    """One stream; implements `ports.Stream`."""

    def __init__(self, peer: PeerId, muxer: Muxer, stream: YamuxStream) -> None:
        self._peer = peer
        self._muxer = muxer
        self._stream = stream
        self._read = 0  # bytes that the sender has not been given new credit for

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: Bytes) -> None:
        rest = _as_bytes(data)
        try:
            with _disconnects(self._peer):
                await trio.lowlevel.checkpoint()
                while rest:
                    size = min(len(rest), SLICE_BYTES, await self._window())
                    await self._stream.write(rest[:size])  # type: ignore[arg-type]  # only sliced and copied
                    rest = rest[size:]
        except trio.Cancelled:
            await self.reset()  # or the next send would follow half a message
            raise

    async def _window(self) -> int:
        """Wait until the reader has room for something; returns for how many bytes.

        The library would wait as well, but ends a stream whose reader is busy for five seconds.
        """
        pause = _SHORTEST_POLL
        while not self._stream.send_window and not self._stream.closed:
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)
        return self._stream.send_window or 1  # closed: let `write` find out and say so

    async def receive_into(self, view: memoryview) -> None:
        rest = _as_bytes(view)
        with _disconnects(self._peer):
            await trio.lowlevel.checkpoint()
            while rest:
                data = await self._read_some(min(len(rest), MOST_READ))
                rest[: len(data)] = data
                rest = rest[len(data) :]

    async def _read_some(self, most: int) -> bytes:
        data = await self._muxer.read_some(self._stream, most)
        self._read += len(data)
        if self._read >= CREDIT_BYTES:
            read, self._read = self._read, 0
            await self._muxer.grant(self._stream, read)
        return data

    async def close(self) -> None:
        with trio.CancelScope(shield=True), suppress(*_ENDED):
            await self._stream.close()

    async def reset(self) -> None:
        with trio.CancelScope(shield=True), suppress(*_ENDED):
            await self._muxer.reset_stream(self._stream)

    async def finish(self) -> None:
        """Close, then wait for the peer to close too; drop the stream when it does not.

        Dropping it at once would discard what we sent last, should the peer not have read it yet.
        """
        await self.close()
        with trio.move_on_after(LINGER_SECONDS), suppress(*_ENDED):
            while True:
                await self._read_some(SLICE_BYTES)
        await self.reset()


async def receive(stream: Stream, size: int) -> bytes:
    """Read exactly `size` bytes."""
    data = bytearray(size)
    await stream.receive_into(memoryview(data))
    return bytes(data)


def _as_bytes(data: Bytes) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # an empty view cannot be cast


@contextmanager
def _disconnects(peer: PeerId) -> Iterator[None]:
    try:
        yield
    except _ENDED as error:
        raise Disconnected(f"the stream with {peer} has ended: {error}") from error
