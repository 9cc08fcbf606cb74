"""Schedules as data: who averages with whom, with which weight, in every round.

A round moves every node by weighted differences to its partners: x_i += sum_k w_ik (x_partner(i,k) - x_i).
That is x <- W x with a *mixing matrix* W whose rows sum to one. Where its columns do too (W is doubly
stochastic), the mean of all nodes stays what it was; W is, whenever both ends of an edge use the same
weight. Schedules are made in numpy before anything runs: the makers are in `topology/`.

A node that is dead in a round takes its edges with it, at both ends. An undirected schedule then still
conserves the mean; a directed one, whose nodes take the plain mean of their own value and what arrives,
does not: the receiver of a dead sender keeps its own.

How fast disagreement goes is read off W (Xiao and Boyd 2004; Boyd et al. 2006 for random W).
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = TypeVar("Floats", bound=np.floating[Any])
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Schedule:
    """Who averages with whom. The arrays are read-only.

    Attributes:
        partners: i32[rounds, n, K], whose values a node sees; an absent one is the node itself.
        weights: f32[rounds, n, K], zero where absent.
        present: bool[rounds, n, K].
        undirected: every edge is at both its ends with the same weight, so every W is symmetric.
        doubly_stochastic: rounds conserve the mean. Otherwise only the rows of W sum to one.
    """

    partners: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    undirected: bool = True
    doubly_stochastic: bool = True

    def __post_init__(self) -> None:
        """Nobody can change a schedule that others hold too."""
        for array in (self.partners, self.weights, self.present):
            array.flags.writeable = False


def directed(
    shape: tuple[int, int], turn: Integers, receiver: Integers, sender: Integers, doubly: bool = False
) -> Schedule:
    """Nodes take the mean of their own value and all that arrive.

    Args:
        shape: rounds and nodes.
        turn: round of each edge.
        receiver: of each edge.
        sender: of each edge.
        doubly: as many arrive at a node as leave it.
    """
    partners, present, _ = _slots(shape, turn, receiver, sender, np.zeros(len(turn)))
    return Schedule(partners, _mean(present), present, undirected=False, doubly_stochastic=doubly)


def undirected(
    shape: tuple[int, int],
    turn: Integers,
    one: Integers,
    other: Integers,
    weight: float | npt.NDArray[np.float64],
) -> Schedule:
    """Edges that are there for both ends, each given once.

    Args:
        shape: rounds and nodes.
        turn: round of each edge.
        one: an end of each edge.
        other: its other end.
        weight: of each edge, or of all.
    """
    weights = np.broadcast_to(weight, len(turn))
    both = (np.concatenate(ends) for ends in ((turn, turn), (one, other), (other, one), (weights, weights)))
    partners, present, placed = _slots(shape, *both)
    return Schedule(partners, placed, present)


def metropolis(n: int, one: Integers, other: Integers) -> Schedule:
    """One round over a graph with the weights 1 / (1 + larger degree) (Xiao, Boyd and Lall 2006)."""
    degree = np.bincount(np.concatenate([one, other]), minlength=n)
    weight = 1 / (1 + np.maximum(degree[one], degree[other]))
    return undirected((1, n), np.zeros(len(one), np.int64), one, other, weight)


def repeated(period: Schedule, rounds: int) -> Schedule:
    """`period` again and again, for `rounds` rounds."""
    turns = np.arange(rounds) % max(1, len(period.partners))

    def again(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(array) == 1:  # takes no memory
            return np.broadcast_to(array, (rounds, *array.shape[1:]))
        return array[turns]

    partners, weights, present = map(again, (period.partners, period.weights, period.present))
    return Schedule(partners, weights, present, period.undirected, period.doubly_stochastic)


def survived(schedule: Schedule, alive: npt.NDArray[np.bool_]) -> Schedule:
    """What is left of a schedule: an edge with a dead end is nothing, on both sides.

    Args:
        schedule: as planned.
        alive: bool[rounds, n].
    """
    turns = np.arange(len(alive))[:, None, None]
    present = schedule.present & alive[:, :, None] & alive[turns, schedule.partners]
    if schedule.undirected:
        weights = np.where(present, schedule.weights, np.float32(0))
        return Schedule(schedule.partners, weights, present)
    doubly = schedule.doubly_stochastic and bool((present == schedule.present).all())
    return Schedule(schedule.partners, _mean(present), present, undirected=False, doubly_stochastic=doubly)


def averaged(schedule: Schedule, values: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """What becomes of `values`, float[n, ...], in all rounds, in their own precision."""
    weights = schedule.weights.astype(values.dtype)
    weights = weights.reshape(*weights.shape, *[1] * (values.ndim - 1))
    for partners, weight in zip(schedule.partners, weights, strict=True):
        change = np.zeros_like(values)
        for k in range(partners.shape[1]):
            change += weight[:, k] * (values[partners[:, k]] - values)
        values = values + change
    return values


def mixing(schedule: Schedule, round: int) -> npt.NDArray[np.float64]:
    """W of one round, f64[n, n]: row i says what node i's next value is made of."""
    picked = (array[round][None] for array in (schedule.partners, schedule.weights, schedule.present))
    return averaged(Schedule(*picked), np.eye(schedule.partners.shape[1]))


def contraction(schedule: Schedule) -> float:
    """Share of the variance of independent random values that all rounds leave, on average.

    With C the centring I - 11'/n it is |C W_last ... W_first|^2 / (n - 1), Frobenius's norm. For pairs among
    an even number of nodes one round leaves exactly (n - 2) / (2 (n - 1)).
    """
    product = averaged(schedule, np.eye(schedule.partners.shape[1]))
    return float(np.sum((product - product.mean(axis=0)) ** 2) / (len(product) - 1))


def spectral_gap(matrix: npt.NDArray[np.float64]) -> float:
    """1 - s, where a round leaves at most s^2 of the variance, whatever the values.

    s is the largest *singular* value of C W, C = I - 11'/n. For a symmetric W that is the modulus of its
    second eigenvalue. A directed W has eigenvalues too, but those bound only what many repetitions do.
    """
    return 1 - float(np.linalg.norm(matrix - matrix.mean(axis=0), 2))


def _mean(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    arrived = present.sum(axis=2, keepdims=True)
    return np.where(present, 1 / (1 + arrived), 0).astype(np.float32)


def _slots(
    shape: tuple[int, int], turn: Integers, node: Integers, partner: Integers, weight: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Partners, present and weights: the edges of each node, one after the other in its K slots."""
    rounds, n = shape
    place = turn * n + node
    order = np.argsort(place, kind="stable")
    place = place[order]
    slot = np.arange(len(place)) - np.searchsorted(place, place)
    k = int(slot.max(initial=0)) + 1
    partners = np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (rounds, n, k)).reshape(-1, k).copy()
    weights, present = np.zeros(partners.shape, np.float32), np.zeros(partners.shape, np.bool_)
    partners[place, slot], weights[place, slot], present[place, slot] = partner[order], weight[order], True
    return partners.reshape(rounds, n, k), present.reshape(rounds, n, k), weights.reshape(rounds, n, k)
