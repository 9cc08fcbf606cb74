"""What a task must keep to, part by part; `check` goes through them in order.

Each function looks at one part and raises `Wrong` for the first thing that nodes would stumble over:
what is wrong, and what to do about it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import Layout, layout_of, leaf_name
from p2pnode.learning.own import first_line
from p2pnode.learning.task import Params, Task

BATCH = 32
"""Rows of a batch that is looked at."""


class Wrong(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what, do)


# --- parameters ---


def parameters(task: Task) -> Layout:
    """`init` and `shared`: arrays that can be averaged, the same on every node."""
    shapes = _traced("init", task.init, jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(shapes):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise Wrong(
                f"init: {leaf_name(path)} is {leaf.dtype}, which no checkpoint can hold",
                "keep jax.random.key_data(key) instead, or use the key that loss is given",
            )
    _flags(task, shapes)
    try:
        layout = layout_of(task)
    except ValueError as error:
        do = "let init return floating-point arrays, and shared pick those that travel"
        raise Wrong(str(error), do) from error
    one, other = (jax.tree.leaves(task.init(jax.random.key(0))) for _ in range(2))
    for name, first, second in zip(layout.names, one, other, strict=True):
        if not hasattr(first, "dtype"):
            raise Wrong(f"init: {name} is a plain {type(first).__name__}, no array", "use jnp.asarray")
        if not np.array_equal(np.asarray(first), np.asarray(second), equal_nan=True):
            raise Wrong(
                f"init: {name} is another one each time, though the key is the same",
                "draw all randomness from the key with jax.random: all nodes begin with the same parameters",
            )
    return layout


def _flags(task: Task, shapes: Params) -> None:
    flags = task.shared(shapes)
    found: object = jax.tree.structure(flags)
    if found != jax.tree.structure(shapes) or not all(
        isinstance(flag, bool | np.bool_) for flag in jax.tree.leaves(flags)
    ):
        raise Wrong(
            "shared: it must return True or False for each array of the parameters, in the same structure",
            "build it with jax.tree.map over the parameters, or leave it away to share every float",
        )


# --- data ---


def data(task: Task) -> tuple[Dataset, Dataset]:
    """`load`: two data sets of one kind, the same on every node."""
    match loaded := task.load():
        case (Dataset() as train, Dataset() as test):
            pass
        case _:
            raise Wrong(
                f"load: it returned {_described(loaded)}",
                "return two data sets, to train on and to test with: return Dataset(x, y), Dataset(x, y)",
            )
    for name, part in (("train", train), ("test", test)):
        _rows(name, part)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise Wrong(
            f"load: rows of x have shape {train.x.shape[1:]} to train on and {test.x.shape[1:]} to test with",
            "give both the same shape",
        )
    if not all(map(np.array_equal, (*train, *test), [values for part in task.load() for values in part])):
        raise Wrong(
            "load: it returns other rows each time",
            "leave randomness away, or seed it: each node cuts its share out of the same rows",
        )
    return train, test


def _rows(name: str, part: Dataset) -> None:
    """Hold one data set against what `Dataset` says of x and y."""
    x, y = np.asarray(part.x), np.asarray(part.y)
    where = f"load: {name}"
    if x.ndim < 2 or x.dtype != np.float32:
        raise Wrong(
            f"{where}.x is {_kind(x)}, expected float32[rows, features...]", "use x.astype(np.float32)"
        )
    if y.ndim != 1 or y.dtype != np.int32:
        raise Wrong(f"{where}.y is {_kind(y)}, expected int32[rows]", "use y.astype(np.int32)")
    if len(x) != len(y) or not len(y):
        raise Wrong(
            f"{where} has {len(x)} rows in x and {len(y)} in y", "give x and y one row for each sample"
        )
    if not np.isfinite(x).all():
        raise Wrong(f"{where}.x holds NaN or infinity", "remove those rows, or fill them in")
    if y.min() < 0:
        raise Wrong(f"{where}.y holds {y.min()}", "number the labels from 0 up")


# --- functions ---


def loss(task: Task, layout: Layout, data: tuple[Dataset, Dataset]) -> None:
    """`loss`: a finite scalar with a finite gradient, for any number of rows."""
    params, key = task.init(jax.random.key(0)), jax.random.key(1)
    for batch in _batches(data[0]):
        made = _traced("loss", task.loss, params, batch, key)
        if not (_is_scalar(made) and jnp.issubdtype(made.dtype, jnp.floating)):
            raise Wrong(
                f"loss: it returned {_described(made)}, expected one float",
                "return the mean over the batch, a scalar, and nothing beside it",
            )
    vector, private = layout.split(params)

    def of(vector: jax.Array) -> jax.Array:
        return task.loss(layout.join(vector, private), batch, key)

    try:
        loss, gradient = jax.jit(jax.value_and_grad(of))(vector)
    except (TypeError, ValueError) as error:  # as JAX says it, e.g. of a loop without a derivative
        raise Wrong(f"loss: no gradient: {first_line(error)}", "use what JAX can differentiate") from error
    if not jnp.isfinite(loss):
        raise Wrong(f"loss: it is {loss} on the first rows", "look for logarithms of 0 and divisions by 0")
    slopes = layout.join(gradient, private)
    for name, shared, slope in zip(layout.names, layout.shared, jax.tree.leaves(slopes), strict=True):
        if shared and not jnp.all(jnp.isfinite(slope)):
            raise Wrong(
                f"loss: its gradient by {name} is not finite on the first rows",
                "look for square roots, norms and divisions at 0: jnp.where does not hide their derivatives",
            )


def metrics(task: Task, layout: Layout, data: tuple[Dataset, Dataset]) -> None:
    """`metrics`: scalars by name, `loss` among them, for any number of rows."""
    params = jax.tree.unflatten(layout.tree, layout.leaves)
    for batch in _batches(data[1]):
        made = _traced("metrics", task.metrics, params, batch)
        if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
            raise Wrong(
                f"metrics: it returned {_described(made)}", 'return a dict: {"loss": ..., "accuracy": ...}'
            )
        for name, value in made.items():
            if not _is_scalar(value):
                raise Wrong(
                    f"metrics: {name} is {_described(value)}", "return the mean over the batch, a scalar"
                )
        if "loss" not in made:
            raise Wrong("metrics: there is no loss among them", "add it: nodes compare models by their loss")


def predict(task: Task, layout: Layout, data: tuple[Dataset, Dataset]) -> None:
    """`predict`, where there is one: each row's chances, one for each label."""
    if task.predict is None:
        return
    params = task.init(jax.random.key(0))
    classes = 0
    for batch in _batches(data[0]):
        made = _traced("predict", task.predict, params, batch.x)
        if len(getattr(made, "shape", ())) != 2 or len(made) != len(batch.x):
            raise Wrong(
                f"predict: it returned {_described(made)}, expected float32[{len(batch.x)}, classes]",
                "return a row of chances for each row of x",
            )
        classes = made.shape[1]
    sums = np.asarray(jax.jit(task.predict)(params, batch.x)).sum(axis=1)
    if not np.allclose(sums, 1.0, atol=1e-3):
        raise Wrong(
            f"predict: chances of a row add up to {sums[0]:.3g}, not to 1", "end it with jax.nn.softmax"
        )
    if classes <= (most := int(np.max(data[0].y))):
        raise Wrong(
            f"predict: it knows {classes} classes, y holds labels up to {most}",
            "return a chance for each label from 0 up",
        )


