"""Recursive halving, then doubling: every node gets the exact sum, and sends at most three vectors.

Over p = 2^k nodes the vector is cut into p blocks. Halving: two nodes whose numbers differ in the highest
bit each send the other one half and add what arrives to the half they keep; then the same with the
next bit and a half of that half, until each holds the whole sum of one block. Doubling is the same
backwards: partners send each other all that they hold of the sum. A node sends 2 (p - 1) / p vectors
(Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005).

For other n the p first nodes do that. Each of the others first sends its whole vector to one of them and
gets the whole sum in the end (the fold of the same papers). The steps come in pairs of an adding one
and its mirror image, in which the same two nodes send each other what they had received.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One node's part of one step. Spans are `[first, last)` in blocks, and may be empty.

    Attributes:
        number: of the step, the same at both ends.
        partner: the other end.
        sent: the span that goes to the partner.
        received: the span that comes from it.
        adds: what arrives is added to what is there; else it takes its place.
    """

    number: int
    partner: int
    sent: tuple[int, int]
    received: tuple[int, int]
    adds: bool


def blocks(n: int) -> int:
    """Into how many blocks n nodes cut the vector: the largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)


def halving(n: int, me: int) -> Sequence[Step]:
    """What node `me` of n does, in order. Steps that it has no part in are left out."""
    adding = _adding(n, me)
    last = 2 * blocks(n).bit_length() - 1
    return adding + [
        Step(last - step.number, step.partner, step.received, step.sent, adds=False)
        for step in reversed(adding)
    ]


def _adding(n: int, me: int) -> list[Step]:
    power = blocks(n)
    nothing, everything = (0, 0), (0, power)
    if me >= power:
        return [Step(0, me - power, everything, nothing, adds=True)]
    steps = [Step(0, me + power, nothing, everything, adds=True)] if me + power < n else []
    first, last = everything
    for number in range(1, power.bit_length()):
        half = (last - first) // 2
        lower, upper = (first, first + half), (first + half, last)
        sent, kept = (lower, upper) if me & half else (upper, lower)
        steps.append(Step(number, me ^ half, sent, kept, adds=True))
        first, last = kept
    return steps
