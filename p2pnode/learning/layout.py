"""Which part of a model travels, and how: as one flat float32 vector.

A task says which leaves of its parameters are shared. Those are laid end to end in the pytree's
order; the others stay private. Both ends of an exchange must lay out the same things in the same way,
so they compare a digest of it before anything is sent.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from p2pnode.learning.device import devices
from p2pnode.learning.task import Params, Task


@dataclass(frozen=True)
class Layout:
    """How a task's parameters split into a shared vector and private leaves.

    Attributes:
        names: of all leaves, in the pytree's order.
        leaves: shape and dtype of each.
        shared: whether each travels.
        tree: the pytree's structure.
    """

    names: tuple[str, ...]
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    shared: tuple[bool, ...]
    tree: jax.tree_util.PyTreeDef

    @property
    def size(self) -> int:
        """Length of the shared vector."""
        return sum(
            math.prod(leaf.shape) for leaf, shared in zip(self.leaves, self.shared, strict=True) if shared
        )

    def split(self, params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The shared vector, f32[size], and the private leaves by name."""
        leaves = list(zip(self.names, jax.tree.leaves(params), self.shared, strict=True))
        vector = [jnp.ravel(leaf).astype(jnp.float32) for _, leaf, shared in leaves if shared]
        return jnp.concatenate(vector), {name: leaf for name, leaf, shared in leaves if not shared}

    def join(self, vector: jax.Array, private: Mapping[str, jax.Array]) -> Params:
        """The inverse of `split`; shared leaves get back their shapes and dtypes."""
        leaves, taken = [], 0
        for name, leaf, shared in zip(self.names, self.leaves, self.shared, strict=True):
            if shared:
                size = math.prod(leaf.shape)
                leaves.append(vector[taken : taken + size].reshape(leaf.shape).astype(leaf.dtype))
                taken += size
            else:
                leaves.append(private[name])
        return jax.tree.unflatten(self.tree, leaves)

    def digest(self, *agreed: object) -> bytes:
        """SHA-256 of the shared leaves' names, shapes and dtypes and of whatever else must be `agreed` on."""
        rows = zip(self.names, self.leaves, self.shared, strict=True)
        leaves = [[name, list(leaf.shape), str(leaf.dtype)] for name, leaf, shared in rows if shared]
        return hashlib.sha256(json.dumps([leaves, agreed], sort_keys=True).encode()).digest()


def layout_of(task: Task) -> Layout:
    """The layout of `task`'s parameters, found without computing them.

    Raises:
        ValueError: the task shares nothing, shares a leaf that is not floating-point, or has two
            leaves of one name.
        UserError: JAX finds no device, which even shapes need.
    """
    devices()
    params = jax.eval_shape(lambda: task.init(jax.random.key(0)))  # made inside: outside it is computed
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    shared = tuple(bool(flag) for flag in jax.tree.leaves(task.shared(params)))
    names = tuple(leaf_name(path) for path, _ in paths)
    layout = Layout(names, tuple(leaf for _, leaf in paths), shared, tree)
    for name, leaf, flag in zip(layout.names, layout.leaves, layout.shared, strict=True):
        if flag and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"task {task.name} shares {name}, which is {leaf.dtype}: only floats can be averaged"
            )
    if not layout.size:
        raise ValueError(f"task {task.name} shares no parameters")
    if len(set(names)) < len(names):
        raise ValueError(f"task {task.name} has two parameters of one name among {sorted(names)}")
    return layout


def leaf_name(path: Sequence[object]) -> str:
    """A pytree leaf's name, e.g. `0/weights`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")
