"""A trained model by itself: what it says of rows, and how good that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import Layout, layout_of
from p2pnode.learning.learner import EVALUATED, Learner
from p2pnode.learning.task import Params, Task

ROWS = 1024
"""Rows predicted at once. The last ones are filled up to as many, since each number is compiled anew."""


@dataclass(frozen=True)
class Model:
    """A task and parameters for it.

    Attributes:
        task: what was learned.
        layout: of its parameters.
        params: all of them, private ones too.
    """

    task: Task
    layout: Layout
    params: Params

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The parameters by name."""
        leaves = jax.tree.leaves(self.params)
        return {name: np.asarray(leaf) for name, leaf in zip(self.layout.names, leaves, strict=True)}

    def probabilities(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Of each class, f32[rows, classes], for x f32[rows, features...]. Only for a classification."""
        parts = []
        for first in range(0, len(x), ROWS):
            part = x[first : first + ROWS]
            filled = np.zeros((ROWS, *x.shape[1:]), np.float32)
            filled[: len(part)] = part
            parts.append(np.asarray(self._predict(self.params, filled))[: len(part)])
        return np.concatenate(parts)

    def score(self, data: Dataset) -> dict[str, float]:
        """The metrics on `data`: for a classification over all rows at once, else means over parts."""
        if self.task.predict is None:
            return self._judge(data)
        chances = self.probabilities(data.x).astype(np.float64)
        right = chances[np.arange(len(chances)), data.y]
        found = {
            "accuracy": float(np.mean(chances.argmax(axis=1) == data.y)),
            "loss": float(-np.log(np.maximum(right, _SMALLEST)).mean()),
        }
        if chances.shape[1] == 2:
            odds = np.log(np.maximum(chances, _SMALLEST))
            found["auc"] = auc(odds[:, 1] - odds[:, 0], data.y)
        return found

    def _judge(self, data: Dataset) -> dict[str, float]:
        total: dict[str, float] = {}
        metrics = jax.jit(self.task.metrics)
        for first in range(0, len(data.y), EVALUATED):
            part = Dataset(data.x[first : first + EVALUATED], data.y[first : first + EVALUATED])
            for name, value in metrics(self.params, part).items():
                total[name] = total.get(name, 0.0) + float(value) * len(part.y) / len(data.y)
        return total

    @cached_property
    def _predict(self) -> Any:
        assert self.task.predict is not None
        return jax.jit(self.task.predict)


_SMALLEST = float(np.finfo(np.float32).tiny)


def auc(scores: npt.NDArray[np.float64], y: npt.NDArray[np.int32]) -> float:
    """Chance that a row of class 1 scores above one of class 0, ties half; nan where a class is missing."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    ones = int((y == 1).sum())
    pairs = ones * (len(y) - ones)
    return float((rank[y == 1].sum() - ones * (ones + 1) / 2) / pairs) if pairs else float("nan")


def of_checkpoint(learner: Learner, saved: Mapping[str, npt.NDArray[Any]], settled: bool) -> Model:
    """What a node shows as its model, of a checkpoint's arrays.

    Raises:
        ValueError: they belong to another learner.
    """
    learner = learner.settle()[0] if settled else learner
    state = learner.unpack({name: array for name, array in saved.items() if name not in ("round", "taken")})
    layout = layout_of(learner.task)
    return Model(learner.task, layout, layout.join(learner.view(state), state.private))


def of_arrays(task: Task, arrays: Mapping[str, npt.NDArray[Any]]) -> Model:
    """The model whose `arrays()` these are.

    Raises:
        ValueError: they belong to another task.
    """
    layout = layout_of(task)
    for name, leaf in zip(layout.names, layout.leaves, strict=True):
        if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{name} is missing or of another shape")
    return Model(task, layout, jax.tree.unflatten(layout.tree, [arrays[name] for name in layout.names]))
