"""A node's own rounds: H local steps, then an exchange.

Each node counts its own rounds; nobody waits for the slowest. When its steps are done it looks for a
partner. Its first choice comes from a seed that all members share: every node computes the same
random matching of the members for its round (the way of NoLoCo's code), so nodes that walk in step
find each other without a message, and no two of them court the same one. Where that partner is busy,
gone or at another round, any other member will do. A node that has been found by somebody since its
last round has had its exchange already. Nobody free means no exchange: training goes on. While a
person has paused the node it waits between two chunks of steps.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

import trio

from p2pnode.gossip.exchange import Exchanger, Result
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import Member
from p2pnode.identity.manifest import Training
from p2pnode.learning.topology import matching
from p2pnode.ports import Model, PeerId

LONGEST_CHUNK = 10
"""Local steps in one compiled chunk at most: a difference waits for the end of one."""

OFFERS = 12
"""Offers and pauses of a node in one round at most. After so many, the others are all busy."""

LONGEST_PAUSE = 0.25
"""Seconds a node waits for a partner that is busy. Who wants to be asked later than that is left alone."""


def chunk_length(steps: int) -> int:
    """The longest chunk that divides a round of `steps` evenly, so that one compiled length serves."""
    return max((length for length in range(1, LONGEST_CHUNK + 1) if steps % length == 0), default=1)


def order(me: PeerId, members: Sequence[Member], round: int, swarm: bytes, random: Random) -> list[Member]:
    """Partners to try, best first: the one that the shared matching names, then the others by chance."""
    partner = matching(sorted([me, *(member.peer for member in members)]), round, swarm).get(me)
    others = [member for member in members if member.peer != partner]
    random.shuffle(others)
    return [member for member in members if member.peer == partner] + others


@dataclass
class Rounds:
    """Runs a model's rounds and its exchanges.

    Attributes:
        me: this node's peer id.
        model: takes the steps.
        exchanger: makes the exchanges.
        membership: knows the partners.
        training: the manifest's.
        random: of the choice among partners.
        finished: called after each round with its mean loss and the seconds since the one before.
    """

    me: PeerId
    model: Model
    exchanger: Exchanger
    membership: Membership
    training: Training
    random: Random
    finished: Callable[[float, float], Awaitable[None]]

    async def run(self) -> None:
        """All rounds that the manifest asks for, from the model's round on."""
        length = chunk_length(self.training.steps)
        chunks = self.training.steps // length
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            sought = trio.Event()
            sought.set()
            while self.model.round < self.training.rounds:
                had = self.exchanger.completed
                losses = [await self._chunk(length) for _ in range(chunks)]
                await self.model.end_round()
                self.membership.standing.round = self.model.round
                now = trio.current_time()
                await self.finished(sum(losses) / chunks if chunks else math.nan, now - started)
                started = now
                if self.exchanger.completed == had and sought.is_set():
                    sought = trio.Event()
                    nursery.start_soon(self._seek, sought)
                if self.training.overlap == 0:
                    await sought.wait()

    async def _chunk(self, length: int) -> float:
        await self.exchanger.slot.gate.passed()
        return await self.model.steps(length)

    async def _seek(self, sought: trio.Event) -> None:
        """Have one exchange, by our own offer or another's. Returns when everybody is busy, too."""
        had = self.exchanger.completed
        for _ in range(OFFERS):
            while self.exchanger.slot.busy:
                await self.exchanger.slot.free.wait()
            partner, pause = self._choose()
            done = self.exchanger.completed > had or self.exchanger.slot.gate.shut
            if done or partner is None or pause > LONGEST_PAUSE:
                break
            if pause > 0:
                await trio.sleep(pause)
            elif await self.exchanger.offer(partner) in (Result.STRANGER, Result.ABORTED, Result.UNREACHABLE):
                self.membership.suspect(partner.peer)
                await trio.sleep(LONGEST_PAUSE)
        sought.set()

    def _choose(self) -> tuple[Member | None, float]:
        """The next partner to try, and how many seconds to wait for it; jittered, lest two wait alike."""
        now = trio.current_time()
        members = self.membership.view.partners(now)
        if not members:
            return None, 0.0
        ordered = order(self.me, members, self.model.round, self.membership.swarm, self.random)
        pauses = [max(0.0, self.exchanger.again.get(member.peer, now) - now) for member in ordered]
        soonest = pauses.index(min(pauses))
        return ordered[soonest], pauses[soonest] * self.random.uniform(1.0, 2.0)
