"""Epidemic learning (de Vos et al. 2023, arXiv:2310.01972): push to s random nodes, average what arrives.

    x_i = (x_i + sum of what arrived) / (1 + how many arrived)

Who hears of nobody keeps its own. The weights depend on how many happen to arrive, so the mean of all
nodes drifts a little with every round, the less the larger s is.
"""

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, RuleState, pull


def epidemic() -> Rule:
    """Epidemic learning. Partners are those that push to a node, any number of them; weights are not used."""

    def merge(
        state: RuleState,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[RuleState, jax.Array]:
        equal = jnp.ones_like(weights) / (1.0 + jnp.sum(present))
        return state, params + pull(own["params"], partners["params"], equal, present)

    return Rule(
        name="epidemic",
        init=lambda params: (),
        local=lambda state, start, end: (state, end),
        share=lambda state, params, key, turn: (state, {"params": params}),
        merge=merge,
        view=lambda state, params: params,
        symmetric=False,
        conserves=False,
        on_nodes=False,
    )
