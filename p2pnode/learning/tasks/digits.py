"""Handwritten digits: 1,797 images of 8x8 pixels, ten classes (UCI; see datasets/ATTRIBUTION.md)."""

from p2pnode.learning.data import Dataset, bundled, every_fifth
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import classifier


def digits(hidden: int) -> Task:
    """One hidden layer of `hidden` units."""
    return classifier("digits", (64, hidden, 10), load)


def load() -> tuple[Dataset, Dataset]:
    """Pixels flat and scaled to [0, 1]; 1,442 rows to train on and 355 to test with."""
    data = bundled("digits")
    return every_fifth(Dataset(data.x.reshape(-1, 64) / 16.0, data.y))
