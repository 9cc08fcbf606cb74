"""yamux: many streams over one connection.

Each stream is cut into *frames*; a frame has a header of 12 bytes: version 0, kind, flags, the stream's
number, and a length (big-endian, 1 + 1 + 2 + 4 + 4 bytes). There are four kinds: data; *credit* (a window
update), by which a receiver allows so many more bytes; ping; and go-away. Flags on data or credit open a
stream (SYN), accept it (ACK), end one direction (FIN) or both at once (RST). Whoever dialled opens
streams with odd numbers, the other side with even ones. Every stream begins with credit for 256 KiB each
way. Source: https://github.com/hashicorp/yamux/blob/master/spec.md; libp2p's limit of 256 streams that
nobody has accepted yet: https://github.com/libp2p/specs/blob/master/yamux/README.md.

**Writing.** Whoever sends waits until its stream has credit and the connection has room, in the order of
asking, puts in one frame, and waits again: so streams take turns. A frame is encrypted as it is put in,
and one task writes what is there. Hence a sender that is cancelled never leaves half a frame. Credit,
answers and small frames are gathered and go out as one Noise message.

**Reading.** One task reads frames, and puts what arrives into the buffer of whoever waits for it;
decrypting does that without a copy. Only what nobody waits for is kept, and that is what credit bounds.

**Credit is memory.** A sender may always send what fits the first window. More is granted only to fill a
buffer that a reader has handed in, up to `MOST_CREDIT` at a time: such bytes take no memory of ours.
Should that reader leave in the middle they do, so what is granted beyond first windows counts against a
budget of the connection and of the node, as does what lies unread. A reader that stalls for an hour costs
its window, and nothing else happens; but one that has closed its own side and leaves something unread for
`KEEP_ALIVE_SECONDS` is taken to have left, or else a peer's unwanted last words would be kept for as long as
the connection. Who sends beyond its credit, or breaks any other rule, loses the connection.
"""

import struct
from collections.abc import Callable

import trio

from p2pnode.bucket import Bucket
from p2pnode.errors import Disconnected, Fault, PeerFault, Unreachable
from p2pnode.net.budget import Budget
from p2pnode.net.limits import REFUSALS
from p2pnode.net.noise import Channel
from p2pnode.ports import Bytes, PeerId

PROTOCOL = "/yamux/1.0.0"

HEADER = struct.Struct(">BBHII")
DATA, CREDIT, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

WINDOW = 256 * 1024
"""Bytes that may be sent on a new stream."""

MOST_CREDIT = 16 * 1024 * 1024
"""Granted at a time to fill a reader's buffer: enough for a gigabit a second over an eighth of a second."""

FRAME = 4 * 65_519
"""Bytes of data in a frame at most: four full Noise messages. Others wait for so much before their turn."""

SMALL = 4096
"""Data up to so many bytes is copied, to share a Noise message with other frames."""

ROOM = 64 * 1024
"""Bytes queued for writing from which on senders wait."""

MOST_GATHERED = 128 * 1024
"""Bytes of small frames that wait for the writer. Answers do not wait for room: a peer that makes us answer
more than that, and reads nothing of it, is cut off."""

MOST_STREAMS = 256
"""Open at once in either direction on one connection, and so at most unaccepted, as libp2p has it."""

MOST_UNREAD = 64 * 1024 * 1024
"""Bytes on one connection that lie unread or are granted beyond first windows."""

MOST_UNREAD_IN_ALL = 512 * 1024 * 1024
"""The same on all connections of a node."""

TURN = 64
"""Frames read before all else that this node does has its turn: 20,000 small ones may be received at once."""

KEEP_ALIVE_SECONDS = 30.0
"""Without a byte from the peer until it is asked for one, and again until it counts as gone. Who has said
nothing for so long asks too: what it hears may be so large and slow that an answer to it comes too late."""

LAST_READS_SECONDS = 1.0
"""For what the peer has sent, once nothing more can be written to it."""

LINGER_SECONDS = 10.0
"""How long a peer may go on after its handler is done, before the stream is dropped."""


