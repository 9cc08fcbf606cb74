"""Sequences of sparse rounds that make all nodes equal: exactly, for the right number of nodes.

Each node averages with one other, or k others, in a round, and the rounds are ordered so that no
value is counted twice. All four are one period long; a schedule repeats it.
"""

import math
from functools import lru_cache

import numpy as np

from p2pnode.errors import UserError
from p2pnode.learning.schedule import Schedule, directed, undirected
from p2pnode.learning.topology.base import base_graph


def exponential(n: int) -> Schedule:
    """In round t, i with i XOR 2^t: exact after log2 n rounds (the two-way form of Ying et al. 2021).

    Raises:
        UserError: n is no power of two.
    """
    if n & (n - 1):
        raise UserError(
            f"exponential pairs need a power of two, not {n} nodes: take base, or exponential-directed"
        )
    return hyper_hypercube(n, 1)


def exponential_directed(n: int) -> Schedule:
    """In round t, i hears i + 2^t mod n: exact for powers of two (Ying et al. 2021, arXiv:2110.13363)."""
    rounds = max(1, math.ceil(math.log2(n)))
    turn, receiver = (ends.ravel() for ends in np.indices((rounds, n)))
    sender = (receiver + 2**turn) % n
    there = sender != receiver
    return directed((rounds, n), turn[there], receiver[there], sender[there], doubly=True)


def hyper_hypercube(n: int, k: int) -> Schedule:
    """In round m, all whose places differ in digit m only: exact where it exists (Takezawa et al. 2023).

    Digits are in the mixed radix of the fewest factors of n that are all at most k+1.

    Raises:
        UserError: n has a prime factor above k+1.
    """
    bases = _factors(n, k + 1)
    if bases is None:
        raise UserError(f"{n} nodes have a prime factor above {k + 1}: take base, or a larger k")
    edges = []
    for turn, base in enumerate(bases):
        stride = math.prod(bases[:turn])
        for distance in range(1, base):
            low = np.flatnonzero(np.arange(n) // stride % base + distance < base)
            edges.append((np.full(len(low), turn), low, low + distance * stride, np.full(len(low), 1 / base)))
    columns = (
        (np.concatenate(column) for column in zip(*edges, strict=True)) if edges else np.zeros((4, 0), int)
    )
    turn_, one, other, weight = columns
    return undirected((max(1, len(bases)), n), turn_, one, other, weight)


def base(n: int, k: int) -> Schedule:
    """The simple Base-(k+1) graph: exact for every n, at most k partners a round (Takezawa et al. 2023)."""
    rounds = base_graph(n, k)
    edges = [(turn, i, j, weight) for turn, planned in enumerate(rounds) for i, j, weight in planned]
    columns = np.array(edges, np.float64).reshape(-1, 4).T
    turn, one, other = columns[:3].astype(np.int64)
    return undirected((max(1, len(rounds)), n), turn, one, other, columns[3])


@lru_cache(maxsize=1024)
def _factors(n: int, most: int) -> tuple[int, ...] | None:
    """The fewest factors of n, none above `most`; None where there are none."""
    if n == 1:
        return ()
    rests = ((q, _factors(n // q, most)) for q in range(2, min(n, most) + 1) if n % q == 0)
    return min(((q, *rest) for q, rest in rests if rest is not None), key=len, default=None)