def _batches(data: Dataset) -> list[Dataset]:
    """One row, and as many as a step sees: a task must take both."""
    return [Dataset(jnp.asarray(data.x[:rows]), jnp.asarray(data.y[:rows])) for rows in (1, BATCH)]


# --- saying it ---


def _traced(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Shapes and dtypes of what `function` returns under JAX."""
    returned: list[Any] = []

    def remembered(*args: Any) -> Any:
        returned.append(function(*args))
        return returned[-1]

    try:
        return jax.eval_shape(remembered, *args)
    except TypeError as error:  # something in there is nothing that JAX knows
        leaves = jax.tree.leaves_with_path(returned[-1]) if returned else []
        for path, leaf in leaves:
            if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
                which = f"{leaf_name(path)} of what it returned is" if path else "it returned"
                raise Wrong(
                    f"{name}: {which} {type(leaf).__name__}, which is no array",
                    "return arrays, alone or in dicts and the like, and keep everything else out of them",
                ) from error
        raise


def _is_scalar(made: Any) -> bool:
    return getattr(made, "shape", None) == ()


def _described(made: Any) -> str:
    """A value or a tree of values in a few words."""
    if hasattr(made, "dtype"):
        return _kind(made)
    inside = [_described(leaf) for leaf in jax.tree.leaves(made)[:4] if leaf is not made]
    return f"{type(made).__name__}({', '.join(inside)})" if inside else type(made).__name__


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
