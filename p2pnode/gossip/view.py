"""The peers a node believes alive, with what it knows of each.

A member enters by a hello that succeeded and leaves by a goodbye or by silence. Everything here is
plain data and plain functions: who is a possible partner, whom to tell about, whether a peer that
misbehaves is left alone for a while. The view is ordered by peer id, so that nothing depends on the
order in which peers were met.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from random import Random

from p2pnode.ports import PeerAddress, PeerId
from p2pnode.wire.messages import MAX_PEERS, Hello

MAX_AVOIDANCE = 60.0
"""Seconds a faulty peer is left alone at most: it may have been restarted with a better version."""


class Stage(IntEnum):
    """Where a node stands, in the order in which it gets there."""

    NEWCOMER = 0  # has no model yet
    TRAINING = 1
    DONE = 2  # all rounds done, ready to settle
    SETTLED = 3


@dataclass(frozen=True)
class Member:
    """One peer as its last hello described it."""

    peer: PeerId
    incarnation: int
    proof: bytes
    serial: int
    stage: Stage
    round: int
    members: bytes
    sketch: bytes
    addresses: tuple[str, ...]
    heard: float = 0.0  # trio time of that hello
    misses: int = 0


def member_of(peer: PeerId, hello: Hello, now: float) -> Member:
    """The member that `hello`, proven to come from `peer` at trio time `now`, describes."""
    return Member(
        peer=peer,
        incarnation=hello.incarnation,
        proof=hello.proof,
        serial=hello.serial,
        stage=Stage(hello.stage),
        round=hello.round,
        members=hello.members,
        sketch=hello.sketch,
        addresses=hello.addresses,
        heard=now,
    )


def avoidance(faults: int) -> float:
    """Seconds to leave a peer alone after its `faults`-th fault: doubling, capped."""
    return min(2.0 ** min(faults, 16), MAX_AVOIDANCE)  # no float holds 2 to the 1024th


class View:
    """Members by peer id. `limit` bounds it: the manifest's `bounds.peers`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._members: dict[PeerId, Member] = {}
        self._faults: dict[PeerId, tuple[int, float]] = {}  # count, avoided until

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._members

    def get(self, peer: PeerId) -> Member | None:
        return self._members.get(peer)

    def all(self) -> Sequence[Member]:
        """Every member, by peer id."""
        return [self._members[peer] for peer in sorted(self._members)]

    def full(self) -> bool:
        return len(self._members) >= self.limit

    def put(self, member: Member) -> bool:
        """Take a member in, or what is new of it. True when it was not there in this incarnation."""
        known = self._members.get(member.peer)
        if known is None and self.full():
            return False
        self._members[member.peer] = member
        return known is None or known.incarnation != member.incarnation

    def missed(self, peer: PeerId) -> int:
        """Count a hello that failed; how many in a row by now (0 for a stranger)."""
        member = self._members.get(peer)
        if member is None:
            return 0
        self._members[peer] = replace(member, misses=member.misses + 1)
        return member.misses + 1

    def remove(self, peer: PeerId) -> bool:
        return self._members.pop(peer, None) is not None

    def fault(self, peer: PeerId, now: float) -> int:
        """Count a fault of `peer` at trio time `now`; how many by now."""
        if peer not in self._faults and len(self._faults) >= 4 * self.limit:
            self._faults.pop(next(iter(self._faults)))  # the oldest: strangers cannot fill our memory
        count = self.faults(peer) + 1
        self._faults[peer] = (count, now + avoidance(count))
        return count

    def faults(self, peer: PeerId) -> int:
        """How many faults of `peer` were counted."""
        return self._faults.get(peer, (0, 0.0))[0]

    def avoided(self, peer: PeerId, now: float) -> bool:
        return self._faults.get(peer, (0, 0.0))[1] > now

    def partners(self, now: float) -> Sequence[Member]:
        """Members with a model to average with, by peer id, without those that misbehaved just now."""
        return [m for m in self.all() if m.stage != Stage.NEWCOMER and not self.avoided(m.peer, now)]

    def gossip(self, receiver: PeerId, random: Random) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Some members to tell `receiver` about."""
        others = [m for m in self.all() if m.peer != receiver and m.addresses]
        chosen = random.sample(others, min(MAX_PEERS, len(others)))
        return tuple((m.peer, m.addresses) for m in chosen)


def hints(hello: Hello) -> Sequence[PeerAddress]:
    """Peers a hello tells about."""
    return [PeerAddress(PeerId(peer), addresses) for peer, addresses in hello.peers]
