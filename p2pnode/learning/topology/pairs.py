"""Random pairs: every node averages with one other, anew each round.

A round halves the disagreement: with an even number n of nodes it leaves (n - 2) / (2 (n - 1)) of the
variance on average (Boyd et al. 2006, "Randomized gossip algorithms", is the theory of one pair at a time).
In a swarm the pairs follow from what all members know, members, round and seed, so that nobody needs
to ask: the way of NoLoCo's code (arXiv:2506.10911).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p2pnode.learning.schedule import Schedule, undirected


def matching(members: Sequence[str], round: int, seed: bytes | int) -> dict[str, str]:
    """Random pairs from a shared seed.

    Args:
        members: names of all who take part; their order is of no matter.
        round: another round gives other pairs.
        seed: what all members know, e.g. the swarm id.

    Returns:
        Each member's partner, both ways. With an odd number one member is left out.
    """
    salt = (seed if isinstance(seed, bytes) else str(seed).encode()) + b"/%d/" % round
    order = sorted(members, key=lambda member: hashlib.sha256(salt + member.encode()).digest())
    pairs = list(zip(order[::2], order[1::2], strict=False))
    return dict(pairs) | {right: left for left, right in pairs}


def shared_pairs(
    members: Sequence[str], rounds: int, seed: bytes | int, alive: npt.NDArray[np.bool_] | None = None
) -> Schedule:
    """The pairs that nodes find with `matching`, in rounds 0, 1, ...

    Args:
        members: their names.
        rounds: how many.
        seed: as for `matching`.
        alive: bool[rounds, n], who is a member in each round; left away, all.
    """
    place = {member: i for i, member in enumerate(members)}
    edges = [
        (turn, place[one], place[other])
        for turn in range(rounds)
        for one, other in matching(_living(members, alive, turn), turn, seed).items()
        if one < other
    ]
    turn, one, other = np.array(edges, np.int64).reshape(-1, 3).T
    return undirected((rounds, len(members)), turn, one, other, 1 / 2)


def random_pairs(n: int, rounds: int, seed: int, alive: npt.NDArray[np.bool_] | None = None) -> Schedule:
    """Uniformly random pairs of all who are alive; with an odd number one rests (Boyd et al. 2006).

    Args:
        n: nodes.
        rounds: how many.
        seed: of the draw.
        alive: bool[rounds, n]; left away, all.
    """
    alive = np.ones((rounds, n), np.bool_) if alive is None else alive
    drawn = np.random.default_rng(seed).random((rounds, n))
    order = np.argsort(np.where(alive, drawn, 2), axis=1)  # the dead come last
    ends = order[:, : n - n % 2].reshape(rounds, n // 2, 2)
    turn, pair = np.nonzero(2 * np.arange(n // 2) + 1 < alive.sum(axis=1, keepdims=True))
    one, other = ends[turn, pair].T
    return undirected((rounds, n), turn, one, other, 1 / 2)


def _living(members: Sequence[str], alive: npt.NDArray[np.bool_] | None, turn: int) -> Sequence[str]:
    return members if alive is None else [members[i] for i in np.flatnonzero(alive[turn]).tolist()]
