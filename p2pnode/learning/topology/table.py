"""The topologies that a scenario may name. The first line of each maker says what it is, and its source."""

from collections.abc import Callable, Mapping
from functools import wraps

from p2pnode.learning.registry import Entry, Number, Option, checked, known
from p2pnode.learning.schedule import Schedule, repeated
from p2pnode.learning.topology.graphs import complete, random_regular, ring, torus
from p2pnode.learning.topology.pairs import random_pairs, shared_pairs
from p2pnode.learning.topology.sampling import pull, push
from p2pnode.learning.topology.sequences import base, exponential, exponential_directed, hyper_hypercube


def _again(period: Callable[..., Schedule]) -> Callable[..., Schedule]:
    @wraps(period)
    def maker(n: int, rounds: int, seed: int, **options: Number) -> Schedule:
        return repeated(period(n, **options), rounds)

    return maker


def _matching(n: int, rounds: int, seed: int) -> Schedule:
    """Pairs that nodes work out alone from the members, the round and the seed (the way of NoLoCo's code)."""
    return shared_pairs([str(node) for node in range(n)], rounds, seed)


TOPOLOGIES: Mapping[str, Entry] = {
    "pairs": Entry(random_pairs, {}),
    "matching": Entry(_matching, {}),
    "exponential": Entry(_again(exponential), {}),
    "exponential-directed": Entry(_again(exponential_directed), {}),
    "hyper-hypercube": Entry(_again(hyper_hypercube), {"k": Option(1, 1, 64)}),
    "base": Entry(_again(base), {"k": Option(1, 1, 64)}),
    "ring": Entry(_again(ring), {}),
    "torus": Entry(_again(torus), {}),
    "random-regular": Entry(random_regular, {"degree": Option(4, 2, 64)}),
    "complete": Entry(_again(complete), {}),
    "push": Entry(push, {"s": Option(1, 1, 64)}),
    "pull": Entry(pull, {"s": Option(1, 1, 64)}),
}
"""Each `build(n, rounds, seed, **options)` makes a Schedule."""


def scheduled(name: str, n: int, rounds: int, seed: int, options: Mapping[str, Number]) -> Schedule:
    """The schedule that a scenario asks for.

    Args:
        name: one of TOPOLOGIES.
        n: nodes, at least 2.
        rounds: how many, at least 1.
        seed: of what is drawn.
        options: those that differ from their defaults.

    Raises:
        UserError: an unknown name or option, a value out of range, or no such topology of n nodes.
    """
    entry = known("topology", name, TOPOLOGIES)
    chosen = {option: it.default for option, it in entry.options.items()} | dict(options)
    schedule: Schedule = entry.build(n, rounds, seed, **checked(f"topology {name}", entry, chosen))
    return schedule
