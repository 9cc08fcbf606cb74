"""What is learned: a model, its loss, its metrics and its data, as plain functions.

A task is a record of functions, so that any JAX library's model fits: an Equinox module, Flax
variables or nested dicts are all pytrees of arrays, and nothing here looks inside them. (Parts of a
model that are no arrays, such as activations, belong into the functions' closure.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from p2pnode.learning.data import Dataset
from p2pnode.learning.schema import Schema

Params = Any
"""A pytree of arrays: a model's parameters."""


def every_float(params: Params) -> Any:
    """The usual choice of what is shared: every floating-point leaf.

    Returns:
        A pytree of bool, shaped like `params`.
    """
    return jax.tree.map(lambda leaf: bool(jnp.issubdtype(leaf.dtype, jnp.floating)), params)


@dataclass(frozen=True)
class Task:
    """What is learned. Every function but `load` is pure and is compiled by JAX.

    Attributes:
        name: for people; not part of the layout digest.
        init: `(key) -> params`.
        loss: `(params, batch, key) -> scalar`: the mean over the batch; `key` is for dropout and the like.
        metrics: `(params, batch) -> {name: scalar}`, means over the batch, `loss` among them.
        load: `() -> (train, test)`: all rows there are to train on, and the common test set. The
            same on every node and every machine.
        shared: `(params) -> pytree of bool`: what travels. The rest stays private: it is trained
            and checkpointed, never sent.
        predict: `(params, x: f32[rows, features...]) -> f32[rows, classes]`: each class's probability;
            None where the task is no classification.
        schema: how rows come from a person's table; None where they come as arrays.
        clients: `() -> [(train, test), ...]`: the rows of each of those whom the data come from, such as
            banks or people; None where nobody knows. As `load`, the same everywhere.
    """

    name: str
    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, Dataset, jax.Array], jax.Array]
    metrics: Callable[[Params, Dataset], dict[str, jax.Array]]
    load: Callable[[], tuple[Dataset, Dataset]]
    shared: Callable[[Params], Any] = every_float
    predict: Callable[[Params, jax.Array], jax.Array] | None = None
    schema: Schema | None = None
    clients: Callable[[], Sequence[tuple[Dataset, Dataset]]] | None = None
