"""Directed rounds, for simulation: everybody sends to, or asks, s others picked at random.

A node takes the mean of its own value and all that arrive, so rows of W sum to one and its columns
do not: the mean of all nodes drifts. Nobody has to agree with anybody.
"""

import numpy as np
import numpy.typing as npt

from p2pnode.errors import UserError
from p2pnode.learning.schedule import Schedule, directed


def push(n: int, rounds: int, seed: int, s: int) -> Schedule:
    """Everybody sends to s random others (EL-Local in Epidemic Learning, arXiv:2310.01972).

    K is the most that arrive anywhere.

    Raises:
        UserError: there are no s others.
    """
    turn, node, others = _sample(n, rounds, seed, s)
    return directed((rounds, n), turn, others, node)


def pull(n: int, rounds: int, seed: int, s: int) -> Schedule:
    """Everybody asks s random others: a flood of models reaches nobody who has not asked (as in RPEL).

    Raises:
        UserError: there are no s others.
    """
    turn, node, others = _sample(n, rounds, seed, s)
    return directed((rounds, n), turn, node, others)


def _sample(n: int, rounds: int, seed: int, s: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Rounds, nodes and s different others of each, uniformly: Floyd's algorithm, for all nodes at once."""
    if not 1 <= s < n:
        raise UserError(f"{s} others cannot be picked among {n} nodes: s must be from 1 to {n - 1}")
    random = np.random.default_rng(seed)
    steps = np.empty((rounds, n, s), np.int64)  # from a node to the one picked, around the circle
    for drawn, last in enumerate(range(n - s, n)):
        step = random.integers(1, last, (rounds, n), endpoint=True)
        known = (steps[:, :, :drawn] == step[:, :, None]).any(axis=2)
        steps[:, :, drawn] = np.where(known, last, step)
    turn, node, _ = (place.ravel() for place in np.indices(steps.shape))
    return turn, node, (node + steps.ravel()) % n
