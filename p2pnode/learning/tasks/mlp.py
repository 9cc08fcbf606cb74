"""Small fully connected classifiers: enough for the data sets that ship, fast on any CPU."""

from collections.abc import Callable, Sequence

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
    """Layers `{"weights": f32[in, out], "biases": f32[out]}`, He-uniform (He et al. 2015)."""
    layers = []
    for index, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        limit = (6.0 / fan_in) ** 0.5
        weights = jax.random.uniform(
            jax.random.fold_in(key, index), (fan_in, fan_out), minval=-limit, maxval=limit
        )
        layers.append({"weights": weights, "biases": jnp.zeros(fan_out)})
    return layers


def logits_of(params: Params, x: jax.Array) -> jax.Array:
    """f32[rows, classes] for x: f32[rows, features...]."""
    x = x.reshape(len(x), -1)
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["weights"] + layer["biases"])
    return x @ params[-1]["weights"] + params[-1]["biases"]


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Mean over the rows."""
    chances = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(chances, y[:, None], axis=1))
