"""Small fully connected classifiers: enough for the data sets that ship, fast on any CPU."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from p2pnode.learning.data import Dataset
from p2pnode.learning.task import Params, Task

Metrics = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
"""`(logits f32[rows, classes], y i32[rows]) -> {name: scalar}`."""


def classifier(
    name: str,
    widths: Sequence[int],
    load: Callable[[], tuple[Dataset, Dataset]],
    extra: Metrics = lambda logits, y: {},
) -> Task:
    """A classifier with ReLU layers and softmax cross-entropy.

    Args:
        name: the task's.
        widths: features, hidden widths, classes.
        load: as in `Task`.
        extra: metrics besides accuracy and loss.
    """

    def loss(params: Params, batch: Dataset, key: jax.Array) -> jax.Array:
        return cross_entropy(logits_of(params, batch.x), batch.y)

    def metrics(params: Params, batch: Dataset) -> dict[str, jax.Array]:
        logits = logits_of(params, batch.x)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == batch.y)
        return {"accuracy": accuracy, "loss": cross_entropy(logits, batch.y)} | extra(logits, batch.y)

    def predict(params: Params, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits_of(params, x))

    return Task(name, lambda key: init(widths, key), loss, metrics, load, predict=predict)


def init(widths: Sequence[int], key: jax.Array) -> Params:
    """Layers `{"weights": f32[in, out], "biases": f32[out]}`, He-uniform (He et al. 2015).

    All weights are drawn at once: each further draw takes a fifth of a second to compile.
    """
    shapes = list(pairwise(widths))
    drawn = jax.random.uniform(key, (sum(math.prod(shape) for shape in shapes),), minval=-1.0)
    layers = []
    for shape in shapes:
        weights, drawn = jnp.split(drawn, [math.prod(shape)])
        weights = (6.0 / shape[0]) ** 0.5 * weights.reshape(shape)
        layers.append({"weights": weights, "biases": jnp.zeros(shape[1])})
    return layers


def logits_of(params: Params, x: jax.Array) -> jax.Array:
    """f32[rows, classes] for x: f32[rows, features...]."""
    logits = x.reshape(len(x), -1)
    for index, layer in enumerate(params):
        values = jax.nn.relu(logits) if index else logits
        logits = values @ layer["weights"] + layer["biases"][None]
    return logits


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Mean over the rows."""
    chances = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(chances, y[:, None], axis=1))


def auc(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Chance that a row of class 1 scores above one of class 0, ties half; 0.5 where a class is missing.

    Of all ranks that rows of class 1 could have, how far up they are (Mann and Whitney 1947): comparing
    each row with each other one would take a hundred times as long for the 8,192 that are judged at once.
    """
    score = logits[:, 1] - logits[:, 0]
    order = jnp.sort(score)
    below, upto = (jnp.searchsorted(order, score, side=side) for side in ("left", "right"))
    rank = 0.5 * (below + upto + 1).astype(jnp.float32)
    ones, zeros = (jnp.sum(y == label).astype(jnp.float32) for label in (1, 0))
    wins = jnp.sum(jnp.where(y == 1, rank, 0.0)) - 0.5 * ones * (ones + 1.0)
    return jnp.where(ones * zeros > 0.0, wins / jnp.maximum(ones * zeros, 1.0), 0.5)
