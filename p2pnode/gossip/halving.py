"""The exact mean for less: members sum parts of their vectors, then spread the sums.

The schedule is `learning/topology/halving.py`'s. In each step two members exchange parts of what they
hold, in the conversation that averages everywhere else; which part follows from the member list that all
agreed on, so nobody is believed about it. The parts are a copy. The node's model stays as it was until
all is done, so that a failure costs nothing but time.

**All or none.** In the first half a node that leaves takes partial sums of everybody with it. Who misses
a step therefore gives up and says so: its hellos no longer name the list, whereupon the others give up
too, and all settle anew over the Base-2 graph with those still there. Who has all of the sum puts its
sketch into its hellos, still as one that is not settled, and takes the mean over when all others who are
still there have done so, or when one of them has taken it over and is settled: it saw that. This is a
vote before a commit (Skeen, 1981), with failures seen by hellos. Where members see each other's leaving
differently, some may keep the mean of all while others give up: each still says of whom its mean is, and
those who keep it see in the others' sketches how far apart they are.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from p2pnode.errors import Fault, PeerFault
from p2pnode.gossip.agenda import Agenda
from p2pnode.gossip.exchange import Exchanger
from p2pnode.gossip.meeting import meet, until
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import Member, Stage
from p2pnode.learning.topology import blocks, halving
from p2pnode.machine import pages
from p2pnode.ports import Compute, Model, PeerId

Vector = npt.NDArray[np.float32]

PIECE = 1 << 21
"""Numbers sent and summed at a time."""


class Parts:
    """What a node holds of the mean, padded with zeros to whole blocks. Implements `ports.Shared`.

    What is summed is the vectors over the number of members: the sum of large ones might be infinite.

    Args:
        model: whose vector, layout and round these are; it is left as it is.
        members: how many there are.
        me: this node's place among them.
        compute: where sums are made.
    """

    def __init__(self, model: Model, members: int, me: int, compute: Compute) -> None:
        self.steps = halving(members, me)
        self.step = self.steps[0]
        self.layout = model.layout
        self.round = model.round
        self._compute = compute
        self._model = model
        self._members = members
        self._size = sum(model.payload) // 4  # bytes of a number
        self._width = -(-self._size // blocks(members))
        self._sums = np.frombuffer(pages(4 * self._width * blocks(members)), np.float32)

    async def fill(self) -> None:
        """Begin with this node's own vector."""
        await self._model.vector(self.mean(), self._members)

    @property
    def payload(self) -> Sequence[int]:
        return [piece.nbytes for piece in self._pieces(self.step.sent)]

    @property
    def expected(self) -> Sequence[int]:
        return [piece.nbytes for piece in self._pieces(self.step.received)]

    def mean(self) -> Vector:
        """Of all members, once the last step is done. Every node has the same, bit by bit."""
        return self._sums[: self._size]

    async def snapshot(self, turn: int, give: Callable[[Sequence[memoryview]], None]) -> None:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces(self.step.sent):
            give([piece.view(np.uint8).data])

    async def take(self, first: int, pieces: Sequence[memoryview]) -> Sequence[object]:
        def work() -> tuple[Sequence[Vector], bool]:
            taken = [np.frombuffer(piece, np.float32) for piece in pieces]
            return taken, all(np.isfinite(piece).all() for piece in taken)

        taken, finite = await self._compute(work)
        if not finite:
            raise PeerFault(Fault.NOT_FINITE, "parameters with NaN or infinity")
        return taken

    async def apply(self, taken: list[Any], weight: float) -> None:
        def work() -> None:
            for held, piece in zip(self._pieces(self.step.received), taken, strict=True):
                np.add(held if self.step.adds else 0, piece, out=held)

        await self._compute(work)

    def drop(self) -> None:
        """Nothing is kept aside: what is sent in a step does not change in it."""

    def _pieces(self, blocks: tuple[int, int]) -> list[Vector]:
        """What lies in these blocks, cut."""
        begin, end = blocks[0] * self._width, blocks[1] * self._width
        return [self._sums[first : min(first + PIECE, end)] for first in range(begin, end, PIECE)]


@dataclass
class Halving:
    """One attempt to reach the mean, by members who say the same in their hellos.

    Attributes:
        members: all of them, in the order of `parts`.
        digest: of that list.
        parts: what this node holds.
        sketch: of a vector.
    """

    members: Sequence[PeerId]
    digest: bytes
    parts: Parts
    exchanger: Exchanger
    membership: Membership
    sketch: Callable[[Vector], Awaitable[bytes]]
    _word: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._word = self.membership.standing.members

    async def run(self, nursery: trio.Nursery) -> Vector | None:
        """The mean of all members, f32[n]; None when this node has to settle in another way.

        `nursery` outlives this: hellos are said in it.
        """
        self.exchanger.model = self.parts
        complete = False
        async with trio.open_nursery() as steps:
            steps.start_soon(self._cancel_when_given_up, steps.cancel_scope)
            complete = await self._walk()
            steps.cancel_scope.cancel()
        self.exchanger.agenda = Agenda(members=self.digest, partner=self.membership.network.me)
        mean = self.parts.mean() if complete else None
        if mean is not None and await self._all_have_it(mean, nursery):
            return mean
        for peer in self.members:
            self.membership.suspect(peer)
        self.membership.standing.sketch = b""
        return None

    async def _walk(self) -> bool:
        last = -1
        for step in self.parts.steps:
            self.parts.step = step
            agenda = Agenda(1.0, self.digest, step.number, self.members[step.partner])
            size = sum(self.parts.payload) + sum(self.parts.expected)
            # The partner may have had steps in between that this node rested in.
            seconds = 3 * (step.number - last) * self.membership.deadlines.first(2 * size)
            last = step.number
            met = await meet(self.exchanger, self.membership, agenda, self.members[step.partner], seconds)
            if not met and (step.adds or self.parts.expected):
                return False
        return True

    async def _cancel_when_given_up(self, scope: trio.CancelScope) -> None:
        await until(self.membership, lambda _: self._given_up(), math.inf)
        scope.cancel()

    async def _all_have_it(self, mean: Vector, nursery: trio.Nursery) -> bool:
        self.membership.standing.sketch = await self.sketch(mean)
        nursery.start_soon(self.membership.greet_all)
        patience = 6 * self.membership.deadlines.first(2 * mean.nbytes)
        await until(self.membership, lambda _: self._given_up() or self._taken_over(), patience)
        if not self._taken_over():  # one may just be settled, and then this node has to be, too
            await self.membership.greet_all()
        return self._taken_over()

    def _others(self) -> list[Member]:
        return [m for m in self.membership.view.all() if m.peer in self.members]

    def _given_up(self) -> bool:
        return any(member.members != self._word for member in self._others())

    def _taken_over(self) -> bool:
        """Whether all others who are still there hold the mean, or one is settled on it: it saw that."""
        others = [member for member in self._others() if member.members == self._word]
        settled = any(member.stage == Stage.SETTLED for member in others)
        return settled or (not self._given_up() and all(member.sketch for member in others))
