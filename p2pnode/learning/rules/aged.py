"""Merging by age: of two models the one that has learned longer counts for more.

Where nodes differ in speed, or come late, a plain mean sets those ahead back. In gossip learning (Ormandi
et al. 2013; weighted by age in Hegedus et al. 2019, doi:10.1007/978-3-030-22496-7_5) a model of age t that
meets one of age u, ages in local updates, becomes

    a = u / (t + u);    x = (1 - a) x + a y;    t = max(t, u)

The younger moves further than the older, so the pair's sum is not conserved.

Deviations. Ages are in rounds, and a new model's is 1. Each is raised to `power` before they are
compared; 0 is plain averaging. And a model's age moves like its parameters, t = (1 - a) t + a u: close to
the maximum when ages differ much, and where they do not, a maximum would grow by every rounding
error of a codec. Ages are believed: a partner that lies about its own gets more than its share.
"""

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull


def aged(power: float) -> Rule:
    """Averaging with weights by age. The rule remembers its model's, f32[1].

    Args:
        power: how much age counts: 0 not at all, 1 in proportion.
    """

    def merge(
        state: jax.Array,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        ages = jnp.where(present > 0, partners["age"][:, 0], own["age"])
        share = 2.0 * weights * _share(own["age"], ages, power)  # as it is, where both are of one age
        age = state + pull(own["age"], partners["age"], share, present)
        return age, params + pull(own["params"], partners["params"], share, present)

    return Rule(
        name="aged",
        init=lambda params: jnp.ones(1),
        local=lambda state, start, end: (state + 1.0, end),
        share=lambda state, params, key, turn: (state, {"params": params, "age": state}),
        merge=merge,
        view=lambda state, params: params,
        symmetric=power == 0,
        conserves=power == 0,
    )


def _share(own: jax.Array, partners: jax.Array, power: float) -> jax.Array:
    """u^p / (t^p + u^p), for ages that a codec may have made zero."""
    mine, theirs = (jnp.maximum(age, 1e-3) ** power for age in (own, partners))
    return theirs / (mine + theirs)
