"""Plain gossip averaging (Boyd et al. 2006): both ends move to their weighted mean."""

import jax

from p2pnode.learning.rules.rule import Payload, Rule, RuleState, pull


def average() -> Rule:
    """Local steps, then averaging, and nothing else: the limit that other rules are tested against."""

    def merge(
        state: RuleState,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[RuleState, jax.Array]:
        return state, params + pull(own["params"], partners["params"], weights, present)

    return Rule(
        name="average",
        init=lambda params: (),
        local=lambda state, start, end: (state, end),
        share=lambda state, params, key, turn: (state, {"params": params}),
        merge=merge,
        view=lambda state, params: params,
        additive=True,
    )
