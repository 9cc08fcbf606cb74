"""Exactly equal after a fixed number of rounds, for any number of nodes: the Base-(k+1) graph.

A fixed sequence of rounds with at most k partners each makes all members *exactly* equal, for any number of
them (the simple form of Takezawa et al. 2023, arXiv:2305.11420). Write n = a_1 p_1 + a_2 p_2 + ...,
decreasing powers p of k+1 with digits a in 1..k, and cut the members into blocks of a_l p_l:

1. inside each block, nodes average with those whose place differs in one digit only, in turn for each digit;
2. for each block s in turn, every node of the later blocks is paired with a_s nodes of block s that
   nobody else is paired with, one from each p_s-subgroup, weighted so that the later blocks then hold
   the mean of everything from s on;
3. what donors gave away is restored by averaging inside each p_s-subgroup, where all have the same
   number of donors.

With k = 1 that takes at most 2 floor(log2 n) + 1 rounds. If either end of an edge fails, both must skip
it: the sum is then still right, and only exactness is lost.
"""

from collections.abc import Sequence
from itertools import combinations

Edge = tuple[int, int, float]
"""(i, j, weight): both ends move by weight times the difference to the other."""


def base_graph(n: int, k: int = 1) -> list[list[Edge]]:
    """The rounds after which n nodes hold exactly their mean.

    Args:
        n: how many nodes, numbered from 0.
        k: partners that a node may have in one round.

    Returns:
        Rounds of undirected edges, to be applied at once: x_i += weight * (x_j - x_i).
    """
    rounds: list[list[Edge]] = []
    blocks = _blocks(n, k)
    for power, block in blocks:
        _put(rounds, 0, _hypercube(block, power, k))
    warm = len(rounds)  # the first block is the largest, it takes longest
    for s, (power, block) in enumerate(blocks[:-1]):
        later = [node for _, other in blocks[s + 1 :] for node in other]
        _put(rounds, warm + s, [_donations(power, block, later)])
        for first in range(0, len(block), power):
            _put(rounds, warm + s + 1, _hypercube(block[first : first + power], power, k))
    return rounds


def _put(rounds: list[list[Edge]], start: int, more: list[list[Edge]]) -> None:
    """Let `more` happen beside what is planned already, from round `start` on."""
    rounds.extend([] for _ in range(start + len(more) - len(rounds)))
    for planned, edges in zip(rounds[start:], more, strict=False):
        planned.extend(edges)


def _blocks(n: int, k: int) -> list[tuple[int, range]]:
    """(p, nodes) of each block: n written in base k+1, its largest digit first."""
    power = 1
    while power * (k + 1) <= n:
        power *= k + 1
    blocks, first = [], 0
    while first < n:
        size = (n - first) // power * power
        if size:
            blocks.append((power, range(first, first + size)))
        first, power = first + size, power // (k + 1)
    return blocks


def _hypercube(block: Sequence[int], power: int, k: int) -> list[list[Edge]]:
    """Rounds that average a block of a * power nodes: in each, all that differ in one digit only."""
    rounds, stride = [], 1
    while stride < len(block):
        base = k + 1 if stride < power else len(block) // power
        groups: dict[int, list[int]] = {}
        for place, node in enumerate(block):
            groups.setdefault(place - place // stride % base * stride, []).append(node)
        rounds.append([(i, j, 1 / base) for group in groups.values() for i, j in combinations(group, 2)])
        stride *= base
    return rounds


def _donations(power: int, block: Sequence[int], later: Sequence[int]) -> list[Edge]:
    digit = len(block) // power
    weight = len(block) / (digit * (len(block) + len(later)))
    return [(block[a * power + i], node, weight) for i, node in enumerate(later) for a in range(digit)]
