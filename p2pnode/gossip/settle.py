"""After the last round: everybody gets the same model, the mean of all.

The mean of the nodes' models is better than any of them, and an exact one costs few more exchanges
than a round: over the Base-2 graph (Takezawa et al., 2023) n nodes that each talk to one peer a step
hold their exact mean after at most 2 floor(log2 n) + 1 steps. That needs an agreed, ordered list of
members: nodes that are done say so in their hellos, then propose the list they see by its digest,
and begin when all on the list propose the same. Large vectors take the way that sends less
(`halving.py`), and come back to this one when somebody is missed on it.

An edge whose other end has gone comes to nothing on both sides, so the rest still conserves its sum,
but is exact no longer. Therefore each node tells with its offers whose models its own already
contains, and in the end compares sketches of the settled models: 16 numbers, a count sketch
(Charikar, Chen and Farach-Colton, 2002), which keeps distances to about a fifth.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import trio

from p2pnode.config import Finish
from p2pnode.gossip.agenda import Agenda
from p2pnode.gossip.exchange import Exchanger
from p2pnode.gossip.halving import Halving, Parts
from p2pnode.gossip.meeting import meet, rest, until
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import Member, Stage, View
from p2pnode.learning.topology import LARGE, base_graph, by_halving
from p2pnode.ports import Compute, Model, PeerId

SKETCH = 16  # float32 numbers
SIGNS = 4096


@dataclass(frozen=True)
class Settlement:
    """How settling ended.

    Attributes:
        members: on the list this node settled with, itself included.
        counted: how many of them the model is known to contain.
        spread: largest relative distance to a settled member's model.
    """

    members: int
    counted: int
    spread: float


def digest(members: Sequence[PeerId], *, anew: bool = False) -> bytes:
    """SHA-256 of a sorted member list, and of whether to settle with it `anew` after a first attempt."""
    return hashlib.sha256("\n".join([*members, "anew"] if anew else members).encode()).digest()


def sketch(vector: npt.NDArray[np.float32], seed: bytes) -> npt.NDArray[np.float32]:
    """Count sketch of f32[n]: every entry goes, with a random sign, into one of 16 sums.

    Entries of one sum stand 16 apart. The sign of each is the product of two, one for its place among 4,096
    of them, one for those 4,096: to draw one for each entry takes longer than to average a large model.
    """
    random = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    places = _signs(random, SIGNS)
    sums = np.zeros(SKETCH)
    for begin in range(0, len(vector), SIGNS * SKETCH):
        part = vector[begin : begin + SIGNS * SKETCH]
        if len(part) % SKETCH:
            part = np.pad(part, (0, -len(part) % SKETCH))
        rows = part.reshape(-1, SKETCH)
        sums += _signs(random, SKETCH) * (places[: len(rows)] @ rows)
    return sums.astype(np.float32)


def _signs(random: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    return 1 - 2 * random.integers(0, 2, count, np.int8).astype(np.float32)


def distance(one: bytes, other: bytes) -> float:
    """Relative distance of two vectors, estimated from their sketches."""
    a, b = np.frombuffer(one, np.float32), np.frombuffer(other, np.float32)
    scale = float(np.linalg.norm(a))
    return float(np.linalg.norm(a - b)) / scale if scale > 0 else 0.0


def edges_of(me: PeerId, members: Sequence[PeerId]) -> Iterator[tuple[int, PeerId, float]]:
    """This node's part of the schedule: step, partner and weight, without the steps it rests in."""
    for step, edges in enumerate(base_graph(len(members))):
        for i, j, weight in edges:
            if me in (members[i], members[j]):
                yield step, members[j] if members[i] == me else members[i], weight


