"""Breast cancer Wisconsin: 569 tumours, 30 measures of cell nuclei, benign or malignant.

From UCI; see datasets/ATTRIBUTION.md.
"""

from p2pnode.learning.data import Dataset, bundled, every_fifth
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import auc, classifier


def breast_cancer(hidden: int) -> Task:
    """One hidden layer of `hidden` units."""
    return classifier("breast-cancer", (30, hidden, 2), load, lambda logits, y: {"auc": auc(logits, y)})


def load() -> tuple[Dataset, Dataset]:
    """Measures standardized with the training pool's means and deviations."""
    train, test = every_fifth(bundled("wdbc"))
    mean, deviation = train.x.mean(axis=0), train.x.std(axis=0)
    return Dataset((train.x - mean) / deviation, train.y), Dataset((test.x - mean) / deviation, test.y)
