"""Learners for these tests: a tiny task with private leaves, and two nodes at work on it."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from p2pnode.learning.compress import CODECS
from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import layout_of
from p2pnode.learning.learner import Learner, State, compiled
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.registry import RULES
from p2pnode.learning.task import Task


def rows(seed: int, count: int = 40) -> Dataset:
    """Points on a line of the node's own, with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3)).astype(np.float32)
    return Dataset(x, (3 * x @ random.normal(size=3)).astype(np.int32))


def _init(key: jax.Array) -> dict[str, jax.Array]:
    return {
        "body": jax.random.normal(key, (3, 100)),
        "half": jnp.ones(5, jnp.bfloat16),
        "head": jnp.ones((100,)),
        "seen": jnp.int32(7),
    }


def _loss(params: dict[str, jax.Array], batch: Dataset, key: jax.Array) -> jax.Array:
    guess = batch.x @ params["body"] @ params["head"] / 10 + jnp.sum(params["half"]).astype(jnp.float32)
    return jnp.mean((guess - batch.y.astype(jnp.float32)) ** 2)


def toy_task() -> Task:
    """A linear model in two layers: the first is shared, the second and a counter are private."""
    return Task(
        name="toy",
        init=_init,
        loss=_loss,
        metrics=lambda params, batch: {"loss": _loss(params, batch, jax.random.key(0))},
        load=lambda: (rows(0), rows(1)),
        shared=lambda params: {"body": True, "half": True, "head": False, "seen": False},
    )


def recipe(rule: str = "average", codec: str = "float32", optimizer: str = "sgd", **options: Any) -> Recipe:
    """What a toy learner is made of."""
    task = toy_task()
    made = {"sgd": optax.sgd, "adam": optax.adam}[optimizer](0.01)
    options = {name: option.default for name, option in RULES[rule].options.items()} | options
    built = RULES[rule].build(**options)
    return Recipe(task, layout_of(task), built, CODECS[codec](), made, (rule, codec, options), 5, 8)


@cache
def toy(rule: str = "average", codec: str = "float32", optimizer: str = "sgd", **options: Any) -> Learner:
    """A compiled toy learner."""
    return compiled(recipe(rule, codec, optimizer, **options))


def after_steps(learner: Learner, node: int, count: int = 5) -> State:
    """A node's state after its first round's local steps."""
    state, _ = learner.steps(learner.init(node), rows(node), count)
    return learner.end_round(state)


def exchange(learner: Learner, left: State, right: State, weight: float = 0.5) -> tuple[State, State]:
    """Both ends average."""
    left, sent = learner.share(left, 0)
    right, answered = learner.share(right, 0)
    return learner.merge(left, sent, answered, weight), learner.merge(right, answered, sent, weight)
