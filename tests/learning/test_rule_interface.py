"""A rule of quite another kind fits the interface as it is, written as anybody would write one.

It pulls from several partners at once and trusts none of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.rule import Payload, Rule, RuleState
from tests.learning.rounds import Node, noise, stacked

THIRDS = jnp.full(3, 1 / 3)


def clipped(partners: int) -> Rule:
    """Differences clipped to the middle one's length: liars pull no harder (arXiv:2202.01545)."""

    def merge(
        state: RuleState,
        params: jax.Array,
        own: Payload,
        others: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[RuleState, jax.Array]:
        there = (present > 0) & jnp.all(jnp.isfinite(others["params"]), axis=1)
        away = jnp.where(there[:, None], others["params"] - own["params"][None], 0.0)
        lengths = jnp.linalg.norm(away, axis=1)
        middle = jnp.sum(jnp.where(there, jnp.sort(lengths), 0.0)[partners // 2])
        factors = jnp.minimum(1.0, middle / jnp.maximum(lengths, 1e-12))
        return state, params + jnp.sum((weights * factors)[:, None] * away, axis=0)

    plain = average()
    return Rule(
        name="clipped",
        init=plain.init,
        local=plain.local,
        share=plain.share,
        merge=merge,
        view=plain.view,
        partners=partners,
        symmetric=False,
        conserves=False,
    )


def test_a_liar_among_three_moves_us_no_further_than_the_others_do() -> None:
    honest = [Node(clipped(3), noise(seed, 0.1)).share() for seed in (1, 2)]
    longest = max(float(jnp.linalg.norm(payload["params"] - noise(0))) for payload in honest)
    for lie in (1e6, jnp.inf, jnp.nan):
        node = Node(clipped(3), noise(0))
        liar = {"params": jnp.full_like(node.params, lie)}
        node.merge(node.share(), stacked(*honest, liar), THIRDS)
        assert float(jnp.linalg.norm(node.params - noise(0))) <= longest


def test_silence_of_several_partners_moves_nobody() -> None:
    rule, node = clipped(3), Node(clipped(3), noise(0))
    nobody = {"params": jnp.full((3, len(node.params)), jnp.nan)}
    _, moved = rule.merge(node.state, node.params, node.share(), nobody, THIRDS, jnp.zeros(3))
    np.testing.assert_array_equal(moved, node.params)


def test_several_partners_each_work_for_many_nodes_at_once() -> None:
    def alone(start: jax.Array) -> jax.Array:
        own = {"params": start}
        partners = stacked(*[{"params": factor * start} for factor in (-1.0, 0.5, 2.0)])
        _, params = clipped(3).merge((), start, own, partners, THIRDS, jnp.ones(3))
        return params

    starts = jnp.stack([noise(0), noise(1)])
    np.testing.assert_allclose(jax.vmap(alone)(starts), jnp.stack([alone(s) for s in starts]), atol=1e-6)
