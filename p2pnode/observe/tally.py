"""What came of a node's run, folded from its events: for summaries and for scripts."""

from dataclasses import asdict, dataclass, field
from typing import Any

from p2pnode import events
from p2pnode.observe.stream import Stamped


@dataclass
class Exchanges:
    """How many there were of each kind. A completed one is counted at both ends, `begun` at one."""

    completed: int = 0
    begun: int = 0
    declined: int = 0
    aborted: int = 0
    unsettled: int = 0


@dataclass
class Tally:
    """A subscriber that keeps the sums and the last state.

    Attributes:
        peer: the node's id; empty until it is ready.
        ready: when it was, in seconds since the epoch; None until then.
        round: the last one finished.
        steps: local steps.
        peers: that it met, counting those who came back again.
        metrics: of the last evaluation in a round.
        checkpoint: the file of the last one, empty before; `saved` is its round.
        bytes_sent: at the sockets, by the last round's end or the node's.
        settled: of the settled model; empty until then.
        members: in the settling.
        counted: of them contained in the settled model.
        spread: largest relative distance among settled models.
    """

    peer: str = ""
    ready: float | None = None
    round: int = 0
    steps: int = 0
    peers: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    saved: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    exchanges: Exchanges = field(default_factory=Exchanges)
    faults: int = 0
    settled: dict[str, float] = field(default_factory=dict)
    members: int = 0
    counted: int = 0
    spread: float = 0.0

    def __call__(self, stamped: Stamped) -> None:
        """Take in one event."""
        match stamped.event:
            case events.NodeReady(peer=peer, round=round):
                self.peer, self.ready, self.round = peer, stamped.time, round
            case events.PeerAlive():
                self.peers += 1
            case events.RoundFinished() as finished:
                self.round, self.steps = finished.round, finished.steps
                self.metrics = finished.metrics or self.metrics
                self.bytes_sent, self.bytes_received = finished.bytes_sent, finished.bytes_received
            case events.Checkpointed(round=round, path=path) | events.Restored(round=round, path=path):
                self.saved, self.checkpoint = round, path
            case events.ExchangeCompleted(initiator=initiator):
                self.exchanges.completed += 1
                self.exchanges.begun += initiator
            case events.ExchangeDeclined():
                self.exchanges.declined += 1
            case events.ExchangeAborted():
                self.exchanges.aborted += 1
            case events.ExchangeUnsettled():
                self.exchanges.unsettled += 1
            case events.PeerFaulted():
                self.faults += 1
            case events.Settled() as settled:
                self.settled, self.spread = settled.metrics, settled.spread
                self.members, self.counted = settled.members, settled.counted
            case events.Stopped() as stopped:
                self.bytes_sent, self.bytes_received = stopped.bytes_sent, stopped.bytes_received

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return asdict(self)
