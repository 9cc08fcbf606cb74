"""A small convolutional network on handwritten digits, as a p2pnode task (needs `pip install equinox`).

p2pnode task check digits_cnn.py
p2pnode swarm create digits.toml --task digits_cnn.py
p2pnode join digits.toml --task digits_cnn.py --shard 1/2
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from p2pnode.learning.data import Dataset, bundled, every_fifth
from p2pnode.learning.task import Task


class Net(eqx.Module):
    """An Equinox module whose only leaves are arrays is a pytree of arrays: it is its own parameters."""

    conv: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 8, kernel_size=3, key=first)
        self.out = eqx.nn.Linear(8 * 3 * 3, 10, key=second)

    def __call__(self, image):  # f32[1, 8, 8] -> f32[10]
        seen = jax.nn.relu(self.conv(image))  # f32[8, 6, 6]
        pooled = seen.reshape(8, 3, 2, 3, 2).max(axis=(2, 4))
        return self.out(pooled.ravel())


def cross_entropy(net, batch):
    chances = jax.nn.log_softmax(jax.vmap(net)(batch.x))
    return -jnp.mean(jnp.take_along_axis(chances, batch.y[:, None], axis=1))


def loss(net, batch, key):  # this model has no use for the key: no dropout
    return cross_entropy(net, batch)


def metrics(net, batch):
    guess = jnp.argmax(jax.vmap(net)(batch.x), axis=1)
    return {"loss": cross_entropy(net, batch), "accuracy": jnp.mean(guess == batch.y)}


def predict(net, x):
    return jax.nn.softmax(jax.vmap(net)(x))


def load():
    digits = bundled("digits")  # 1,797 images of 8x8 pixels from 0 to 16
    return every_fifth(Dataset(digits.x.reshape(-1, 1, 8, 8) / 16, digits.y))


task = Task("digits-cnn", init=Net, loss=loss, metrics=metrics, load=load, predict=predict)
