"""Whether a swarm can train a task: each thing that nodes will rely on, tried here first.

What is wrong with a task shows late on a node, in compiled code and far from its cause. So everything
is tried in the order in which it is built on: the parameters, the data, the loss and its gradient, the
metrics, and at last some steps as a node takes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax

from p2pnode.errors import UserError
from p2pnode.learning import checks, registry
from p2pnode.learning.checks import BATCH
from p2pnode.learning.compress import float32
from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import Layout
from p2pnode.learning.learner import compiled
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.rules.average import average
from p2pnode.learning.task import Task

T = TypeVar("T")

STEPS = 30
"""Local steps that should show some learning."""

JUDGED = 2048
"""Rows by which the loss before and after those steps is judged."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or, where it is no `error`, that may be.

    Attributes:
        error: whether no swarm can train it as it is.
        what: is wrong, in one line.
        do: what to do about it.
        cause: what the task's code raised, if it did.
    """

    error: bool
    what: str
    do: str
    cause: BaseException | None = None


@dataclass(frozen=True)
class Report:
    """What was found out about a task.

    Attributes:
        findings: what is wrong; without an error in there, swarms can train it.
        layout: of its parameters, if they have one.
        rows: to train on and to test with, if there are any.
        losses: on the task's own training rows, before and after `STEPS` local steps.
    """

    findings: tuple[Finding, ...]
    layout: Layout | None
    rows: tuple[int, int] | None
    losses: tuple[float, float] | None

    @property
    def errors(self) -> list[Finding]:
        """The findings with which no swarm can train it."""
        return [finding for finding in self.findings if finding.error]


@dataclass
class _Findings:
    found: list[Finding] = field(default_factory=list)

    def of(self, part: Callable[..., T], *needed: Any) -> T | None:
        """What a part of the check returns; None when it finds an error, or something it needs is missing."""
        if any(one is None for one in needed):
            return None
        try:
            return part(*needed)
        except checks.Wrong as wrong:
            self.found.append(Finding(True, *wrong.args))
        except UserError as error:
            self.found.append(Finding(True, str(error), "mend it there", error.__cause__))
        return None


def check(task: Task) -> Report:
    """Try everything that nodes need of `task`. Takes some seconds, most of them to compile."""
    findings = _Findings()
    layout = findings.of(checks.parameters, task)
    data = findings.of(checks.data, task)
    findings.of(checks.loss, task, layout, data)
    findings.of(checks.metrics, task, layout, data)
    findings.of(checks.predict, task, layout, data)
    losses = None
    if layout is not None and data is not None and not findings.found:
        losses = _learn(task, layout, data[0])
        if not losses[1] < losses[0]:
            what = (
                f"the loss on the task's own rows is {losses[0]:.4g}, and {losses[1]:.4g} after {STEPS} steps"
            )
            do = "look at the loss and its sign, or choose the swarm's --learning-rate with care"
            findings.found.append(Finding(False, what, do))
    rows = (len(data[0].y), len(data[1].y)) if data else None
    return Report(tuple(findings.found), layout, rows, losses)


def _learn(task: Task, layout: Layout, train: Dataset) -> tuple[float, float]:
    """The loss before and after some steps, as a node alone takes them."""
    optimizer = registry.OPTIMIZERS[registry.GENERIC["optimizer"]](registry.GENERIC["learning_rate"])
    learner = compiled(Recipe(task, layout, average(), float32(), optimizer, (), 0, BATCH))
    some = Dataset(train.x[:JUDGED], train.y[:JUDGED])
    state = learner.init(0)
    before = float(learner.evaluate(state, some)["loss"])
    state, _ = learner.steps(state, jax.device_put(train), STEPS)
    return before, float(learner.evaluate(learner.end_round(state), some)["loss"])
