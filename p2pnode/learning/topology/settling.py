"""What it costs to make n vectors equal to their mean, two ways.

*Over the Base-2 graph* (`base.py`) a node sends its whole vector in every step that it has a partner in.
A partner that has gone costs exactness only: what was exchanged before still conserves the sum.

*By halving and doubling* (`halving.py`) it sends parts of its vector, in all less than three vectors, but in
more steps, and a node that leaves in between takes partial sums of everybody with it. (Where a node sends to
one and receives from another in the same step, no n needs more than 2 (n - 1) / n vectors: Träff 2024,
"Optimal, non-pipelined reduce-scatter and allreduce algorithms". Our exchanges are between two.)
"""

from collections import Counter
from dataclasses import dataclass

from p2pnode.learning.topology.base import base_graph
from p2pnode.learning.topology.halving import blocks, halving

LARGE = 32 * 1024
"""Bytes of a vector from which on it pays to send less in more steps. With 32 nodes, halving saves three
vectors and takes five steps more: at 1 Mbit/s upwards and 100 ms a step, that is .8 s of bytes for .5 s of
steps. Faster links settle in a moment either way."""


@dataclass(frozen=True)
class Cost:
    """What a way to settle takes.

    Attributes:
        way: its name.
        steps: one after the other.
        mean: bytes that a node sends, on average over nodes. It receives as many.
        most: bytes that the busiest node sends.
    """

    way: str
    steps: int
    mean: float
    most: float


def costs(n: int, size: int) -> tuple[Cost, Cost]:
    """Both ways to settle, the one whose busiest node sends less first; of equals, the one with fewer steps.

    Both are counted on the schedules themselves. In vectors sent by the busiest (mean) node, and steps:

        n                       2        3        4         5         8          25          32         100
        Base-2, vectors     1 (1)    3 (2)    2 (2)   5 (3.6)     3 (3)     9 (7.8)       5 (5)   13 (11.8)
        Base-2, steps           1        3        2         5         3           9           5          13
        halving, vectors    1 (1)  2 (1.3)      1.5  2.5 (1.6)     1.75   2.9 (1.9)        1.94   3.0 (2.0)
        halving, steps          2        4        4         6         6          10          10          14

    So halving sends less from n = 3 on, in up to twice as many steps, which cost time on slow answers.

    Args:
        n: nodes, at least 2.
        size: bytes of a vector.
    """
    rounds = base_graph(n)
    sent = Counter(node for edges in rounds for i, j, _ in edges for node in (i, j))
    base = Cost("base", len(rounds), size * sent.total() / n, size * max(sent.values()))
    plans = [halving(n, me) for me in range(n)]
    steps = len({step.number for plan in plans for step in plan})
    parts = [sum(step.sent[1] - step.sent[0] for step in plan) * size / blocks(n) for plan in plans]
    halved = Cost("halving", steps, sum(parts) / n, max(parts))
    one, other = sorted((base, halved), key=lambda cost: (cost.most, cost.steps))
    return one, other


def by_halving(n: int, size: int, large: int = LARGE) -> bool:
    """Whether n nodes settle a vector of `size` bytes so: where it sends less, and bytes matter most."""
    return n > 1 and size >= large and costs(n, size)[0].way == "halving"
