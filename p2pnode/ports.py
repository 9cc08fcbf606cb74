"""The interfaces between the floors.

A conversation with a peer needs only a byte stream, a way to open one, and a place to compute.
These Protocols say what that means, so that the same conversation runs over libp2p, over the
in-memory network, and under a virtual clock. The idea is httpcore's: a small stream interface with
an in-memory twin as a first-class backend.

Time needs no port of its own: everything waits with trio, whose run clock a test replaces by
`trio.testing.MockClock`. Wall-clock time appears only as a `WallClock` argument.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from p2pnode.errors import PeerFault

PeerId = NewType("PeerId", str)
"""A peer's name: the base58btc text of its libp2p peer id, derived from its Ed25519 public key."""

WallClock = Callable[[], float]
"""Seconds since the Unix epoch. Only for stamps that people or files see, never for deadlines."""

Bytes = bytes | bytearray | memoryview
"""What can be sent: anything contiguous, read but never changed."""

T = TypeVar("T")


@dataclass(frozen=True)
class PeerAddress:
    """Where a peer may be reached: hints, never proof that it is there.

    Attributes:
        peer: whose addresses these are.
        addresses: multiaddrs without the `/p2p/...` part, best first.
    """

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed this node's sockets since it started, encryption and framing included."""

    sent: int
    received: int


