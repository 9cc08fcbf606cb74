"""What a rule is: a record of pure functions over flat vectors, in optax's manner.

A round is H local steps from `start` to `end`, then exchanges. The functions are called like this:

    state = init(params)
    each round:     state, params = local(state, start, end)
    each exchange:  state, payload = share(state, params, key, turn)  what to send, before compression
                    state, params = merge(state, params, own, partners, weights, present)
    at any time:    view(state, params)                               what to evaluate, serve and save

`own` and `partners` are what was *sent*, decompressed: both ends then see the same two vectors, and
error feedback sees what the codec lost. `params` may have moved on by local steps since `share`, so
`merge` returns `params` plus a change. An exchange that never comes to its end merges nothing.

Every function works under `vmap`, has fixed shapes and never branches on values. An absent partner
is `present = 0`, whatever stands in its place, and moves nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

RuleState = Any
"""A pytree of arrays: what a rule remembers."""

Payload = dict[str, jax.Array]
"""Named f32 vectors of fixed lengths: what travels. `partners` holds the same as f32[K, ...]."""


@dataclass(frozen=True)
class Rule:
    """A rule's functions, and what it says of itself. Vectors are f32[n].

    Attributes:
        name: as in manifests.
        init: `(params) -> state`.
        local: `(state, start, end) -> (state, params)`, after the local steps.
        share: `(state, params, key, turn) -> (state, payload)`. `key` is this node's own; `turn`, i32, is the
            same at both ends of an exchange and another one later: the initiator's round.
        merge: `(state, params, own, partners[K, ...], weights[K], present[K]) -> (state, params)`.
        view: `(state, params) -> params to evaluate, serve and save`.
        partners: K, how many it takes in one exchange.
        symmetric: both ends send the same kind of payload and merge with the same weight.
        conserves: a completed exchange leaves the sum of both ends' parameters as it was.
        fixed_neighbours: it keeps state for each neighbour and cannot change them.
        on_nodes: it runs on nodes, not only in a simulation.
        additive: its one payload is `params`, f32[n], and what `merge` adds to `params` and to vectors like
            it in `state` follows, entry by entry, from `own` and `partners` alone: so large models can be
            merged in place, part by part. It leaves all else as it is.
        feedback: what a codec lost of a payload may be added to the next one. Not where the rule itself
            sends it again, or where the same place stands for another entry later.
        dense: entries of the payload that travel as int8 under a codec which would need feedback for them.
    """

    name: str
    init: Callable[[jax.Array], RuleState]
    local: Callable[[RuleState, jax.Array, jax.Array], tuple[RuleState, jax.Array]]
    share: Callable[[RuleState, jax.Array, jax.Array, jax.Array], tuple[RuleState, Payload]]
    merge: Callable[
        [RuleState, jax.Array, Payload, Payload, jax.Array, jax.Array], tuple[RuleState, jax.Array]
    ]
    view: Callable[[RuleState, jax.Array], jax.Array]
    partners: int = 1
    symmetric: bool = True
    conserves: bool = True
    fixed_neighbours: bool = False
    on_nodes: bool = True
    additive: bool = False
    feedback: bool = True
    dense: frozenset[str] = frozenset()


def pull(own: jax.Array, partners: jax.Array, weights: jax.Array, present: jax.Array) -> jax.Array:
    """The change that averaging asks for: the weighted sum of the differences to those present.

    With equal weights at both ends, the two ends' changes cancel to the last bit. (A sum of products,
    not a matrix product: GPUs round the inputs of those.)

    Args:
        own: f32[n].
        partners: f32[K, n].
        weights: f32[K].
        present: f32[K], 0 or 1.
    """
    there = present[:, None] > 0
    return jnp.sum(weights[:, None] * jnp.where(there, partners - own[None], 0.0), axis=0)