class YamuxStream:
    """One stream; implements `ports.Stream`. Made by `Yamux`."""

    def __init__(self, session: "Yamux", number: int) -> None:
        self._session = session
        self._number = number
        self._sendable = WINDOW
        self._credited = trio.lowlevel.ParkingLot()
        self._receivable = WINDOW  # what the peer may still send
        self._spent = 0  # of the budget
        self._unread = bytearray()
        self._view: memoryview | None = None  # of a waiting reader, what is not filled yet
        self._discards = False
        self._changed = trio.lowlevel.ParkingLot()  # the reader, until its view is full or nothing more comes
        self._sent_all = False
        self._received_all = False
        self._over = False  # reset by either side, or the connection ended
        self._left = False  # closed here and not read to its end, when that was noticed last

    @property
    def peer(self) -> PeerId:
        return self._session.peer

    @property
    def dialled(self) -> bool:
        """Whether this side dialled its connection."""
        return self._session.dialled

    @property
    def number(self) -> int:
        """Its number on the connection."""
        return self._number

    # --- sending ---

    async def send(self, data: Bytes) -> None:
        rest = _as_bytes(data)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while True:
                if self._over or self._sent_all:
                    self._session.next_sender()
                    raise Disconnected(f"the stream with {self.peer} has ended")
                if not rest:
                    break
                if not self._sendable:
                    self._session.next_sender()
                    await self._credited.park()
                elif self._session.full:
                    await self._session.room.park()
                else:
                    size = min(len(rest), self._sendable, FRAME)
                    self._sendable -= size
                    self._session.put(DATA, 0, self._number, size, rest[:size])
                    rest = rest[size:]
                    self._session.next_sender()
            await trio.lowlevel.cancel_shielded_checkpoint()
        except trio.Cancelled:
            await self.reset()  # or the next send would follow half a message
            raise

    async def close(self) -> None:
        if not (self._sent_all or self._over):
            self._sent_all = True
            self._session.say(CREDIT, FIN, self._number)
            self._credited.unpark_all()
            self._forget_if_done()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        if not self._over:
            if not (self._sent_all and self._received_all):
                self._session.say(CREDIT, RST, self._number)
            self.end()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def finish(self) -> None:
        """Close, then wait for the peer to close too; drop the stream when it does not.

        Dropping it at once would discard what we sent last, should the peer not have read it yet.
        """
        await self.close()
        self._discards = True
        self._drop_unread()
        with trio.move_on_after(LINGER_SECONDS):
            while not (self._received_all or self._over):
                self._grant()
                await self._changed.park()
        await self.reset()

    # --- receiving ---

    async def receive_into(self, view: memoryview) -> None:
        rest = _as_bytes(view)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._left = False
        there = min(len(rest), len(self._unread))
        if there and not self._over:
            rest[:there] = self._unread[:there]
            del self._unread[:there]
            rest = rest[there:]
            self._account()
        assert self._view is None  # one task receives at a time
        self._view = rest
        try:
            while self._view:
                if self._over or self._received_all:
                    raise Disconnected(f"the stream with {self.peer} has ended")
                self._grant()
                await self._changed.park()
        finally:
            self._view = None
        self._grant()
        self._forget_if_done()
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def unread(self) -> int:
        """Bytes that have arrived and that nobody has read."""
        return len(self._unread)

    def accept_data(self, channel: Channel, most: int) -> int:
        """Take what is there, at most so many bytes, to where it belongs; returns how many."""
        if self._view:
            size = channel.take_into(self._view[:most])
            self._view = self._view[size:]
        else:
            data = channel.take(most)
            size = len(data)
            if not (self._discards or self._over):
                self._unread += data
        self._receivable -= size
        self._account()
        if self._view is not None and not self._view:
            self._changed.unpark_all()
        elif self._view or self._discards:
            self._grant()
        return size

    def allows(self, size: int) -> bool:
        """Whether the peer may send so much: within its credit, and nothing once it has closed."""
        return size <= (0 if self._received_all else self._receivable)

    def credit(self, size: int) -> None:
        """The peer allows so much more.

        Raises:
            PeerFault: `OVERSIZED`: more than a window can be.
        """
        if self._sendable + size >= 2**32:
            raise PeerFault(Fault.OVERSIZED, f"credit for {size} bytes more")
        self._sendable += size
        self._credited.unpark_all()

    def flagged(self, flags: int) -> None:
        """What a frame's flags say."""
        if flags & RST:
            self.end()
        elif flags & FIN and not self._received_all:
            self._received_all = True
            self._account()
            self._changed.unpark_all()
            self._forget_if_done()

    def notice(self) -> None:
        """Drop it, if it is closed here and what is unread was so the last time."""
        if self._sent_all and self._unread and self._view is None:
            if self._left:
                self._session.say(CREDIT, RST, self._number)
                self.end()
            self._left = True

    def end(self) -> None:
        """Nothing more goes either way."""
        self._over = True
        self._drop_unread()
        self._credited.unpark_all()
        self._changed.unpark_all()
        self._session.forget(self)

    def lose(self) -> None:
        """The connection has ended: what has arrived can still be read."""
        self._sent_all = self._received_all = True
        self._account()
        self._credited.unpark_all()
        self._changed.unpark_all()

    def _grant(self) -> None:
        """Allow the peer more, once half of what it may have is used up."""
        if self._received_all or self._over:
            return
        wanted = min(len(self._view), MOST_CREDIT) if self._view else 0
        window = WINDOW + wanted
        grant = window - self._receivable - len(self._unread)
        within_first = max(0, WINDOW - self._receivable - len(self._unread))
        grant = min(grant, within_first + self._session.budget.spare)
        starved = self._receivable < WINDOW // 2
        if grant >= (WINDOW if starved else window) // 2:
            self._receivable += grant
            self._account()
            self._session.say(CREDIT, 0, self._number, grant)

    def _drop_unread(self) -> None:
        self._unread = bytearray()
        self._account()

    def _account(self) -> None:
        """Bring the budget up to date: what lies unread, and what is granted beyond the first window."""
        more = 0 if self._received_all else self._receivable
        granted = max(0, more + len(self._unread) - WINDOW)
        gone = self._over or self._session.ended
        spent = 0 if gone else max(granted, len(self._unread))
        self._session.budget.spend(spent - self._spent)
        self._spent = spent

    def _forget_if_done(self) -> None:
        if self._sent_all and self._received_all and not self._unread:
            self._session.forget(self)


