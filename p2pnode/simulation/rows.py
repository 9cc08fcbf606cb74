"""Who holds which rows in a simulated swarm."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from p2pnode.errors import UserError
from p2pnode.learning.data import Dataset, Part, holdout, partition, take
from p2pnode.learning.task import Task
from p2pnode.simulation.scenario import Scenario


class Rows(NamedTuple):
    """The rows of one run.

    Attributes:
        parts: of all nodes, the pool and who has what of it.
        validation: rows of nobody, for choosing a learning rate.
        test: rows of nobody, for the results.
        own: where data came by client, the test rows of each; else nothing.
    """

    parts: Part
    validation: Dataset
    test: Dataset
    own: tuple[Dataset, ...] = ()


def deal(scenario: Scenario, task: Task, nodes: int, seed: int) -> Rows:
    """Deal a task's rows out, as the scenario says and the seed draws.

    Raises:
        UserError: there are too few, or the task's data do not come by client.
    """
    if scenario.split.kind == "clients":
        return _by_client(scenario, task, nodes, seed)
    train, test = task.load()
    pool, validation = _kept_back(train, scenario.validation, 0)
    parts = _parts(scenario, np.asarray(pool.y), nodes, seed) if nodes > 1 else [np.arange(len(pool.y))]
    return Rows(_stacked(pool, parts), validation, test)


def _parts(
    scenario: Scenario, labels: npt.NDArray[np.int32], nodes: int, seed: int
) -> list[npt.NDArray[np.int64]]:
    split = scenario.split
    least = max(1, min(8, len(labels) // (4 * nodes)))
    if split.kind == "labels":
        return _few_labels(labels, nodes, split.labels, seed)
    return partition(labels, nodes, split.alpha if split.kind == "dirichlet" else None, seed, least)


def _few_labels(
    labels: npt.NDArray[np.int32], nodes: int, each: int, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Rows sorted by label, cut into `each` times as many pieces as nodes (McMahan et al. 2017)."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    pieces = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], nodes * each)
    order = random.permutation(len(pieces))
    return [np.sort(np.concatenate([pieces[index] for index in own])) for own in np.array_split(order, nodes)]


def _by_client(scenario: Scenario, task: Task, nodes: int, seed: int) -> Rows:
    if task.clients is None:
        raise UserError(f"task {task.name} has no data by client: choose another kind of split")
    clients = task.clients()
    if len(clients) < nodes:
        raise UserError(f"task {task.name} has {len(clients)} clients, fewer than {nodes} nodes")
    trains, tests = [train for train, _ in clients], [test for _, test in clients]
    kept = [_kept_back(train, scenario.validation, seed) for train in trains]
    pool = _joined([train for train, _ in kept])
    ends = np.cumsum([len(train.y) for train, _ in kept])
    of_client = np.split(np.arange(ends[-1]), ends[:-1])
    parts = [np.concatenate(of_client[node::nodes]) for node in range(nodes)]
    own = tuple(_joined(tests[node::nodes]) for node in range(nodes)) if nodes > 1 else tuple(tests)
    return Rows(_stacked(pool, parts), _joined([own for _, own in kept]), task.load()[1], own)


def _kept_back(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """The rows to train on, and a share of all for validation; none of none."""
    return holdout(train, share, seed) if share else (train, take(train, np.arange(0)))


def _joined(parts: list[Dataset]) -> Dataset:
    return Dataset(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _stacked(pool: Dataset, parts: list[npt.NDArray[np.int64]]) -> Part:
    most = max(map(len, parts))
    rows = np.zeros((len(parts), most), np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return Part(pool, rows, np.array([len(part) for part in parts], np.uint32))
