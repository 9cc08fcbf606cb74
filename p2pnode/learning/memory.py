"""Whether a model fits into this machine's memory, known before any of it is taken.

A model's sizes follow from its layout alone (`jax.eval_shape` computes shapes and nothing else), so a
manifest that asks for more than there is costs a line, not a machine that swaps or a killed process.
"""

import math
from typing import Any

import jax

from p2pnode.errors import UserError
from p2pnode.learning.device import devices
from p2pnode.learning.learner import Learner
from p2pnode.machine import free_memory


def needed(learner: Learner) -> float:
    """Bytes that a node holds at once for its model, about.

    Two states, since compiling runs on one of no importance beside the real one, and nine vectors on the
    way: what is sent and received (as float32, in the end), decoded, gradients, copies to and from the
    host. With 20 million parameters this says 1.4 GB, and the peak of two nodes that settled was 1.2 GB.
    """
    state = _bytes(jax.eval_shape(lambda: learner.init(0)))
    return 2 * state + 9 * 4 * learner.size


def check(learner: Learner, available: float) -> None:
    """Refuse a model that needs more than `available` bytes.

    Raises:
        UserError: it does.
    """
    if (need := needed(learner)) > available:
        raise UserError(
            f"task {learner.task.name} has {learner.size} shared parameters, for which a node needs about "
            f"{need / 1e9:.1f} GB, and {max(0.0, available) / 1e9:.1f} GB are free: make the model smaller, "
            "or use a machine with more memory"
        )


def available() -> float:
    """Bytes that a model may take where JAX computes: of the device, or else of this machine.

    Raises:
        UserError: JAX has no device.
    """
    stats = devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return free_memory()


def _bytes(shapes: Any) -> int:
    """Of a pytree of shapes and dtypes. Keys of random numbers count as nothing."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