class Yamux:
    """The streams of one connection. They live while `run` runs.

    Args:
        channel: the connection.
        peer: who is at the other end.
        dialled: whether this side did.
        budget: of the node.

    Attributes:
        room: senders that wait for room, in their order.
        budget: of this connection.
        admits: whether the peer may open one more stream, which `accept` then gets. Others are reset at once.
        streams: those open, by number.
        leaving: one of the two sides has said go-away: no streams are opened any more.
        ended: nothing goes in or out any more.
    """

    def __init__(self, channel: Channel, peer: PeerId, dialled: bool, budget: Budget) -> None:
        self.peer = peer
        self.dialled = dialled
        self.room = trio.lowlevel.ParkingLot()
        self.budget = Budget(MOST_UNREAD, budget)
        self._node = budget
        self.admits: Callable[[], bool] = lambda: True
        self.streams: dict[int, YamuxStream] = {}
        self.leaving = False
        self.ended = False
        self._channel = channel
        self._parity = 1 if dialled else 0
        self._next = 1 if dialled else 2
        self._gathered = bytearray()
        self._work = trio.Event()
        self._written = trio.lowlevel.ParkingLot()
        self._writing = False
        self._heard = self._said = True  # since keep-alive looked last
        self._scope = trio.CancelScope()
        self._fault: PeerFault | None = None
        self._refusals = Bucket(REFUSALS)

    async def run(self, accept: Callable[[YamuxStream], None]) -> None:
        """Carry streams until the connection ends; `accept` is called with each that the peer opens.

        Raises:
            PeerFault: the peer broke the rules.
        """
        self._node.users.append(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_all)
                    nursery.start_soon(self._keep_alive)
                    try:
                        await self._read_all(accept)
                    except Disconnected:
                        pass
                    except PeerFault as error:
                        self._fault = error
                    nursery.cancel_scope.cancel()
        finally:
            self._node.users.remove(self)
            self._end()
        if self._fault is not None:
            raise self._fault

    def open(self) -> YamuxStream:
        """Open a stream. The peer hears of it with the next bytes that go out.

        Raises:
            Disconnected: the connection has ended, or one side is leaving.
            Unreachable: too many streams are open.
        """
        if self.ended or self.leaving or self._next >= 2**32:
            raise Disconnected(f"the connection with {self.peer} has ended")
        if sum(number % 2 == self._parity for number in self.streams) >= MOST_STREAMS:
            raise Unreachable(f"{MOST_STREAMS} streams with {self.peer} are open already")
        if len(self._gathered) > MOST_GATHERED:
            raise Unreachable(f"{self.peer} reads nothing")
        stream = self.streams[self._next] = YamuxStream(self, self._next)
        self.say(CREDIT, SYN, self._next)
        self._next += 2
        return stream

    @property
    def unread(self) -> int:
        """Bytes that have arrived and that nobody has read."""
        return sum(stream.unread for stream in self.streams.values())

    def cut(self) -> None:
        """End it: it has most of what lies unread on all connections of the node, which is too much."""
        self._fault = PeerFault(Fault.OVERSIZED, "most of what lies unread here is its")
        self._scope.cancel()

    async def leave(self) -> None:
        """Tell the peer that nothing new comes, and wait until everything queued is written."""
        if not (self.leaving or self.ended):
            self.leaving = True
            self.say(GO_AWAY, 0, 0)
        while not self.ended and (self._gathered or self._channel.queued or self._writing):
            await self._written.park()

    # --- what streams use ---

    @property
    def full(self) -> bool:
        """Whether a sender must wait for room."""
        return not self.ended and self._channel.queued + len(self._gathered) >= ROOM

    def next_sender(self) -> None:
        """Whoever was woken for room took its turn, or needs none: the next one, if some is left."""
        if not self.full:
            self.room.unpark()

    def put(self, kind: int, flags: int, number: int, length: int, data: Bytes) -> None:
        """Queue a frame."""
        if self.ended:
            return
        self._said = True
        self._gathered += HEADER.pack(0, kind, flags, number, length)
        if len(data) <= SMALL:
            self._gathered += data
        else:
            self._seal_gathered()
            self._channel.put(data)
        self._work.set()

    def say(self, kind: int, flags: int, number: int, length: int = 0) -> None:
        """Queue a frame without data; never waits."""
        self.put(kind, flags, number, length, b"")

    def forget(self, stream: YamuxStream) -> None:
        """It is over at both ends."""
        if self.streams.get(stream.number) is stream:  # and not one that the peer gave the same number
            del self.streams[stream.number]

    # --- writing ---

    def _seal_gathered(self) -> None:
        if self._gathered:
            self._channel.put(self._gathered)
            self._gathered = bytearray()

    async def _write_all(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                self._seal_gathered()
                self._writing = True
                self.room.unpark()  # it fills the next buffer while this one is written
                await self._channel.write()
                self._writing = False
                self._written.unpark_all()
        except Disconnected:  # what the peer has sent before it left may still be on its way
            self._scope.deadline = trio.current_time() + LAST_READS_SECONDS

    async def _keep_alive(self) -> None:
        asked = False
        while self._heard or not asked:
            asked, self._heard = not self._heard, False
            if asked or not self._said:
                self.say(PING, SYN, 0)
            self._said = False
            for stream in list(self.streams.values()):
                stream.notice()
            await trio.sleep(KEEP_ALIVE_SECONDS)
        self._scope.cancel()

    # --- reading ---

    async def _read_all(self, accept: Callable[[YamuxStream], None]) -> None:
        header = memoryview(bytearray(HEADER.size))
        frames = 0
        while not self.ended:
            frames += 1
            if not frames % TURN:
                await trio.lowlevel.checkpoint()
            await self._read_into(header)
            version, kind, flags, number, length = HEADER.unpack(header)
            if version or kind > GO_AWAY or flags > SYN | ACK | FIN | RST:
                raise PeerFault(Fault.MALFORMED, "not a yamux frame")
            if kind == PING:
                self._pinged(flags, length)
            elif kind == GO_AWAY:
                self.leaving = True
            else:
                await self._read_frame(accept, kind, flags, number, length)
            if len(self._gathered) > MOST_GATHERED:
                raise PeerFault(Fault.STALLED, "it makes us answer, and reads no answers")

    async def _read_frame(
        self, accept: Callable[[YamuxStream], None], kind: int, flags: int, number: int, length: int
    ) -> None:
        if flags & SYN:
            self._opened(accept, number)
        stream = self.streams.get(number)
        if kind == CREDIT and stream is not None:
            stream.credit(length)
        elif kind == DATA:
            await self._read_data(stream, length)
        if stream is not None:
            stream.flagged(flags)

    async def _read_data(self, stream: YamuxStream | None, length: int) -> None:
        if length > (MOST_CREDIT + WINDOW) or (stream is not None and not stream.allows(length)):
            raise PeerFault(Fault.OVERSIZED, f"a frame of {length} bytes, which it may not send")
        while length:
            await self._channel.wait()
            self._heard = True
            if stream is None:  # it was reset here, and the peer did not know yet
                length -= len(self._channel.take(length))
            else:
                length -= stream.accept_data(self._channel, length)
            if self.budget.overdrawn:
                raise PeerFault(Fault.OVERSIZED, "more lies unread than one connection may have")

    def _opened(self, accept: Callable[[YamuxStream], None], number: int) -> None:
        if not number or number % 2 == self._parity or number in self.streams:
            raise PeerFault(Fault.UNEXPECTED, f"a stream opened with the number {number}")
        full = sum(one % 2 != self._parity for one in self.streams) >= MOST_STREAMS
        if self.leaving or full or not self.admits():
            if not self._refusals.take(trio.current_time()):
                raise PeerFault(Fault.OVERSIZED, "it goes on opening streams that are refused")
            self.say(CREDIT, RST, number)
            return
        stream = self.streams[number] = YamuxStream(self, number)
        self.say(CREDIT, ACK, number)
        accept(stream)

    def _pinged(self, flags: int, value: int) -> None:
        if flags & SYN:
            self.say(PING, ACK, 0, value)

    async def _read_into(self, view: memoryview) -> None:
        while view:
            await self._channel.wait()
            self._heard = True
            view = view[self._channel.take_into(view) :]

    def _end(self) -> None:
        self.ended = True
        for stream in list(self.streams.values()):
            stream.lose()
        self.streams.clear()
        self.room.unpark_all()
        self._written.unpark_all()


def _as_bytes(data: Bytes) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # an empty view cannot be cast
