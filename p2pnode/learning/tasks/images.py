"""Whole image data sets, fetched by `scripts/fetch_data`: fashion-full, mnist, cifar10."""

from p2pnode.learning.data import fetched_arrays
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.fashion import split
from p2pnode.learning.tasks.mlp import classifier

PIXELS = {"fashion-full": 28 * 28, "mnist": 28 * 28, "cifar10": 32 * 32 * 3}
"""Numbers in one image of each."""


def images(name: str, hidden: int) -> Task:
    """One hidden layer of `hidden` units over the pixels, for one of `PIXELS`."""
    return classifier(name, (PIXELS[name], hidden, 10), lambda: split(fetched_arrays(name)))
