"""CHOCO-SGD (Koloskova et al. 2019, arXiv:1902.00340): gossip over what neighbours know of each other.

Each node i has a public copy h_i, which its neighbours hold too. Only what it lacks is sent, by whatever
codec Q; what Q loses is still lacking in the next round, so no other error feedback is needed:

    q_i = Q(x_i - h_i)
    h_i = h_i + q_i
    x_i = x_i + gamma sum_j w_ij (h_j - h_i)

The copies of all neighbours are needed as that sum only, which is kept in place of them, as the authors
do. With a codec that loses nothing and gamma = 1 this is plain averaging; the more is lost, the smaller
gamma must be.

Copies begin with the first parameters, which all nodes have in common, not with zeros. Neighbours and weights
must stay the same, and nothing may get lost: a copy that missed a message is never set right. The sum of
all nodes' parameters is kept by rounds in which all take part, not by single exchanges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull


class Choco(NamedTuple):
    """What the rule remembers.

    Attributes:
        public: f32[n], what neighbours know of this node.
        away: f32[n], the weighted sum of what is known of neighbours, minus `public`.
    """

    public: jax.Array
    away: jax.Array


def choco(gamma: float) -> Rule:
    """CHOCO-SGD. Takes any number of neighbours.

    Args:
        gamma: how far to move towards what is known of the neighbours, above 0 and up to 1.
    """

    def share(state: Choco, params: jax.Array, key: jax.Array, turn: jax.Array) -> tuple[Choco, Payload]:
        return state, {"lacking": params - state.public}

    def merge(
        state: Choco,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Choco, jax.Array]:
        here = jnp.max(present)
        public = state.public + here * own["lacking"]
        away = state.away + pull(own["lacking"], partners["lacking"], weights, present)
        return Choco(public, away), params + here * gamma * away

    return Rule(
        name="choco",
        init=lambda params: Choco(params, jnp.zeros_like(params)),
        local=lambda state, start, end: (state, end),
        share=share,
        merge=merge,
        view=lambda state, params: params,
        conserves=False,
        fixed_neighbours=True,
        on_nodes=False,
        feedback=False,
    )
