"""What happens to a swarm, and when: a TOML file that a person writes.

    name = "half"
    nodes = 6
    rounds = 40
    pace = 10

    [link]
    latency = 0.05

    [[event]]
    at = 60
    do = "partition"
    groups = [[0, 1, 2], [3, 4, 5]]

    [[event]]
    at = 180
    do = "heal"

    [expect]
    settled = 6

What is left out has the default that stands here. Nodes are numbered from 0, and all times are virtual
seconds since the start.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from p2pnode.errors import UserError
from p2pnode.identity.files import read_file
from p2pnode.identity.schema import Entry, check, integer, number, one_of, read, text

LARGEST = 1 << 20  # bytes of a file
MOST_NODES = 10_000
LONGEST = 1e7  # seconds

T = TypeVar("T")


def _is_node(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_NODES


def _are_nodes(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_node, value))


def _nodes(meaning: str) -> Entry:
    return Entry(meaning, f"a list of numbers from 0 to {MOST_NODES - 1}", _are_nodes)


_GROUPS = Entry(
    "Of `partition`: nodes that still reach each other; those named nowhere form one more group.",
    "a list of lists of nodes",
    lambda v: isinstance(v, tuple) and all(map(_are_nodes, v)),
)


@dataclass(frozen=True)
class Way:
    """What the network between two nodes is like, in one direction."""

    latency: Annotated[float, number(0, 60, "Seconds.")] = 0.02
    jitter: Annotated[float, number(0, 60, "Up to so many seconds more.")] = 0.0
    bandwidth: Annotated[float, number(1, 1e12, "Bytes a second.")] = 1e12
    loss: Annotated[float, number(0, 0.9, "Share of segments that must be sent again.")] = 0.0


@dataclass(frozen=True)
class Learning:
    """What is learned, from what. All nodes share one compiled learner."""

    hidden: Annotated[int, integer(1, 1024, "Units of the model for handwritten digits.")] = 16
    rule: Annotated[str, text(1, 64, "How nodes average.")] = "average"
    codec: Annotated[str, text(1, 64, "How parameters are written for the way.")] = "float32"
    steps: Annotated[int, integer(0, 1000, "Local steps in a round.")] = 10
    rate: Annotated[float, number(0, 10, "Of learning; 0 learns nothing.")] = 0.3
    rows: Annotated[int, integer(8, 1000, "That each node has.")] = 100
    labels: Annotated[
        int, integer(1, 10, "Different digits among them: the next node has others, two further on.")
    ] = 6


@dataclass(frozen=True)
class Expect:
    """How it must end."""

    settled: Annotated[int, integer(0, MOST_NODES, "Nodes that reach the swarm's final model.")] = 0
    together: Annotated[
        int, integer(0, MOST_NODES, "Nodes that each such model contains, at least; 0: as many as settle.")
    ] = 0
    accuracy: Annotated[float, number(0, 1, "Of each such model on the test set, at least.")] = 0.0
    learned: Annotated[
        float, number(0, 1, "That the nodes reach in the mean, and it is told when; 0: not looked at.")
    ] = 0.0
    steady: Annotated[
        float,
        number(0, 10_000, "Hours from which on nodes may not take more of anything; 0: not looked at."),
    ] = 0.0
    happened: Annotated[
        tuple[str, ...],
        Entry(
            "Kinds of events that some node must have told, e.g. CaughtUp.",
            "a list of names",
            lambda v: isinstance(v, tuple) and all(isinstance(name, str) for name in v),
        ),
    ] = ()


KINDS: Mapping[str, tuple[str, ...]] = {
    "kill": ("nodes",),
    "leave": ("nodes",),
    "start": ("nodes",),
    "restart": ("nodes", "seconds"),
    "churn": ("rate", "seconds", "away", "orderly"),
    "twin": ("nodes",),
    "freeze": ("nodes", "seconds"),
    "thaw": ("nodes",),
    "clock": ("nodes", "seconds"),
    "partition": ("groups", "seconds"),
    "heal": (),
    "cut": ("source", "target", "seconds"),
    "mend": ("source", "target"),
    "link": ("source", "target", "way"),
    "directory-down": ("seconds",),
    "directory-up": (),
}
"""What can be done, and the keys that say how."""


@dataclass(frozen=True)
class Incident:
    """Something that is done to the swarm."""

    at: Annotated[float, number(0, LONGEST, "When.")]
    do: Annotated[
        str,
        one_of(
            tuple(KINDS),
            "`kill`: without a word. `leave`: in good order. `start`: for the first time, or again with the "
            "same key and files. `restart`: killed, and started again after `seconds`. `churn`: nodes by "
            "chance are killed and come back. `twin`: another node with the same key. `freeze`: nothing "
            "moves in the node, nor from or to it, and nothing is closed; until `thaw`, or for `seconds`. "
            "`clock`: the node's wall clock jumps by `seconds`. `partition`, until `heal` or for `seconds`. "
            "`cut`: nothing gets from `source` to `target`, until `mend` or for `seconds`. `link`: the way "
            "from `source` to `target` becomes another. `directory-down`: lookups find nothing, until "
            "`directory-up` or for `seconds`.",
        ),
    ]
    nodes: Annotated[tuple[int, ...], _nodes("To whom; empty for all that are there at first.")] = ()
    groups: Annotated[tuple[Any, ...], _GROUPS] = ()
    source: Annotated[tuple[int, ...], _nodes("Who sends; empty for all.")] = ()
    target: Annotated[tuple[int, ...], _nodes("Who receives; empty for all.")] = ()
    seconds: Annotated[float, number(-LONGEST, LONGEST, "How long, or of `clock` how far.")] = 0.0
    rate: Annotated[float, number(0, 100, "Of `churn`: share of all nodes that go in an hour.")] = 0.0
    away: Annotated[float, number(0, LONGEST, "Of `churn`: seconds until a node is back.")] = 60.0
    orderly: Annotated[
        bool, Entry("Of `churn`: whether they leave in good order.", "a truth value", lambda v: v in (0, 1))
    ] = False
    way: Annotated[Way, "Of `link`: what it becomes."] = Way()


@dataclass(frozen=True)
class Scenario:
    """A swarm, and what happens to it."""

    name: Annotated[str, text(1, 64, "What it is called.")]
    nodes: Annotated[int, integer(1, MOST_NODES, "That are there at first.")]
    about: Annotated[str, text(0, 1000, "What it is to show.")] = ""
    rounds: Annotated[int, integer(0, 10**7, "Of each node; 0: until `hours` are over.")] = 0
    hours: Annotated[float, number(0, 10_000, "After which all are told to stop; 0: never.")] = 0.0
    pace: Annotated[float, number(0, 1e5, "Seconds that the steps of a round take.")] = 5.0
    uneven: Annotated[float, number(0, 0.9, "Share by which that may be more or less, by chance.")] = 0.1
    compute: Annotated[float, number(0, 100, "Seconds that any other computation takes.")] = 0.01
    hello: Annotated[float, number(0.1, 1e4, "Seconds between hellos, as in a node's config.")] = 5.0
    lookup: Annotated[float, number(0.1, 1e4, "Seconds between lookups in the directory at most.")] = 10.0
    saving: Annotated[float, number(1, 1e6, "Seconds between checkpoints.")] = 60.0
    evaluate: Annotated[int, integer(0, 10**7, "Rounds between two evaluations; 0: only the last.")] = 0
    view: Annotated[int, integer(1, 4096, "Peers in view at most.")] = 64
    look: Annotated[float, number(0.1, 1e5, "Seconds between two looks at what must always hold.")] = 5.0
    grace: Annotated[float, number(0, 1e5, "Seconds a node has to find the others again.")] = 150.0
    limit: Annotated[float, number(0, LONGEST, "When all must have ended; 0: long after they should.")] = 0.0
    learning: Annotated[Learning, "What is learned."] = Learning()
    link: Annotated[Way, "Between any two nodes."] = Way()
    expect: Annotated[Expect, "How it must end."] = Expect()
    events: tuple[Incident, ...] = ()

    @property
    def together(self) -> int:
        """Nodes that a final model must contain."""
        return self.expect.together or self.expect.settled

    @property
    def end(self) -> float:
        """When all must have ended."""
        last = max((incident.at + max(incident.seconds, 0.0) for incident in self.events), default=0.0)
        return self.limit or 3 * max(last, self.hours * 3600, self.rounds * self.pace) + 900


def load(path: Path) -> Scenario:
    """The scenario in a file.

    Raises:
        UserError: it cannot be read, or something in it is wrong; the message names the key.
    """
    data = read_file(path, LARGEST)
    try:
        return parse(tomllib.loads(data.decode()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error


def parse(table: dict[str, Any]) -> Scenario:
    """The scenario in a parsed file.

    Raises:
        UserError: something is wrong; the message names the key.
    """
    listed = table.pop("event", [])
    if not isinstance(listed, list):
        raise UserError("event: write a table [[event]] for each thing that happens")
    incidents = tuple(_incident(one, f"event[{index}].") for index, one in enumerate(listed))
    scenario = replace(_read(Scenario, table), events=incidents)
    if (scenario.rounds > 0) == (scenario.hours > 0):
        raise UserError("rounds, hours: one of the two must be more than 0, and only one")
    return scenario


def _incident(table: Any, where: str) -> Incident:
    incident = _read(Incident, table, where)
    for name in table:
        if name not in ("at", "do", *KINDS[incident.do]):
            taken = ", ".join(KINDS[incident.do]) or "nothing else"
            raise UserError(f'{where}{name}: "{incident.do}" takes {taken}')
    if incident.seconds < 0 and incident.do != "clock":
        raise UserError(f"{where}seconds: only a clock jumps back")
    return incident


def _read(kind: type[T], table: Any, where: str = "") -> T:
    """Read a table in which what has a default may be missing, and look at every value."""
    found: T = read(kind, table, where, defaults=True)
    check(found, where)
    return found