@dataclass
class Settling:
    """Brings a node that has done its rounds to the common mean.

    `large` is how many bytes of a vector are large, the same at all nodes.
    """

    me: PeerId
    model: Model
    exchanger: Exchanger
    membership: Membership
    finish: Finish
    compute: Compute
    large: int = LARGE
    _anew: bool = field(default=False, init=False)  # a first attempt has failed, here or elsewhere
    _sketches: dict[PeerId, bytes] = field(default_factory=dict, init=False)

    async def run(self) -> Settlement:
        """Wait for the others, agree on who they are, average exactly, compare."""
        self.membership.standing.stage = Stage.DONE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.membership.greet_all)
            nursery.start_soon(self._listen)
            await until(
                self.membership,
                lambda view: all(m.stage != Stage.TRAINING for m in view.all()),
                self.finish.grace,
            )
            members, counted = await self._reach_the_mean(nursery)
            standing = self.membership.standing
            proof = standing.sketch or await self._sketch(await self.model.vector())
            standing.stage, standing.sketch = Stage.SETTLED, proof
            others = [member for member in members if member != self.me]
            with trio.move_on_after(self.finish.linger):
                async with trio.open_nursery() as last:
                    last.start_soon(self.membership.greet_all)
                    await until(self.membership, partial(self._heard_all, others), self.finish.linger)
            nursery.cancel_scope.cancel()
        return Settlement(len(members), counted, self._spread(proof, others))

    async def _sketch(self, vector: npt.NDArray[np.float32]) -> bytes:
        return await self.compute(lambda: sketch(vector, self.membership.swarm).tobytes())

    async def _reach_the_mean(self, nursery: trio.Nursery) -> tuple[Sequence[PeerId], int]:
        """With whom, and how many of them the model then contains."""
        members = await self._agree(nursery)
        await self._rest(members)
        await self.model.settle()
        if not self._anew and by_halving(len(members), sum(self.model.payload), self.large):
            mean = await self._halve(members, nursery)
            if mean is None:
                self._anew = True
                members = await self._agree(nursery)
            await self._rest(members)
            self.exchanger.model = self.model
            if mean is not None:
                await self.model.close(mean)
                return members, len(members)
        return members, await self._average(members)

    async def _halve(
        self, members: Sequence[PeerId], nursery: trio.Nursery
    ) -> npt.NDArray[np.float32] | None:
        parts = Parts(self.model, len(members), members.index(self.me), self.compute)
        await parts.fill()
        halving = Halving(
            members=members,
            digest=digest(members),
            parts=parts,
            exchanger=self.exchanger,
            membership=self.membership,
            sketch=self._sketch,
        )
        return await halving.run(nursery)

    async def _agree(self, nursery: trio.Nursery) -> Sequence[PeerId]:
        """The largest list of done members that those on it agree on, as far as this node can see."""
        view, standing = self.membership.view, self.membership.standing

        def proposal() -> list[Member]:
            same = standing.members
            return [
                m
                for m in view.all()
                if m.stage == Stage.DONE or (m.stage == Stage.SETTLED and m.members == same)
            ]

        def agreed(_: View) -> bool:
            others = proposal()
            self._anew = self._anew or any(m.members == self._digest(others, anew=True) for m in others)
            if self._digest(others) != standing.members:
                standing.members = self._digest(others)
                nursery.start_soon(self.membership.greet_all)
            return all(member.members == standing.members for member in others)

        # It takes two deadlines to lose a member that has frozen. Who goes on before parts the list.
        await until(self.membership, agreed, 3 * self.membership.deadlines.first())
        return sorted([self.me, *(m.peer for m in proposal() if m.members == standing.members)])

    def _digest(self, others: Sequence[Member], *, anew: bool = False) -> bytes:
        peers = sorted([self.me, *(member.peer for member in others)])
        return digest(peers, anew=anew or self._anew)

    async def _listen(self) -> None:
        """Keep the sketches of those who have settled: they may be gone when this node has."""
        while True:
            changed = self.membership.changed
            self._heard_all((), self.membership.view)
            await changed.wait()

    def _heard_all(self, others: Sequence[PeerId], view: View) -> bool:
        self._sketches.update((m.peer, m.sketch) for m in view.all() if m.stage == Stage.SETTLED and m.sketch)
        return all(peer in self._sketches for peer in others if peer in view)

    def _spread(self, own: bytes, others: Sequence[PeerId]) -> float:
        """The largest distance to the settled model of one of `others`."""
        heard = (self._sketches[peer] for peer in others if peer in self._sketches)
        return max((distance(own, theirs) for theirs in heard), default=0.0)

    async def _rest(self, members: Sequence[PeerId]) -> None:
        """From here on nobody can begin an exchange of the training kind with us."""
        own = 1 << members.index(self.me)
        counted = own.to_bytes(len(members) // 8 + 1, "little")
        named = digest(members, anew=self._anew)
        await rest(self.exchanger, Agenda(members=named, partner=self.me, counted=counted))

    async def _average(self, members: Sequence[PeerId]) -> int:
        """Walk through the schedule; how many members the result contains."""
        seconds = 3 * self.membership.deadlines.first(2 * sum(self.model.payload))
        for step, partner, weight in edges_of(self.me, members):
            before = self.exchanger.agenda
            agenda = Agenda(weight, before.members, step, partner, before.counted)
            await meet(self.exchanger, self.membership, agenda, partner, seconds)
        return int.from_bytes(self.exchanger.agenda.counted, "little").bit_count()
