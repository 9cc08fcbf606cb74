"""What it costs to make n vectors equal to their mean, two ways.

*Over the Base-2 graph* (`base.py`) a node sends its whole vector in every step that it has a partner in.
A partner that has gone costs exactness only: what was exchanged before still conserves the sum.

*By halving and doubling*: cut the vector into n blocks. Reduce-scatter: with skips n/2, n/4, ... (rounded
up) a node sends to the one a skip ahead the partial sums of blocks that are nearer to it, and adds those
that arrive, until it holds the sum of one block; allgather is the same backwards. Each takes ceil(log2 n)
steps, in which every node sends n - 1 blocks, for any n (Träff 2024, "Optimal, non-pipelined reduce-scatter
and allreduce algorithms"); over powers of two that is what recursive halving and doubling move
(Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005). A node that leaves in between takes partial sums
of everybody with it.
"""

import math
from collections import Counter
from dataclasses import dataclass

from p2pnode.learning.topology.base import base_graph


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

    Base-2 is counted on the schedule itself, halving by the formula 2 (n - 1) / n, which a test holds against
    a run. In vectors sent by the busiest (mean) node, and steps:

        n                   2        4           5         8          25          64         100
        Base-2, bytes  1 (1)    2 (2)    5 (3.6)     3 (3)     9 (7.8)       6 (6)   13 (11.8)
        Base-2, steps      1        2          5         3           9           6          13
        halving, bytes   1.0      1.5        1.6      1.75        1.92        1.97        1.98
        halving, steps     2        4          6         6          10          12          14

    So halving sends less from n = 3 on, in up to twice as many steps, which cost time on slow answers.

    Args:
        n: nodes, at least 2.
        size: bytes of a vector.
    """
    rounds = base_graph(n)
    sent = Counter(node for edges in rounds for i, j, _ in edges for node in (i, j))
    base = Cost("base", len(rounds), size * sent.total() / n, size * max(sent.values()))
    halved = 2 * size * (n - 1) / n
    halving = Cost("halving", 2 * math.ceil(math.log2(n)), halved, halved)
    one, other = sorted((base, halving), key=lambda cost: (cost.most, cost.steps))
    return one, other
