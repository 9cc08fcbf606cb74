"""Fragments: each exchange averages one part of the parameters, all parts in turn.

The vector is cut into equal parts and the exchange numbered t averages part t mod P, as Streaming
DiLoCo does it in its sequential pattern (Douillard et al. 2025, arXiv:2501.18512) and, with parts chosen
at random, DivShare (Biswas et al. 2024, arXiv:2410.12918). Bytes are spread evenly over the rounds, and a
slow link delays a part, not a model. Both ends number an exchange alike, so no index travels.

Deviations. Parts are cut by length, not along layers, so that they are equal. The averaging is plain,
without Streaming DiLoCo's outer step. And since an exchange has the number of its initiator's round,
a node whose partners are in other rounds may see a part again before it has seen all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull

Entries = Callable[[int, jax.Array], jax.Array]
"""`(length of the vector, turn) -> i32[m]`: entries that are averaged in that turn, each once. Those past the
vector's end fill up; they stand for nothing."""


def contiguous(size: int, turn: jax.Array, parts: int) -> jax.Array:
    """The entries of part `turn` mod `parts`."""
    length = -(-size // parts)
    return turn % parts * length + jnp.arange(length, dtype=jnp.int32)


def taken(vector: jax.Array, entries: jax.Array) -> jax.Array:
    """f32[m], the entries' values; 0 for those past the end."""
    return vector.at[entries].get(mode="fill", fill_value=0.0)


def added(vector: jax.Array, entries: jax.Array, change: jax.Array) -> jax.Array:
    """`vector` with `change`, f32[m], added to the entries."""
    return vector.at[entries].add(change, mode="drop")


def fragments(parts: int) -> Rule:
    """Averaging part by part.

    Args:
        parts: how many there are; 1 is plain averaging.
    """
    return partly("fragments", lambda size, turn: contiguous(size, turn, parts))


def partly(name: str, entries: Entries) -> Rule:
    """Averaging of some entries in each turn. The rule remembers the turn of its snapshot, i32[]."""

    def share(
        state: jax.Array, params: jax.Array, key: jax.Array, turn: jax.Array
    ) -> tuple[jax.Array, Payload]:
        turn = jnp.asarray(turn, jnp.int32)
        return turn, {"params": taken(params, entries(params.size, turn))}

    def merge(
        state: jax.Array,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        change = pull(own["params"], partners["params"], weights, present)
        return state, added(params, entries(params.size, state), change)

    return Rule(
        name=name,
        init=lambda params: jnp.int32(0),
        local=lambda state, start, end: (state, end),
        share=share,
        merge=merge,
        view=lambda state, params: params,
        feedback=False,
    )
