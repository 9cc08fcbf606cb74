"""The peers a node believes alive, with what it knows of each, and those it has heard of.

HyParView (Leitão, Pereira and Rodrigues, DSN 2007) gives each node two bounded views. Members of the
*active* one are greeted, and are its partners; of those in the *passive* one only addresses are kept, in
reserve. The sentences of the paper that are followed here and in `membership.py`, and what differs:

* "When a node p suspects that one of the nodes present in its active view has failed (by either
  disconnecting or blocking), it selects a random node q from its passive view and attempts to establish
  a TCP connection with q. If the connection fails to establish, node q is considered failed and removed
  from p's passive view; another node q' is selected at random and a new attempt is made." Here a few are
  tried every few seconds while there is room, and one that fails stays for an hour or two, left alone for
  longer and longer: else a swarm that was cut in two would stay so when the cut is healed.
* "A node q that receives a high priority neighbor request will always accept the request, even if it has
  to drop a random member from its active view (again, the member that is dropped will receive a
  Disconnect notification). If a node q receives a low priority Neighbor request, it will only accept the
  request if it has a free slot in its active view, otherwise it will refuse the request." A request is a
  hello. Its priority is high in the paper when the sender has no members, and here when it has less than half
  as many as fit into this view, which is much larger. A member makes room once in a few seconds only: whoever
  makes up many names shall not push out everybody.
* The paper shuffles views now and then, over a random walk. Here each hello tells some of both views, every
  few seconds, as Cyclon does (Voulgaris, Gavidia and van Steen, 2005), so no walk is needed.

The active view has 64 members by default, where the paper has five: so it is complete in most swarms, and
only complete views let a swarm settle on one mean.

Everything here is plain data and plain functions. The view is ordered by peer id, so that nothing depends
on the order in which peers were met.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from random import Random

from p2pnode.ports import PeerAddress, PeerId
from p2pnode.wire.messages import MAX_PEERS, Hello, tellable

MAX_AVOIDANCE = 60.0
"""Seconds a faulty peer is left alone at most: it may have been restarted with a better version."""

MOST_TRIES = 128
"""Greetings in vain before a peer is forgotten: about two hours' worth."""

RESERVES = 6
"""Peers in the passive view for each place in the active one, as in the paper."""


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
    known: int = 0
    heard: float = 0.0  # trio time of that hello
    misses: int = 0  # greetings in a row that it did not answer
    greeted: float = 0.0  # trio time when a greeting of ours was answered or given up last


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
        known=hello.known,
        heard=now,
        greeted=now,
    )


def avoidance(faults: int) -> float:
    """Seconds to leave a peer alone after its `faults`-th fault: doubling, capped."""
    return min(2.0 ** min(faults, 16), MAX_AVOIDANCE)  # no float holds 2 to the 1024th


