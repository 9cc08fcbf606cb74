"""Task files for tests: a whole one, and the same with something changed in it."""

from pathlib import Path

WHOLE = """\
import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.data import Dataset
from p2pnode.learning.task import Task


def init(key):
    return {"body": jax.random.normal(key, (3, 2)), "head": jnp.zeros(2), "seen": jnp.int32(0)}


def scores(params, x):
    return x @ params["body"] + params["head"][None]


def entropy(params, batch):
    chances = jax.nn.log_softmax(scores(params, batch.x))
    return -jnp.mean(jnp.take_along_axis(chances, batch.y[:, None], axis=1))


def loss(params, batch, key):
    return entropy(params, batch)


def metrics(params, batch):
    return {"loss": entropy(params, batch)}


def load():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(np.int32)
    return Dataset(x[:150], y[:150]), Dataset(x[150:], y[150:])


def shared(params):
    return {"body": True, "head": False, "seen": False}


task = Task("lines", init, loss, metrics, load, shared)
"""


def write(folder: Path, old: str = "", new: str = "", name: str = "mymodel.py") -> str:
    """Put the file there, with `old` in it replaced by `new`; the file's path as text."""
    assert old in WHOLE
    path = folder / name
    path.write_text(WHOLE.replace(old, new) if old else WHOLE)
    return str(path)
