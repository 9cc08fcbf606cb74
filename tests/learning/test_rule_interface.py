"""Rules of quite different kinds fit the interface as it is: written here as anybody would write one.

Two vectors with an outer step (NoLoCo), error feedback (SparseLoCo) and a robust pull from several
partners (ClippedGossip).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.compress import int8
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.rule import Payload, Rule, RuleState, pull

N = 40
ONE, HALF = jnp.ones(1), jnp.full(1, 0.5)
KEY, TURN = jax.random.key(0), jnp.int32(0)


def noise(seed: int, size: float = 1.0) -> jax.Array:
    return size * jnp.asarray(np.random.default_rng(seed).normal(size=N), jnp.float32)


def as_partners(*payloads: Payload) -> Payload:
    return {name: jnp.stack([payload[name] for payload in payloads]) for name in payloads[0]}


class Slow(NamedTuple):
    """Slow parameters, their momentum, and the fast ones as they were after the local steps."""

    slow: jax.Array
    momentum: jax.Array
    fast: jax.Array


def noloco(alpha: float, beta: float, gamma: float) -> Rule:
    """Slow parameters take an outer momentum step from the pair's mean: two vectors (arXiv:2506.10911)."""

    def merge(
        state: Slow,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Slow, jax.Array]:
        slow = own["slow"] + pull(own["slow"], partners["slow"], weights, present)
        progress = own["progress"] + pull(own["progress"], partners["progress"], weights, present)
        momentum = alpha * state.momentum + beta * progress + gamma * (slow - own["slow"])
        here = jnp.max(present)
        moved = Slow(
            state.slow + here * momentum, state.momentum + here * (momentum - state.momentum), state.fast
        )
        return moved, params + here * (moved.slow - state.fast)

    return Rule(
        name="noloco",
        init=lambda params: Slow(params, jnp.zeros_like(params), params),
        local=lambda state, start, end: (state._replace(fast=end), end),
        share=lambda state, params, key, turn: (state, {"slow": state.slow, "progress": params - state.slow}),
        merge=merge,
        view=lambda state, params: params,
        conserves=False,
    )


class Feedback(NamedTuple):
    """What was not sent yet, and the last round's own progress."""

    error: jax.Array
    progress: jax.Array


def sparse(keep: int, beta: float) -> Rule:
    """Only the largest entries of the accumulated progress are sent, the rest waits (arXiv:2508.15706)."""

    def local(state: Feedback, start: jax.Array, end: jax.Array) -> tuple[Feedback, jax.Array]:
        return Feedback(beta * state.error + (end - start), end - start), end

    def share(
        state: Feedback, params: jax.Array, key: jax.Array, turn: jax.Array
    ) -> tuple[Feedback, Payload]:
        least = jax.lax.top_k(jnp.abs(state.error), keep)[0][-1]
        return state, {"progress": jnp.where(jnp.abs(state.error) >= least, state.error, 0.0)}

    def merge(
        state: Feedback,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Feedback, jax.Array]:
        here = jnp.max(present)
        mean = own["progress"] + pull(own["progress"], partners["progress"], weights, present)
        error = state.error - here * own["progress"]  # as decoded: what the codec lost waits, too
        return state._replace(error=error), params + here * (mean - state.progress)

    zeros = jnp.zeros_like
    return Rule(
        name="sparse",
        init=lambda params: Feedback(zeros(params), zeros(params)),
        local=local,
        share=share,
        merge=merge,
        view=lambda state, params: params,
        conserves=False,
    )


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


def step(rule: Rule, start: jax.Array, work: jax.Array) -> tuple[RuleState, jax.Array, Payload]:
    """A node's first round up to its snapshot."""
    state, params = rule.local(rule.init(start), start, start + work)
    state, payload = rule.share(state, params, KEY, TURN)
    return state, params, payload


def test_noloco_with_neutral_rates_averages_what_the_pair_has_reached() -> None:
    rule, start = noloco(alpha=0.0, beta=1.0, gamma=1.0), noise(0)
    state, params, own = step(rule, start, noise(1))
    _, other_params, other = step(rule, start, noise(2))
    _, merged = rule.merge(state, params, own, as_partners(other), HALF, ONE)
    np.testing.assert_allclose(merged, (params + other_params) / 2, atol=1e-6)


