"""What a node would agree to: whether to accept an offer is a plain function of this.

The slot says whether the node is free, the agenda what an exchange must be about. In training the
agenda is the same all the time; settling moves it from step to step of its schedule.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import trio

from p2pnode.errors import Fault, PeerFault
from p2pnode.gossip.gate import Gate
from p2pnode.ports import PeerId
from p2pnode.wire.messages import Accept, Decline, Offer

AGAIN = 0.02
"""Seconds after which asking a busy node again makes sense: few exchanges are shorter."""

AGAIN_AWAY = 0.1
"""The same for a node that is starting or leaving. Who starts a moment sooner than the others must not
be through with many short rounds, alone, before they are there."""

AGAIN_PAUSED = 5.0
"""The same for a node that a person has paused: for longer than anybody waits in a round, so that nobody
loses time over it. Once it goes on, it makes offers of its own."""


class Reason(StrEnum):
    """Why an offer is declined."""

    BUSY = "busy"
    WAITING = "waiting for an answer"
    ELSEWHERE = "at another step"
    STRANGER = "say hello first"  # never did, or one of the two was restarted since
    AVOIDED = "was at fault just now"
    AWAY = "not taking part now"  # starting, paused or leaving


@dataclass
class Agenda:
    """What this node would agree to now. Training leaves it as it is, settling moves it step by step.

    Attributes:
        weight: of the difference. Both ends must name the same one.
        members: while settling, the digest of the agreed member list; else empty.
        step: while settling, the position in the schedule.
        partner: while settling, the only peer this step is for.
        counted: while settling, one bit for each member that the parameters already contain.
        done: set when an exchange under this agenda is completed.
    """

    weight: float = 0.5
    members: bytes = b""
    step: int = 0
    partner: PeerId | None = None
    counted: bytes = b""
    done: trio.Event = field(default_factory=trio.Event)


@dataclass
class Slot:
    """The one exchange a node can be in.

    Attributes:
        busy: an exchange is under way.
        waiting: an offer of ours awaits its answer; cancelling the scope withdraws it.
        pending: id of the exchange of ours that is not decided yet.
        partner: in that.
        unready: we wait for the acceptor's `ready`; cancelling the scope aborts.
        closed: no new exchange begins: the node has no model yet, or is leaving.
        gate: while it is shut none begins either: a person has paused the node.
        free: set when `busy` ends.
    """

    busy: bool = False
    waiting: trio.CancelScope | None = None
    pending: bytes = b""
    partner: PeerId | None = None
    unready: trio.CancelScope | None = None
    closed: bool = False
    gate: Gate = field(default_factory=Gate)
    free: trio.Event = field(default_factory=trio.Event)


def answer(
    offer: Offer, own: Offer, agenda: Agenda, slot: Slot, initiator: PeerId, me: PeerId
) -> Accept | Decline:
    """Whether to accept `offer`; `own` is the one this node would make in the initiator's place.

    Raises:
        PeerFault: `WRONG_LAYOUT`: the two can never agree.
    """
    if slot.closed:
        return Decline(Reason.AWAY, AGAIN_AWAY)
    if slot.gate.shut:
        return Decline(Reason.AWAY, AGAIN_PAUSED)
    if offer.exchange[:16] != own.exchange[:16]:
        return Decline(Reason.STRANGER, AGAIN)
    if (offer.members, offer.step, offer.weight) != (own.members, own.step, own.weight):
        return Decline(Reason.ELSEWHERE, AGAIN)
    if own.members and (initiator != agenda.partner or agenda.done.is_set()):
        return Decline(Reason.ELSEWHERE, AGAIN)
    if (offer.layout, offer.size) != (own.layout, own.size):
        raise PeerFault(Fault.WRONG_LAYOUT, "offers other parameters, or another rule or codec")
    if slot.busy:
        return Decline(Reason.BUSY, AGAIN)
    if slot.waiting is not None and me < initiator:
        return Decline(Reason.WAITING, AGAIN)
    return Accept(own.counted, own.seconds, direct=b"")


def union(one: bytes, other: bytes) -> bytes:
    """Members counted in either: bitwise or of two bit sets."""
    size = max(len(one), len(other))
    merged = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return merged.to_bytes(size, "little")
