"""A scenario: which swarms to simulate, as a TOML file that a person writes.

    name = "fashion-32"
    task = "fashion"
    nodes = 32
    local_steps = 2000
    seeds = [0, 1, 2]
    learning_rates = [0.1, 0.2, 0.4]

    [split]
    kind = "dirichlet"
    alpha = 0.1

    [[runs]]
    rule = "momentum"
    codec = ["float32", "int4"]
    steps = [5, 10]

Each of `runs` is one run or, where a value is a list, one for each combination. Every run is tried with
every learning rate on rows that are held out of all nodes' data; the best is then run with every seed.
What is left out has the default that stands here.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from p2pnode.errors import UserError
from p2pnode.identity.files import read_file
from p2pnode.identity.schema import Entry, Options, check, integer, number, one_of, read, text
from p2pnode.learning import registry
from p2pnode.learning.topology.table import TOPOLOGIES

LARGEST = 1 << 20  # bytes of a file
SERVER, WEIGHTED_SERVER, NOBODY, POOLED, NODES = "server", "weighted-server", "nobody", "pooled", "nodes"

T = TypeVar("T")


def _several(each: Entry) -> Entry:
    return Entry(
        each.meaning,
        f"a list, each {each.expected}",
        lambda v: isinstance(v, tuple) and len(v) > 0 and all(map(each.fits, v)),
    )


@dataclass(frozen=True)
class Split:
    """How the rows are dealt out."""

    kind: Annotated[
        str,
        one_of(
            ("even", "dirichlet", "labels", "clients"),
            "`even`: at random. `dirichlet`: each label in random shares, see alpha. `labels`: each node "
            "gets rows of `labels` labels only. `clients`: as the data came, by bank, person or speaker.",
        ),
    ] = "even"
    alpha: Annotated[float, number(0.01, 1e6, "Of `dirichlet`: 0.1 is very uneven, 100 hardly.")] = 0.3
    labels: Annotated[int, integer(1, 1000, "Of `labels`: how many different ones a node has.")] = 2


@dataclass(frozen=True)
class Clock:
    """How long things take."""

    step: Annotated[float, number(0, 1e6, "Seconds of a local step.")] = 0.001
    speeds: Annotated[
        float, number(1, 1000, "How many times slower the slowest node is; the others lie evenly between.")
    ] = 1.0
    latency: Annotated[float, number(0, 1e3, "Seconds one way between two nodes.")] = 0.0
    bandwidth: Annotated[float, number(1, 1e15, "Bytes a second between two nodes, each way.")] = 1e12
    slow: Annotated[float, number(0, 1, "Share of links that are slow.")] = 0.0
    factor: Annotated[float, number(1, 1e6, "How many times slower those are.")] = 20.0
    drop: Annotated[float, number(0, 1, "Share of exchanges that come to nothing.")] = 0.0
    away: Annotated[float, number(0, 0.99, "Share of rounds in which a node is away.")] = 0.0


@dataclass(frozen=True)
class Run:
    """One way to learn together."""

    rule: Annotated[str, text(1, 64, "How nodes average.")] = "momentum"
    rule_options: Annotated[Options, "Options of the rule; what is left out has its default."] = field(
        default_factory=dict
    )
    codec: Annotated[str, text(1, 64, "How parameters are written for the way.")] = "float32"
    topology: Annotated[
        str,
        text(
            1,
            64,
            "Who meets whom: `nodes` is what nodes do by themselves, on the clock; `server`, "
            "`weighted-server` (by rows), `nobody` and `pooled` (one node with all rows) are what they are "
            "compared with.",
        ),
    ] = "matching"
    topology_options: Annotated[Options, "Options of the topology."] = field(default_factory=dict)
    steps: Annotated[int, integer(1, 100_000, "Local steps in a round.")] = 10
    overlap: Annotated[int, integer(0, 2**31, "With `nodes`: local steps during an open exchange.")] = 0

    @property
    def label(self) -> str:
        """All that is not as usual, in one line."""
        usual = {f.name: f.default for f in fields(self)}
        parts = [self.rule, *_unusual(self.rule_options, registry.RULES.get(self.rule))]
        parts += [
            str(getattr(self, name)) for name in ("codec", "topology") if getattr(self, name) != usual[name]
        ]
        parts += _unusual(self.topology_options, TOPOLOGIES.get(self.topology))
        return " ".join([*parts, f"H={self.steps}", *([f"overlap={self.overlap}"] if self.overlap else [])])


def _unusual(options: Options, entry: registry.Entry | None) -> Iterator[str]:
    """Options that are not at their defaults."""
    for name, value in options.items():
        usual = entry.options.get(name) if entry else None
        if usual is None or value != usual.default:
            yield f"{name}={value}"


@dataclass(frozen=True)
class Scenario:
    """Swarms of one task and size, to be compared."""

    name: Annotated[str, text(1, 64, "What it is called; results are kept under this name.")]
    task: Annotated[str, text(1, 64, "What is learned.")]
    nodes: Annotated[int, integer(1, 100_000, "How many.")]
    local_steps: Annotated[int, integer(1, 10**7, "Of each node, in all.")]
    seeds: Annotated[tuple[int, ...], _several(integer(0, 2**31 - 1, "Of data, partners and batches."))] = (
        0,
    )
    learning_rates: Annotated[tuple[float, ...], _several(number(0, 1e3, "Tried for every run."))] = (0.1,)
    about: Annotated[str, text(0, 1000, "What it is to show.")] = ""
    metric: Annotated[
        str, text(1, 64, "Of the task's metrics the one that counts: more is better, but for `loss`.")
    ] = "accuracy"
    target: Annotated[
        float,
        number(-1e9, 1e9, "What the nodes' metric is to come to: how soon it does is reported. 0: nothing."),
    ] = 0.0
    optimizer: Annotated[str, text(1, 64, "Of the local steps.")] = "sgd"
    batch_size: Annotated[int, integer(1, 65536, "Rows in a local step.")] = 32
    looks: Annotated[int, integer(1, 10_000, "How often all nodes are evaluated.")] = 10
    validation: Annotated[
        float, number(0, 0.5, "Share of all rows that are kept for choosing the learning rate.")
    ] = 0.1
    task_options: Annotated[Options, "Options of the task; what is left out has its default."] = field(
        default_factory=dict
    )
    split: Annotated[Split, "How the rows are dealt out."] = Split()
    clock: Annotated[Clock, "How long things take."] = Clock()
    runs: tuple[Run, ...] = ()


def load(path: Path) -> Scenario:
    """The scenario in a file.

    Raises:
        UserError: it cannot be read, or something in it is wrong; the message names the key.
    """
    try:
        table = tomllib.loads(read_file(path, LARGEST).decode())
        runs = table.pop("runs", None)
        if not isinstance(runs, list) or not runs:
            raise UserError("runs: missing; write a table [[runs]] for each way to learn")
        made = tuple(run for index, one in enumerate(runs) for run in _combinations(one, f"runs[{index}]."))
        scenario = _read(Scenario, table)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    return Scenario(**{**{f.name: getattr(scenario, f.name) for f in fields(scenario)}, "runs": made})


def _combinations(table: Any, where: str) -> Iterator[Run]:
    if not isinstance(table, dict):
        raise UserError(f"{where.rstrip('.')}: expected a table")
    for combination in _products(table):
        yield _read(Run, combination, where)


def _products(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The table once for each choice from its lists, also those in tables in it."""
    choices = [
        list(_products(value)) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for value in table.values()
    ]
    for chosen in product(*choices):
        yield dict(zip(table, chosen, strict=True))


def _read(kind: type[T], table: Any, where: str = "") -> T:
    """Read a table in which what has a default may be missing, and look at every value."""
    found: T = read(kind, table, where, defaults=True)
    check(found, where)
    return found


def described(scenario: Scenario) -> dict[str, Any]:
    """The scenario without its runs, in values of JSON."""
    table = asdict(scenario)
    del table["runs"]
    return table
