"""Both ends of one in-memory stream.

A stream is two pipes, one for each direction. A pipe keeps what was sent and not yet read, each
segment with its time of arrival; reading waits for that time. When `WINDOW_BYTES` are under way or
unread, the sender waits: a stalled reader costs a bounded amount of memory, as flow control sees to
in yamux and TCP. Room that a reader makes is known to the sender at once, so a window is never the
limit on an otherwise fast link with a long way.

An end that hangs up sends nothing more and reads nothing more. The other end still reads what was
sent before, then finds the end; its own sends fail once the news has travelled to it.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import trio

from p2pnode.errors import Disconnected
from p2pnode.net.memory_link import Line
from p2pnode.ports import Bytes, PeerId

WINDOW_BYTES = 1024 * 1024
SEGMENT_BYTES = 64 * 1024  # a large send shares the line, and is read, in pieces of this size


class Verdict(Enum):
    """What a tap does with one send."""

    DELIVER = "deliver"
    DROP = "drop"  # this, all that follows in this direction, and its end are lost; nobody is told
    RESET = "reset"  # the stream dies for both; the sender is told at once, the other by the line


class Pipe:
    """One direction of a stream: what was sent and not yet read."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.mute = False  # a tap dropped something: nothing gets through from here on
        self.end = math.inf  # arrival of the end, at the reader
        self.refusal = math.inf  # arrival, at the sender, of the news that nobody reads any more
        self._segments: deque[tuple[float, memoryview]] = deque()
        self._unread = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def room(self) -> int:
        return WINDOW_BYTES - self._unread

    def put(self, data: memoryview) -> None:
        if not self.mute:
            # A copy: the sender may change its buffer as soon as `send` returns.
            self._segments.append((self.line.depart(len(data)), memoryview(bytes(data))))
            self._unread += len(data)
            self.changed()

    def finish(self) -> float:
        """Send the end; returns its arrival."""
        arrival = math.inf if self.mute else self.line.depart(0)
        self.end = min(self.end, arrival)
        self.changed()
        return arrival

    def due(self) -> float:
        """When there is something to read, be it the end."""
        return self.line.due(self._segments[0][0] if self._segments else self.end)

    def take_into(self, view: memoryview) -> int:
        """Read from the first segment; returns how many bytes, 0 at the end."""
        if not self._segments:
            return 0
        arrival, data = self._segments.popleft()
        size = min(len(view), len(data))
        view[:size] = data[:size]
        if size < len(data):
            self._segments.appendleft((arrival, data[size:]))
        self._unread -= size
        self.changed()
        return size

    async def until(self, due: Callable[[], float]) -> None:
        """Wait for the moment that `due` names, asking again after every `changed`."""
        await self.line.until(due, self._waiting)

    def changed(self) -> None:
        """Let the reader and the writer ask again what they are waiting for."""
        if self._waiting:
            self._waiting.unpark_all()


@dataclass
class Meter:
    """Bytes that one network's streams sent and read since it started."""

    sent: int = 0
    received: int = 0


class MemoryStream:
    """One end of a stream; implements `ports.Stream`.

    A cancelled `send` hangs up. A cancelled `receive_into` that had begun to fill its view has lost
    those bytes, and the stream is fit for `reset` only.

    Args:
        incoming, outgoing: the two directions, shared with the other end, where they are swapped.
        meter: where this end's bytes are counted.
        judge: asked about every send.
        dialled: whether this end opened the stream.
    """

    def __init__(
        self,
        incoming: Pipe,
        outgoing: Pipe,
        meter: Meter,
        judge: Callable[[Bytes], Verdict],
        dialled: bool = False,
    ) -> None:
        self.dialled = dialled
        self._incoming = incoming
        self._outgoing = outgoing
        self._meter = meter
        self._judge = judge
        self._closed = False
        self._hung_up = False

    @property
    def peer(self) -> PeerId:
        return self._outgoing.line.target

    @property
    def over(self) -> bool:
        """Nothing more will be sent in either direction."""
        return self._hung_up or (self._closed and self._incoming.end < math.inf)

    async def send(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        self._submit(data)
        rest = memoryview(data).cast("B")
        try:
            while rest:
                await self._outgoing.until(self._sendable)
                self._check_open()
                size = min(len(rest), self._outgoing.room, SEGMENT_BYTES)
                self._outgoing.put(rest[:size])
                self._meter.sent += size
                rest = rest[size:]
        except trio.Cancelled:
            self.hang_up()  # or the next send would follow half a message
            raise

    def _sendable(self) -> float:
        return self._refused() if self._outgoing.room == 0 and not self._hung_up else -math.inf

    def _refused(self) -> float:
        return self._incoming.line.due(self._outgoing.refusal)

    def _check_open(self) -> None:
        if self._closed:
            raise Disconnected(f"this end of the stream with {self.peer} is closed")
        if self._refused() <= trio.current_time():
            raise Disconnected(f"{self.peer} ended the stream")

    def _submit(self, data: Bytes) -> None:
        verdict = self._judge(data)
        if verdict is Verdict.DROP:
            self._outgoing.mute = True
        elif verdict is Verdict.RESET:
            self.hang_up()
            raise Disconnected(f"the stream with {self.peer} was reset")

    async def receive_into(self, view: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while view:
            await self._incoming.until(self._receivable)
            size = 0 if self._hung_up else self._incoming.take_into(view)
            if not size:
                raise Disconnected(f"the stream with {self.peer} has ended")
            self._meter.received += size
            view = view[size:]

    def _receivable(self) -> float:
        return -math.inf if self._hung_up else self._incoming.due()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.finish()

    async def reset(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """End both directions, at once here and as soon as the line allows there."""
        if not self._hung_up:
            self._closed = self._hung_up = True
            self._incoming.refusal = self._outgoing.finish()
            self._incoming.changed()
