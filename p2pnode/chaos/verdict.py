"""What must hold whatever is done to a swarm, and what of it did not."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from p2pnode.chaos.diary import Diary, Done
from p2pnode.chaos.run import Outcome, State
from p2pnode.chaos.schedule import KINDS
from p2pnode.chaos.usage import Usage, bound
from p2pnode.errors import UserError
from p2pnode.observe.journal import read_journal
from p2pnode.storage.checkpoint import load_checkpoint

MARGIN = 0.02
"""By how much accuracy, the mean over nodes, may be less than before the faults."""


def broken(outcome: Outcome) -> list[str]:
    """A line for each thing that should have held and did not; before the nodes' files are gone."""
    return [
        *dict.fromkeys(filter(None, [outcome.failure, *outcome.ends])),
        *tracebacks(outcome.stderr),
        *late(outcome.diary),
        *unsettled(outcome.diary),
        *(line for folder in outcome.folders for line in damaged(folder)),
        *(grown(outcome.before, outcome.after) if outcome.before and outcome.after else ()),
    ]


def tracebacks(stderr: str) -> Iterator[str]:
    """The last line of each."""
    for part in stderr.split("Traceback (most recent call last):")[1:]:
        ends = [line for line in part.splitlines() if line and not line.startswith((" ", "+"))]
        yield f"a traceback on stderr: {ends[0] if ends else part.strip()}"


def late(diary: Diary) -> Iterator[str]:
    """Faults after which nodes did not work again in time; who had the next one by then is excused."""
    for done in diary.done:
        within = KINDS[done.fault.kind].within
        due = [node for node in done.fault.nodes if diary.again(done, node) > done.ended + within]
        waits = [diary.returned(done, node) for node in due]
        slowest = max((wait for wait in waits if wait is not None), default=0.0)
        if None in waits:
            yield f"{named(done)} was over, and after {within:g} s they had not averaged again"
        elif slowest > within:
            took = f"{slowest:.0f} s to average again, not {within:g} s"
            yield f"{named(done)} was over, and they needed {took}"


def unsettled(diary: Diary) -> Iterator[str]:
    """Exchanges of which an end never learned the outcome, though nothing had happened to either."""
    for note in diary.unexplained():
        yield f"node {note.node + 1} never learned what became of an exchange, and no fault explains that"


def damaged(folder: Path) -> Iterator[str]:
    """What is not whole in a node's data directory."""
    for leftover in folder.rglob(".*.tmp"):
        yield f"{folder.name}: {leftover.name} was left behind"
    found = list[str]()
    try:
        newest = load_checkpoint(folder / "checkpoints")
        found += newest.skipped.values() if newest else ["no checkpoint"]
    except UserError as error:
        found.append(str(error))
    for _ in read_journal(folder / "events.jsonl", found.append):
        pass
    yield from (f"{folder.name}: {line}" for line in found)


def grown(before: State, after: State) -> Iterator[str]:
    """What got worse, or more than it may."""
    if after.accuracy < before.accuracy - MARGIN:
        yield f"accuracy fell from {before.accuracy:.3f} to {after.accuracy:.3f}"
    if before.usage:
        limit = bound(before.usage)
        for index, now in enumerate(after.usage):
            yield from (f"node {index + 1}: {line}" for line in excess(now, limit))


def excess(now: Usage, limit: Usage) -> Iterator[str]:
    """What a node takes more of than it may."""
    for one in fields(Usage):
        taken, most = getattr(now, one.name), getattr(limit, one.name)
        if taken > most:
            yield f"{taken} {one.name}, not {most} at most"


def named(done: Done) -> str:
    """A fault in a few words."""
    return f"{done.fault.kind} of node {numbers(done.fault.nodes)} at {done.fault.at:.0f} s"


def numbers(nodes: Sequence[int]) -> str:
    """As people count."""
    return ", ".join(str(node + 1) for node in nodes)
