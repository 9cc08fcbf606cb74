"""Waiting until the nodes of a cluster have come somewhere, or cannot come there any more."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from p2pnode.errors import UserError
from p2pnode.events import Event
from p2pnode.observe import live
from p2pnode.observe.stream import Stamped
from p2pnode.observe.tally import Tally


class NodeEnded(UserError):
    """A node that was waited for has ended, and is not where it should have come to."""


class Changes:
    """Lets tasks wait until something is true of state that others change."""

    def __init__(self) -> None:
        self._next = trio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._next.set()
        self._next = trio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Return as soon as `true()`; what it raises comes out here."""
        while not true():
            await self._next.wait()


class Walker(Protocol):
    """What is asked of a node that is waited for."""

    name: str
    tally: Tally

    @property
    def running(self) -> bool: ...

    @property
    def end(self) -> str:
        """How it ended, in words."""
        ...

    def recent(self) -> Sequence[Stamped]:
        """Its events since its last start."""
        ...


@dataclass(frozen=True)
class Goal:
    """What may be waited for; what is None is not.

    Attributes:
        round: finished, or a later one.
        accuracy: the latest, see `accuracy`.
        event: a kind of event, or a predicate of events; since the node's last start.
    """

    round: int | None = None
    accuracy: float | None = None
    event: type[Event] | Callable[[Event], bool] | None = None

    def reached(self, node: Walker) -> bool:
        """Whether `node` has come there."""
        return (
            (self.round is None or node.tally.round >= self.round)
            and (self.accuracy is None or accuracy(node.tally) >= self.accuracy)
            and (self.event is None or any(self._wanted(stamped.event) for stamped in node.recent()))
        )

    def _wanted(self, event: Event) -> bool:
        if isinstance(self.event, type):
            return isinstance(event, self.event)
        return self.event is not None and self.event(event)

    def __str__(self) -> str:
        parts = [
            f"round {self.round}" if self.round is not None else "",
            f"accuracy {self.accuracy}" if self.accuracy is not None else "",
            f"event {getattr(self.event, '__name__', self.event)}" if self.event is not None else "",
        ]
        return " and ".join(filter(None, parts))


async def arrive(
    nodes: Sequence[Walker],
    goal: Goal,
    rounds: int,
    changes: Changes,
    timeout: float | None,  # noqa: ASYNC109 - its error names who is late
) -> None:
    """Wait until every one of `nodes`, whose manifest has so many `rounds`, has reached `goal`.

    Raises:
        UserError: it lies behind the last round.
        NodeEnded: one of them has ended elsewhere.
        TimeoutError: after `timeout` seconds.
    """
    if goal.round is not None and goal.round > rounds:
        raise UserError(f"no node comes to round {goal.round}: the manifest ends with round {rounds}")

    def missing() -> list[Walker]:
        late = [node for node in nodes if not goal.reached(node)]
        for node in late:
            if not node.running:
                raise NodeEnded(f"{node.name} {node.end}; it was in round {node.tally.round}, not at {goal}")
        return late

    with trio.move_on_after(math.inf if timeout is None else timeout):
        return await changes.until(lambda: not missing())
    late = ", ".join(f"{node.name} (round {node.tally.round})" for node in missing())
    raise TimeoutError(f"not at {goal} after {timeout:g} s: {late}")


def accuracy(tally: Tally) -> float:
    """The latest: on the common test set or else the hold-out, of the settled model once there is one."""
    return live.accuracy(tally.settled or tally.metrics, None) or 0.0