class Stream(Protocol):
    """One conversation with one authenticated peer: bytes in order, both ways.

    Every method raises `errors.Disconnected` when the stream or its connection is gone. Sending and
    receiving may run at the same time, each from one task. Cancelling a `send` half-way makes the
    stream, and with some transports the whole connection, unusable; the transport sees to it that
    nobody then reads half a message.
    """

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proven by the connection's handshake."""
        ...

    async def send(self, data: Bytes) -> None:
        """Send all of `data`; returns when the transport has taken it, not when it arrived."""
        ...

    async def receive_into(self, view: memoryview) -> None:
        """Fill the whole of `view` (a writable view of bytes), waiting as long as it takes."""
        ...

    async def close(self) -> None:
        """Say that nothing more will be sent. The other side may still send. Never raises."""
        ...

    async def reset(self) -> None:
        """Drop the conversation in both directions at once. Never raises."""
        ...


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one incoming stream. The network closes the stream when the handler returns."""


class Network(Protocol):
    """This node's end of the network.

    Attributes:
        on_fault: told of what a peer did wrong below the conversations. What is theirs to count they count.
    """

    on_fault: Callable[[PeerId, PeerFault], None]

    @property
    def me(self) -> PeerId: ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs that others may dial, without the `/p2p/...` part."""
        ...

    @property
    def traffic(self) -> Traffic: ...

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer incoming streams of `protocol`. An exception leaving `handler` is our own bug."""
        ...

    def learn(self, peer: PeerAddress) -> None:
        """Remember where `peer` may be dialled."""
        ...

    async def connect(self, address: str) -> PeerId:
        """Dial a full multiaddr. With `/p2p/<id>` at its end, whoever answers must prove that id.

        Raises:
            Unreachable: nobody answers there, or somebody else does.
        """
        ...

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream to `peer`, dialling the addresses known for it when not connected.

        Raises:
            Unreachable: no address answers, or the peer does not speak `protocol`.
        """
        ...

    def invitation(self, stream: Stream) -> bytes:
        """This end's part in a direct connection with the stream's peer, for one use; empty for none."""
        ...

    async def direct(self, stream: Stream, mine: bytes, theirs: bytes, context: bytes) -> Stream | None:
        """Open a connection for one large transfer with the stream's peer; None if none comes about soon.

        Both ends call this at about the same time, having told each other their invitations over `stream`.
        One may get a connection where the other gets none, and finds it broken when it uses it. Whoever gets
        one resets it when done. Cancelling a receive ends it, as cancelling a send does. Receiving raises
        `PeerFault` for bytes that the peer did not make, whoever did.

        Args:
            stream: of this network.
            mine: from `invitation(stream)`; if either is empty there is no connection.
            theirs: the peer's.
            context: what it is for; the same at both ends, or they do not find each other.

        Raises:
            PeerFault: `MALFORMED`: `theirs` is no invitation.
        """
        ...

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection with `peer`. Never raises."""
        ...


class Discovery(Protocol):
    """One source of peers of a swarm: a DHT, the local network, a file."""

    async def run(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        """Announce this node under `swarm` and report who else is there, until cancelled.

        Never raises for what the network does: an unreachable source is tried again with back-off.
        """
        ...


class Compute(Protocol):
    """Where compiled functions run: a worker thread in a node, inline under a virtual clock."""

    async def __call__(self, function: Callable[[], T], /) -> T: ...


class Shared(Protocol):
    """What an exchange carries: the whole model, or in settling by halves a part of it.

    One exchange at a time: `snapshot`, then `apply` or `drop`, before the next `snapshot`.
    """

    @property
    def round(self) -> int:
        """Rounds finished."""
        ...

    @property
    def payload(self) -> Sequence[int]:
        """Bytes of each piece of an encoded snapshot, in the order in which they travel."""
        ...

    @property
    def expected(self) -> Sequence[int]:
        """The same of a partner's: of a whole model the same, on every node with the same layout."""
        ...

    @property
    def layout(self) -> bytes:
        """SHA-256 digest of what is shared: names, shapes and dtypes, rule and codec."""
        ...

    async def snapshot(self, turn: int, give: Callable[[Sequence[memoryview]], None]) -> None:
        """Encode what this node shares now, and keep it aside until `apply` or `drop`.

        Args:
            turn: i32, the same at both ends of the exchange, e.g. for which part of the vector it is.
            give: takes each piece as soon as it is encoded, in order; its bytes stay until `apply` or `drop`.
        """
        ...

    async def take(self, first: int, pieces: Sequence[memoryview]) -> Sequence[object]:
        """Some pieces of a partner's snapshot, from number `first` on, ready to be applied.

        They may still lie in the memory they came in, which must stay as it is until then.

        Raises:
            PeerFault: one holds NaN or infinity.
        """
        ...

    async def apply(self, taken: list[object], weight: float) -> None:
        """Merge a partner's snapshot with the one kept aside, at the next chunk boundary.

        Args:
            taken: all its pieces, in order; empty afterwards.
            weight: of the difference.
        """
        ...

    def drop(self) -> None:
        """Forget the snapshot kept aside, if there is one: its exchange has ended."""
        ...


class Model(Shared, Protocol):
    """The parameters as the conversations see them: the trainer, to everybody but its owner."""

    async def steps(self, count: int) -> float:
        """Take `count` local steps; their mean loss, nan for none.

        Waits first while an exchange is open and training has run ahead of it as far as it may.
        """
        ...

    async def end_round(self) -> None:
        """Let the rule turn the round's result into the next parameters, and count the round."""
        ...

    async def settle(self) -> None:
        """Go over to exact, uncompressed averaging of what the rule shows as its model, for good."""
        ...

    async def close(self, vector: npt.NDArray[np.float32]) -> None:
        """End with other shared parameters, f32[n]; their memory is the model's then. No steps follow."""
        ...

    async def vector(
        self, out: npt.NDArray[np.float32] | None = None, over: int = 1
    ) -> npt.NDArray[np.float32]:
        """A copy of the shared parameters over a number, f32[n]: `out`, where given."""
        ...

    async def jump(self, round: int, vector: npt.NDArray[np.float32] | None) -> None:
        """Go on from a donor's round, and from its parameters, f32[n], where given."""
        ...

    async def loss(self, vector: npt.NDArray[np.float32] | None = None) -> float:
        """Loss on this node's training rows with parameters `vector`, or with its own."""
        ...
