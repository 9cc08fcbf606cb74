"""Breast cancer Wisconsin: 569 tumours, 30 measures of cell nuclei, benign or malignant.

From UCI; see datasets/ATTRIBUTION.md.
"""

import jax
import jax.numpy as jnp

from p2pnode.learning.data import Dataset, bundled, every_fifth
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import classifier


def breast_cancer(hidden: int) -> Task:
    """One hidden layer of `hidden` units."""
    return classifier("breast-cancer", (30, hidden, 2), load, lambda logits, y: {"auc": auc(logits, y)})


def load() -> tuple[Dataset, Dataset]:
    """Measures standardized with the training pool's means and deviations."""
    train, test = every_fifth(bundled("wdbc"))
    mean, deviation = train.x.mean(axis=0), train.x.std(axis=0)
    return Dataset((train.x - mean) / deviation, train.y), Dataset((test.x - mean) / deviation, test.y)


def auc(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Chance that a row of class 1 scores above one of class 0; 0.5 where a class is missing."""
    score = logits[:, 1] - logits[:, 0]
    rival = (y[:, None] == 1) & (y[None, :] == 0)
    wins = jnp.where(rival, jnp.sign(score[:, None] - score[None, :]), 0.0)
    return 0.5 + 0.5 * jnp.sum(wins) / jnp.maximum(jnp.sum(rival), 1).astype(jnp.float32)
