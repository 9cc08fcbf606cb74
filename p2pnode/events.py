"""What a node lets the world observe.

Each event is one fact, a frozen dataclass of plain values. There is one stream of them: the event
log, the terminal view, the metrics and `wait_for` all read it, so none of them can disagree.
"""

from dataclasses import dataclass, field

from p2pnode.ports import PeerId


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class NodeReady(Event):
    """The node listens and has its first parameters."""

    peer: PeerId
    addresses: tuple[str, ...]
    swarm: str
    round: int


@dataclass(frozen=True)
class PeerAlive(Event):
    """A peer said hello for the first time, or came back."""

    peer: PeerId
    round: int


@dataclass(frozen=True)
class PeerLost(Event):
    """A peer left the view.

    `reason` is `goodbye`, `silent`, `faulty`, or `elsewhere`: one of the two has no room.
    """

    peer: PeerId
    reason: str


@dataclass(frozen=True)
class PeerFaulted(Event):
    """A peer broke the protocol; `count` is how often it has by now."""

    peer: PeerId
    fault: str
    detail: str
    count: int


@dataclass(frozen=True)
class Alone(Event):
    """The node has nobody to average with, and trains on by itself."""


@dataclass(frozen=True)
class InCompany(Event):
    """The node was alone, and has peers again."""

    peers: int


@dataclass(frozen=True)
class RoundFinished(Event):
    """H local steps are done.

    Attributes:
        round: the round just finished, counted from 1.
        rounds: how many there will be.
        steps: local steps since the start, over all rounds.
        loss: mean training loss of the round's steps (nan without steps).
        metrics: of the view's model on the node's hold-out and, where there is one, the common test
            set; e.g. `holdout_accuracy`, `test_accuracy`. Empty when not evaluated this round.
        peers: peers alive in the view.
        seconds: wall time since the previous round's end.
        bytes_sent: at the sockets, since the start.
        bytes_received: at the sockets, since the start.
    """

    round: int
    rounds: int
    steps: int
    loss: float
    metrics: dict[str, float] = field(hash=False)
    peers: int
    seconds: float
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class Paused(Event):
    """A person has paused training; `round` is the last one finished. Membership goes on."""

    round: int


@dataclass(frozen=True)
class Resumed(Event):
    """Training goes on after a pause."""

    round: int


@dataclass(frozen=True)
class ExchangeCompleted(Event):
    """Both ends averaged. Each end reports it once."""

    peer: PeerId
    exchange: str
    initiator: bool
    payload_bytes: int
    seconds: float


@dataclass(frozen=True)
class ExchangeDeclined(Event):
    """A peer said no to our offer."""

    peer: PeerId
    reason: str


@dataclass(frozen=True)
class ExchangeAborted(Event):
    """An exchange began and came to nothing on both sides."""

    peer: PeerId
    exchange: str
    reason: str


@dataclass(frozen=True)
class ExchangeUnsettled(Event):
    """We said `ready` and never learned the outcome: the partner may have averaged, we did not."""

    peer: PeerId
    exchange: str


@dataclass(frozen=True)
class CaughtUp(Event):
    """A newcomer took its first parameters, and its round, from a member."""

    peer: PeerId
    round: int


@dataclass(frozen=True)
class Checkpointed(Event):
    """The node's state is on disk."""

    round: int
    path: str


@dataclass(frozen=True)
class NotSaved(Event):
    """A checkpoint could not be written; training goes on and it is tried again."""

    reason: str


@dataclass(frozen=True)
class NotRestored(Event):
    """A checkpoint is damaged or of another version, and an older one was taken instead."""

    reason: str


@dataclass(frozen=True)
class Restored(Event):
    """The node went on from a checkpoint."""

    round: int
    path: str


@dataclass(frozen=True)
class Settled(Event):
    """The exact schedule after the last round is done.

    Attributes:
        members: how many nodes agreed on the schedule, this one included.
        counted: how many of them this node's result is known to contain (= members when exact).
        spread: largest relative difference to a partner's parameters in the final phase; 0.0 when
            alone.
        metrics: as in `RoundFinished`, of the settled model.
    """

    members: int
    counted: int
    spread: float
    metrics: dict[str, float] = field(hash=False)


@dataclass(frozen=True)
class Stopped(Event):
    """The node ends: `finished`, by a `signal` or a `command`. Bytes are at the sockets, since the start."""

    reason: str
    bytes_sent: int
    bytes_received: int
