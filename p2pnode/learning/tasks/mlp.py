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

    return Task(name, lambda key: init(widths, key), loss, metrics, load)


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