def test_noloco_keeps_momentum_from_round_to_round() -> None:
    rule, start = noloco(alpha=0.5, beta=0.7, gamma=0.7), noise(0)
    state, params, own = step(rule, start, noise(1))
    state, params = rule.merge(state, params, own, as_partners(own), HALF, ONE)
    np.testing.assert_allclose(params, start + 0.7 * noise(1), atol=1e-6)
    state, params = rule.local(state, params, params)
    state, own = rule.share(state, params, KEY, TURN)
    _, again = rule.merge(state, params, own, as_partners(own), HALF, ONE)
    np.testing.assert_allclose(again - params, 0.35 * noise(1), atol=1e-6)


def test_sparse_that_keeps_everything_is_averaging_from_a_common_start() -> None:
    rule, start = sparse(keep=N, beta=1.0), noise(0)
    state, params, own = step(rule, start, noise(1))
    _, other_params, other = step(rule, start, noise(2))
    _, merged = rule.merge(state, params, own, as_partners(other), HALF, ONE)
    np.testing.assert_allclose(merged, (params + other_params) / 2, atol=1e-6)


def test_error_feedback_keeps_exactly_what_was_not_sent_the_codecs_loss_included() -> None:
    rule, codec, start = sparse(keep=4, beta=1.0), int8(), noise(0)
    state, params, own = step(rule, start, noise(1))
    assert int(jnp.sum(own["progress"] != 0)) == 4
    sent = {"progress": codec.decode(codec.encode(own["progress"], KEY))}
    state, _ = rule.merge(state, params, sent, as_partners(sent), HALF, ONE)
    np.testing.assert_allclose(state.error + sent["progress"], noise(1), atol=1e-6)


def test_a_liar_among_three_moves_us_no_further_than_the_others_do() -> None:
    rule, start = clipped(partners=3), noise(0)
    state, params, own = step(rule, start, jnp.zeros(N))
    honest = [step(rule, start, noise(seed, 0.1))[2] for seed in (1, 2)]
    third = jnp.full(3, 1 / 3)
    longest = max(float(jnp.linalg.norm(noise(seed, 0.1))) for seed in (1, 2))
    for lie in (1e6, jnp.inf, jnp.nan):
        liar = {"params": jnp.full(N, lie, jnp.float32)}
        _, moved = rule.merge(state, params, own, as_partners(*honest, liar), third, jnp.ones(3))
        assert float(jnp.linalg.norm(moved - params)) <= longest


def test_silence_moves_nobody_under_any_of_them() -> None:
    for rule in (noloco(0.5, 0.7, 0.7), sparse(4, 0.9), clipped(3)):
        state, params, own = step(rule, noise(0), noise(1))
        nobody = jax.tree.map(lambda entry, k=rule.partners: jnp.full((k, N), jnp.nan), own)
        weights, present = jnp.full(rule.partners, 0.5), jnp.zeros(rule.partners)
        after, moved = rule.merge(state, params, own, nobody, weights, present)
        jax.tree.map(np.testing.assert_array_equal, (after, moved), (state, params))


def test_all_of_them_run_for_many_nodes_at_once() -> None:
    starts = jnp.stack([noise(0), noise(1)])
    for rule in (noloco(0.5, 0.7, 0.7), sparse(4, 0.9), clipped(3)):

        def alone(start: jax.Array, rule: Rule = rule) -> jax.Array:
            state, params, own = step(rule, start, 0.1 * start)
            partners = jax.tree.map(lambda entry: jnp.stack([-entry] * rule.partners), own)
            weights, present = jnp.full(rule.partners, 0.2), jnp.ones(rule.partners)
            state, params = rule.merge(state, params, own, partners, weights, present)
            return rule.view(state, params)

        together = jax.vmap(alone)(starts)
        np.testing.assert_allclose(together, jnp.stack([alone(s) for s in starts]), rtol=1e-5, atol=1e-6)
