"""One node's learning at one moment, and the same as named arrays for a checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import optax

from p2pnode.learning.layout import leaf_name

HostArray = npt.NDArray[Any]


class State(NamedTuple):
    """One node's learning, a pytree.

    Attributes:
        params: f32[n], the shared parameters.
        private: the other leaves, by name.
        optimizer: the local optimizer's state.
        rule: the rule's state.
        start: f32[n], the parameters at the round's start plus what exchanges have added since, so
            that `params - start` is the local steps' work alone.
        key: the node's random key. It never changes: `step` and `snapshots` tell its uses apart, so
            that which rows a step sees depends on nothing that happens in the network.
        step: i32, local steps since the start.
        snapshots: i32, how often the node has shared.
        residual: of each entry of the payload two vectors like it: what the codec lost of all that was
            exchanged, and the same with what it lost of the latest snapshot. Empty without error feedback.
    """

    params: jax.Array
    private: dict[str, jax.Array]
    optimizer: optax.OptState
    rule: Any
    start: jax.Array
    key: jax.Array
    step: jax.Array
    snapshots: jax.Array
    residual: dict[str, tuple[jax.Array, jax.Array]]


def pack(state: State) -> dict[str, HostArray]:
    """Copy a state to the host, as arrays by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state._replace(key=jax.random.key_data(state.key)))
    return {leaf_name(path): np.array(leaf) for path, leaf in leaves}


def unpack(like: State, arrays: Mapping[str, HostArray]) -> State:
    """Make a state again of what `pack` made of it.

    Args:
        like: a state's shapes and dtypes.
        arrays: by name.

    Raises:
        ValueError: a leaf is missing, unknown, or of another shape or dtype; the message names it.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(
        like._replace(key=jax.eval_shape(jax.random.key_data, like.key))
    )
    expected = {leaf_name(path): leaf for path, leaf in leaves}
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if name not in expected:
            raise ValueError(f"{name[:40]!a} belongs to another learner")
        if (_kind(arrays[name])) != _kind(expected[name]):
            raise ValueError(f"{name} is {_kind(arrays[name])}, not {_kind(expected[name])}")
    state: State = jax.device_put(jax.tree.unflatten(tree, [arrays[name] for name in expected]))
    return state._replace(key=jax.random.wrap_key_data(state.key))


def _kind(array: HostArray | jax.ShapeDtypeStruct) -> str:
    return f"{array.dtype}{list(array.shape)}"
