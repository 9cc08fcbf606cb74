"""One compiled learner for all nodes of all rehearsals, which tells what each exchange moved."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from p2pnode.identity.manifest import Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
from p2pnode.learning import registry
from p2pnode.learning.compress import Arrays
from p2pnode.learning.data import Dataset, take
from p2pnode.learning.learner import Learner, State
from p2pnode.learning.task import Task
from p2pnode.rehearsal.invariants import Moved
from p2pnode.rehearsal.scenario import Learning, Scenario
from p2pnode.world import Rows

TESTED = 100
"""Rows of the test set that every node is measured on."""

FOREVER = 2**31 - 1
"""Rounds of a scenario that ends by the clock."""


def manifest_of(scenario: Scenario) -> Manifest:
    """What the nodes agree on."""
    made = _manifest(scenario.learning)
    return replace(
        made,
        name=scenario.name,
        training=replace(made.training, rounds=scenario.rounds or FOREVER),
        bounds=Bounds(parameters=2**20, peers=scenario.view),
    )


def _manifest(learning: Learning) -> Manifest:
    usual = registry.defaults("digits", learning.rule)["rule_options"]
    return Manifest(
        version=1,
        name="rehearsal",
        task=TaskSpec("digits", {"hidden": learning.hidden}),
        rule=RuleSpec(learning.rule, learning.codec, usual),
        training=Training(
            seed=0,
            optimizer="sgd",
            learning_rate=learning.rate,
            batch_size=8,
            steps=learning.steps,
            rounds=1,
            overlap=0,
        ),
        admission=Admission(),
        bounds=Bounds(parameters=2**20, peers=64),
    )


@cache
def _built(learning: Learning) -> Learner:
    """Compiled once in a process; neither its name nor its number of rounds is known to a learner."""
    built = registry.build(_manifest(learning))
    task = replace(built.task, load=cache(built.task.load))
    return replace(built, task=task, settle=cache(built.settle))


def shared(learning: Learning, moved: Callable[[Moved], None]) -> Learner:
    """One learner for all nodes, which tells what each merge moved: f64[n]."""
    return _telling(_built(learning), moved)


def _telling(learner: Learner, moved: Callable[[Moved], None]) -> Learner:
    def merge(state: State, own: Sequence[Arrays], partner: Sequence[Arrays], weight: float) -> State:
        before = np.array(state.params, np.float64)  # a copy: `merge` spends the state
        merged = learner.merge(state, own, partner, weight)
        moved(np.asarray(merged.params, np.float64) - before)
        return merged

    def settle() -> tuple[Learner, Callable[[State], State]]:
        exact, convert = learner.settle()
        return _telling(exact, moved), convert

    return replace(learner, merge=merge, settle=cache(settle))


def rows_of(index: int, learning: Learning) -> Callable[[Manifest, Task], Rows]:
    """Some rows of a few labels only, other labels and other rows on each node; the same in every run."""

    def load(_: Manifest, task: Task) -> Rows:
        pool, test = task.load()
        classes = int(pool.y.max()) + 1
        fit = np.flatnonzero((pool.y + 2 * index) % classes < learning.labels)
        mine = np.random.default_rng(index).permutation(fit)[: learning.rows]
        return Rows(take(pool, np.sort(mine)), {"test": _few(test)})

    return load


def _few(test: Dataset) -> Dataset:
    return take(test, np.arange(TESTED))