class View:
    """Members by peer id, and reserves. `limit` bounds the members: the manifest's `bounds.peers`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._members: dict[PeerId, Member] = {}
        self._reserves: dict[PeerId, tuple[str, ...]] = {}
        self._faults: dict[PeerId, tuple[int, float]] = {}  # count, avoided until
        self._silent: dict[PeerId, tuple[int, float]] = {}  # greetings in vain, left alone until
        self._left: dict[PeerId, int] = {}  # in which incarnation
        self._declined: dict[PeerId, tuple[int, float]] = {}  # the same of those that have no room for us
        self._crowded = -math.inf  # until when the last of those is left alone

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
        if known is None:
            if self.full():
                return False
            self._crowded = -math.inf
        self._members[member.peer] = member
        self._reserves.pop(member.peer, None)
        self._silent.pop(member.peer, None)
        self._declined.pop(member.peer, None)
        return known is None or known.incarnation != member.incarnation

    def missed(self, peer: PeerId, began: float, now: float) -> int:
        """Count a greeting that failed, from `began` to `now`; how many in a row by now (0 for a stranger).

        One that began before another was answered or given up does not count: it met the same hiccup.
        """
        member = self._members.get(peer)
        if member is None:
            return 0
        if began < member.greeted:
            return member.misses
        self._members[peer] = replace(member, misses=member.misses + 1, greeted=now)
        return member.misses + 1

    def remove(self, peer: PeerId) -> bool:
        return self._members.pop(peer, None) is not None

    def left(self, peer: PeerId, incarnation: int) -> None:
        """It has said goodbye: what it said before may come later."""
        self._left.pop(peer, None)
        self._left[peer] = incarnation
        if len(self._left) > 4 * max(1, self.limit):
            del self._left[next(iter(self._left))]

    def has_left(self, peer: PeerId, incarnation: int) -> bool:
        """Whether it said goodbye in this incarnation."""
        return self._left.get(peer) == incarnation

    # --- the passive view ---

    def reserve(self, peer: PeerAddress, random: Random) -> None:
        """Keep where a stranger is, in the place of another when there is no room."""
        if peer.peer in self._members:
            return
        if peer.peer not in self._reserves and len(self._reserves) >= max(1, RESERVES * self.limit):
            del self._reserves[random.choice(sorted(self._reserves))]
        self._reserves[peer.peer] = peer.addresses

    def forget(self, peer: PeerId) -> None:
        """Keep it no longer."""
        self._reserves.pop(peer, None)

    def successors(self, count: int, now: float, random: Random) -> Sequence[PeerAddress]:
        """Some of the passive view that may be greeted now, at most `count`."""
        fit = [peer for peer in sorted(self._reserves) if not self.left_alone(peer, now)]
        chosen = random.sample(fit, min(max(count, 0), len(fit)))
        return [PeerAddress(peer, self._reserves[peer]) for peer in chosen]

    def lost(self, now: float, random: Random) -> PeerAddress | None:
        """One of the passive view that fell silent some time ago and may be greeted again."""
        silent = [peer for peer in sorted(self._silent) if not self.left_alone(peer, now)]
        kept = [peer for peer in silent if peer in self._reserves]
        chosen = random.choice(kept) if kept else None
        return None if chosen is None else PeerAddress(chosen, self._reserves[chosen])

    def yields(self, peer: PeerId, known: int, random: Random) -> Member | None:
        """The member that makes room for a stranger with so many members; None when nobody should.

        One that has few itself would only be a stranger with few members next: rather another. Whoever fell
        silent and is back may come from another part of a swarm that was cut: it is let in, too, or views
        that are full on both sides would keep the parts from each other.
        """
        if (2 * known >= self.limit and peer not in self._silent) or not self._members:
            return None
        members = self.all()
        return random.choice([one for one in members if 2 * one.known >= self.limit] or members)

    # --- who is left alone ---

    def fault(self, peer: PeerId, now: float) -> int:
        """Count a fault of `peer` at trio time `now`; how many by now."""
        return self._count(self._faults, peer, now, 1.0)

    def faults(self, peer: PeerId) -> int:
        """How many faults of `peer` were counted."""
        return self._faults.get(peer, (0, 0.0))[0]

    def unreached(self, peer: PeerId, now: float, random: Random) -> None:
        """A greeting was in vain: the next waits twice as long, give or take half, lest many try at once."""
        if self._count(self._silent, peer, now, random.uniform(0.5, 1.5)) >= MOST_TRIES:
            self.forget(peer)

    def declined(self, peer: PeerId, now: float, random: Random) -> None:
        """It has no room for us. The same."""
        self._count(self._declined, peer, now, random.uniform(0.5, 1.5))
        self._crowded = max(self._crowded, self._declined[peer][1])

    def crowded(self, now: float) -> bool:
        """Whether somebody had no room just now: the swarm is larger than a view, and most have none."""
        return self._crowded > now

    def avoided(self, peer: PeerId, now: float) -> float:
        """Seconds for which it is still avoided, for it misbehaved just now; 0 when it is not."""
        return max(0.0, self._faults.get(peer, (0, 0.0))[1] - now)

    def silent(self, peer: PeerId, now: float) -> bool:
        """Whether it did not answer just now."""
        return self._silent.get(peer, (0, 0.0))[1] > now

    def left_alone(self, peer: PeerId, now: float) -> bool:
        """Whether it is not to be greeted: it misbehaved, did not answer or had no room, just now."""
        declined = self._declined.get(peer, (0, 0.0))[1] > now
        return declined or self.avoided(peer, now) > 0 or self.silent(peer, now)

    def _count(self, counts: dict[PeerId, tuple[int, float]], peer: PeerId, now: float, share: float) -> int:
        if peer not in counts and len(counts) >= 4 * self.limit:
            counts.pop(next(iter(counts)), None)  # the oldest: strangers cannot fill our memory
        count = counts.get(peer, (0, 0.0))[0] + 1
        counts[peer] = (count, now + share * avoidance(count))
        return count

    # --- whom to talk to, and about ---

    def partners(self, now: float) -> Sequence[Member]:
        """Members with a model to average with, by peer id; none that misbehaved or is suspected."""
        return [
            m
            for m in self.all()
            if m.stage != Stage.NEWCOMER and not m.misses and not self.avoided(m.peer, now)
        ]

    def gossip(self, receiver: PeerId, random: Random) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Some peers to tell `receiver` about: members first, and a few reserves."""
        members = [peer for peer in sorted(self._members) if peer != receiver]
        fresh = [peer for peer in sorted(self._reserves) if peer != receiver and peer not in self._silent]
        few = random.sample(fresh, min(MAX_PEERS // 4, len(fresh)))
        many = random.sample(members, min(MAX_PEERS - len(few), len(members)))
        told = [*((peer, self._members[peer].addresses) for peer in many)]
        told += [(peer, self._reserves[peer]) for peer in few]
        return tuple((peer, fit) for peer, addresses in told if (fit := tellable(addresses)))


def hints(hello: Hello) -> Sequence[PeerAddress]:
    """Peers a hello tells about."""
    return [PeerAddress(PeerId(peer), addresses) for peer, addresses in hello.peers]
