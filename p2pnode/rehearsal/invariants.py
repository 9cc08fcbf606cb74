"""What must hold at every moment, whatever happens to a swarm: pure functions of what can be seen of it.

Each yields a line for everything that is not as it must be.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pnode.ports import PeerId
from p2pnode.rehearsal.scenario import Scenario

TASKS = 24
"""Tasks that a node may have on its own account: nurseries, sources of peers, rounds, an exchange."""

TASKS_A_PEER = 6
"""And for each peer in its view: one that greets it, and the streams that either has opened to the other."""

ROUNDING = 1e-5
"""Of what an exchange moves, relative: both ends add the same difference to other parameters, in float32."""

Moved = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Glimpse:
    """What can be seen of one living node.

    Attributes:
        name: in the messages.
        peer: its peer id; twins have the same.
        view: whom it believes alive.
        tasks: how many it has.
        undisturbed: seconds in which nothing kept it from finding the others.
        stuck: seconds since its last round, of one that trains and could; else 0.
    """

    name: str
    peer: PeerId
    view: Collection[PeerId]
    tasks: int
    undisturbed: float
    stuck: float


def bounded(nodes: Collection[Glimpse], limit: int) -> Iterator[str]:
    """Views are no larger than the manifest allows, and nodes have no more tasks than peers explain."""
    for node in nodes:
        if len(node.view) > limit:
            yield f"{node.name} has {len(node.view)} peers in view, {limit} are allowed"
        if node.tasks > (most := TASKS + TASKS_A_PEER * max(len(node.view), 1)):
            yield f"{node.name} has {node.tasks} tasks with {len(node.view)} peers, {most} are enough"


def connected(nodes: Collection[Glimpse], grace: float) -> Iterator[str]:
    """From each node that had time for it all others can be reached over views, in either direction."""
    holders: dict[PeerId, list[str]] = {}
    for node in nodes:
        holders.setdefault(node.peer, []).append(node.name)
    ways: dict[str, set[str]] = {node.name: set() for node in nodes}
    for node in nodes:
        for other in (name for peer in node.view for name in holders.get(peer, ())):
            ways[node.name].add(other)
            ways[other].add(node.name)
    due = [node.name for node in nodes if node.undisturbed >= grace]
    reached = _reached(ways, due[0]) if due else set()
    if lost := [name for name in due if name not in reached]:
        yield f"no way over views leads from {due[0]} to {', '.join(lost[:8])}"


def _reached(ways: Mapping[str, Collection[str]], start: str) -> set[str]:
    reached, new = {start}, [start]
    while new:
        for other in ways[new.pop()]:
            if other not in reached:
                reached.add(other)
                new.append(other)
    return reached


def going_on(nodes: Collection[Glimpse], pace: float, longest: float) -> Iterator[str]:
    """Nobody's training waits for longer than one partner may take."""
    for node in nodes:
        if node.stuck > 2 * pace + longest:
            yield f"{node.name} has finished no round for {node.stuck:.0f} s"


def in_time(slowest: float, longest: float) -> Iterator[str]:
    """No exchange took more seconds than the longest deadline."""
    if slowest > longest:
        yield f"an exchange took {slowest:.1f} s, {longest:.1f} s are the most"


def conserved(exchange: str, one: Moved, other: Moved) -> Iterator[str]:
    """What one end of a completed exchange gained, the other has lost: f64[n] each."""
    size = float(np.abs(one).max(initial=0.0))
    if (error := float(np.abs(one + other).max(initial=0.0))) > ROUNDING * max(size, 1.0):
        yield f"exchange {exchange} changed the sum of its two ends by {error:.3g}"


def ended_well(
    scenario: Scenario,
    settled: Mapping[str, tuple[int, float]],
    learned: float | None,
    counts: Mapping[str, int],
) -> Iterator[str]:
    """Enough nodes settled, on models of enough nodes that are good enough; by name: (counted, accuracy).

    And on the way they `learned` enough, after so many seconds.
    """
    expect = scenario.expect
    if len(settled) < expect.settled:
        yield f"{len(settled)} nodes settled, {expect.settled} were expected"
    for name, (counted, accuracy) in settled.items():
        if counted < scenario.together:
            yield f"{name} settled on the mean of {counted} nodes, {scenario.together} were expected"
        if accuracy < expect.accuracy:
            yield f"{name} settled on an accuracy of {accuracy:.3f}, {expect.accuracy:g} was expected"
    if expect.learned and learned is None:
        yield f"nodes never had an accuracy of {expect.learned:g} in the mean"
    for kind in expect.happened:
        if not counts.get(kind):
            yield f"no node said {kind}"
