"""Fashion-MNIST: photographs of clothes, ten classes (Zalando, MIT; see datasets/ATTRIBUTION.md).

1,000 images of each class to train on and 200 to test with, averaged down to 14x14 pixels.
"""

import numpy as np

from p2pnode.learning.data import Dataset, bundled_arrays
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import classifier


def fashion(hidden: int) -> Task:
    """One hidden layer of `hidden` units."""
    return classifier("fashion", (196, hidden, 10), load)


def load() -> tuple[Dataset, Dataset]:
    """Pixels flat and scaled to [0, 1]."""
    return split(bundled_arrays("fashion"))


def split(arrays: dict[str, np.ndarray]) -> tuple[Dataset, Dataset]:
    """Training and test images as stored: x and xt, u8[rows, ...], with labels y and yt, u8[rows]."""

    def rows(x: np.ndarray, y: np.ndarray) -> Dataset:
        return Dataset(x.reshape(len(x), -1).astype(np.float32) / 255, y.astype(np.int32))

    return rows(arrays["x"], arrays["y"]), rows(arrays["xt"], arrays["yt"])
