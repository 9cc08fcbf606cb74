"""Graphs that do not change, with Metropolis's weights: the classical setting of decentralized SGD.

W is then symmetric and the same in every round: in the long run each round multiplies the variance by the
square of its second largest eigenvalue (in modulus). Lian et al. 2017 (D-PSGD, arXiv:1705.09056) train so.
"""

import math

import numpy as np
import numpy.typing as npt

from p2pnode.errors import UserError
from p2pnode.learning.schedule import Integers, Schedule, metropolis, repeated

MOST_COMPLETE = 1024
"""Nodes of a complete graph at most: a round of it has n^2 entries, 9 bytes each."""


def ring(n: int) -> Schedule:
    """Both neighbours on a ring; the second eigenvalue is (1 + 2 cos(2 pi / n)) / 3 (Lian et al. 2017)."""
    nodes = np.arange(n)
    return metropolis(n, *_edges(n, nodes, (nodes + 1) % n))


def torus(n: int) -> Schedule:
    """Four neighbours on the grid nearest to a square, its borders glued (weights: Xiao, Boyd, Lall 2006).

    Raises:
        UserError: n is prime, so that the grid would be a ring.
    """
    rows = next(rows for rows in range(math.isqrt(n), 0, -1) if n % rows == 0)
    if rows == 1:
        raise UserError(f"a torus of {n} nodes has one row only: take a number that is not prime, or ring")
    grid = np.arange(n).reshape(rows, n // rows)
    near = [np.roll(grid, -1, axis).ravel() for axis in (0, 1)]
    return metropolis(n, *_edges(n, np.tile(grid.ravel(), 2), np.concatenate(near)))


def complete(n: int) -> Schedule:
    """Everybody with everybody: the mean after one round (what a server or an all-reduce would do).

    Raises:
        UserError: more than 1,024 nodes.
    """
    if n > MOST_COMPLETE:
        raise UserError(f"a complete graph has at most {MOST_COMPLETE} nodes here, not {n}: take base")
    return metropolis(n, *np.triu_indices(n, 1))


def random_regular(n: int, rounds: int, seed: int, degree: int) -> Schedule:
    """One random graph, `degree` neighbours each: a ring in random order and a random rest.

    So it is connected; for a degree of 3 and more almost all random regular graphs hold such a ring anyway
    (Robinson and Wormald 1994). Beyond half of all edges it is the complement of a random one.

    Raises:
        UserError: no graph has so many nodes of this degree.
    """
    if not 2 <= degree < n or n * degree % 2:
        raise UserError(
            f"no graph has {n} nodes with {degree} neighbours each: the degree must be below the number "
            "of nodes, and one of the two even"
        )
    random = np.random.default_rng(seed)
    if degree > n // 2:
        every = _codes(n, *np.triu_indices(n, 1))
        edges = np.setdiff1d(every, _random_edges(n, n - 1 - degree, np.array([], np.int64), random))
    else:
        order = random.permutation(n)
        cycle = _codes(n, order, np.roll(order, 1))
        edges = np.concatenate([cycle, _random_edges(n, degree - 2, cycle, random)])
    return repeated(metropolis(n, edges // n, edges % n), rounds)


def _random_edges(n: int, degree: int, taken: Integers, random: np.random.Generator) -> Integers:
    """Codes of random edges, `degree` at each node, none of them in `taken`.

    Ends are paired at random. Pairs that are no edges, and four others so that there is always something
    to change, are drawn anew; what came of it is kept unless it is worse.
    """
    ends = random.permutation(np.repeat(np.arange(n), degree))
    bad = _unfit(n, ends, taken)
    while bad.any():
        again = bad.copy()
        again[random.integers(0, len(bad), 4)] = True
        drawn, both = ends.copy(), np.repeat(again, 2)
        drawn[both] = random.permutation(ends[both])
        unfit = _unfit(n, drawn, taken)
        if unfit.sum() <= bad.sum():
            ends, bad = drawn, unfit
    return _codes(n, ends[::2], ends[1::2])


def _unfit(n: int, ends: Integers, taken: Integers) -> npt.NDArray[np.bool_]:
    """Which pairs are loops, edges that are there already, or in `taken`."""
    codes = _codes(n, ends[::2], ends[1::2])
    unfit = np.isin(codes, taken)
    unfit |= ends[::2] == ends[1::2]
    seen = np.ones(len(codes), np.bool_)
    seen[np.unique(codes, return_index=True)[1]] = False
    unfit |= seen
    return unfit


def _codes(n: int, one: Integers, other: Integers) -> Integers:
    """Each edge as one number, whichever end is named first."""
    return np.minimum(one, other) * n + np.maximum(one, other)


def _edges(n: int, one: Integers, other: Integers) -> tuple[Integers, Integers]:
    """Every edge once, without loops."""
    codes = np.unique(_codes(n, one, other)[one != other])
    return codes // n, codes % n
