"""What every shipped rule promises, its limits first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning import recipe as pure
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.averaged import averaged
from p2pnode.learning.rules.momentum import Momentum, momentum
from p2pnode.learning.rules.rule import Rule
from tests.learning.made import after_steps, exchange, recipe, rows, toy

SHIPPED = {
    "average": average(),
    "momentum": averaged(momentum, average=0.9, beta=0.9, correction=0.35),
    "neutral momentum": momentum(0.0, 0.0),
}
N = 50
ONE, HALF = jnp.ones(1), jnp.full(1, 0.5)


def noise(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=N), jnp.float32)


def pairs(rule: Rule, rounds: int) -> list[list[np.ndarray]]:
    """Two nodes' parameters after each of some rounds of made-up local steps, and their views."""
    params = [noise(0), noise(1)]
    states = [rule.init(p) for p in params]
    trace = []
    for r in range(rounds):
        for i in range(2):
            states[i], params[i] = rule.local(states[i], params[i], params[i] + 0.1 * noise(10 * r + i + 2))
        sent = [rule.share(states[i], params[i], jax.random.key(0), jnp.int32(0))[1] for i in range(2)]
        for i in range(2):
            partner = {"params": sent[1 - i]["params"][None]}
            states[i], params[i] = rule.merge(states[i], params[i], sent[i], partner, HALF, ONE)
        trace.append([np.asarray(v) for i in range(2) for v in (params[i], rule.view(states[i], params[i]))])
    return trace


def test_momentum_with_neutral_options_is_plain_averaging() -> None:
    np.testing.assert_array_equal(pairs(momentum(0.0, 0.0), 8), pairs(average(), 8))


def test_momentum_follows_the_formula_of_the_paper() -> None:
    beta, rule = 0.9, momentum(0.9, 0.0)
    x, m = np.array([noise(0), noise(1)]), np.zeros((2, N))
    for r, found in enumerate(pairs(rule, 6)):
        progress = -np.array([0.1 * noise(10 * r + i + 2) for i in range(2)])
        half = x - (progress + beta * m)
        after = np.broadcast_to(half.mean(axis=0), half.shape)
        m, x = beta * m + (1 - beta) * (x - after), after
        np.testing.assert_allclose(found[::2], x, rtol=1e-4, atol=1e-5)


def test_the_correction_adds_a_share_of_what_the_swarm_does_otherwise_than_the_node() -> None:
    beta, share = 0.8, 0.35
    x, m, usual = np.array([noise(0), noise(1)]), np.zeros((2, N)), np.zeros((2, N))
    for r, found in enumerate(pairs(momentum(beta, share), 40)):
        progress = -np.array([0.1 * noise(10 * r + i + 2) for i in range(2)])
        half = x - (progress + beta * m + share * ((1 - beta) * m - usual))
        after = np.broadcast_to(half.mean(axis=0), half.shape)
        m, x = beta * m + (1 - beta) * (x - after), after
        usual = usual + max(0.03, 1 / (r + 1)) * (progress - usual)
        np.testing.assert_allclose(found[::2], x, rtol=1e-4, atol=1e-5)


def test_the_correction_takes_out_what_is_peculiar_to_a_nodes_data() -> None:
    """Of two nodes whose optima lie apart: with it each stays closer to their mean between exchanges."""

    def apart(correction: float) -> float:
        rule, optima = momentum(0.8, correction), (noise(0), noise(1))
        params = before = [jnp.zeros(N)] * 2
        states = [rule.init(p) for p in params]
        for _ in range(120):
            for i in range(2):
                end = params[i] + 0.05 * (optima[i] - params[i])
                states[i], params[i] = rule.local(states[i], params[i], end)
            before = list(params)
            for i in range(2):
                own, partner = {"params": before[i]}, {"params": before[1 - i][None]}
                states[i], params[i] = rule.merge(states[i], before[i], own, partner, HALF, ONE)
        np.testing.assert_allclose(params[0], 0.5 * (optima[0] + optima[1]), atol=0.05)
        return float(jnp.linalg.norm(before[0] - before[1]))

    assert apart(0.35) < 0.75 * apart(0.0)


def test_an_average_of_nothing_is_the_rule_itself_and_takes_no_memory() -> None:
    plain, bare = averaged(momentum, average=0.0, beta=0.9, correction=0.0), momentum(0.9, 0.0)
    assert len(jax.tree.leaves(plain.init(noise(0)))) == len(jax.tree.leaves(bare.init(noise(0))))
    np.testing.assert_array_equal(pairs(plain, 3), pairs(bare, 3))


def test_the_average_changes_what_is_seen_and_nothing_else() -> None:
    seen, bare = averaged(average, average=0.9), average()
    for found, plain in zip(pairs(seen, 6), pairs(bare, 6), strict=True):
        np.testing.assert_array_equal(found[::2], plain[::2])
    assert np.abs(found[1] - plain[1]).max() > 0.01


def test_the_view_forgets_the_start_and_is_a_plain_mean_of_the_first_rounds() -> None:
    trace = pairs(averaged(momentum, average=0.9, beta=0.5, correction=0.2), 5)
    for r in range(5):
        mean = np.mean([found[0] for found in trace[: r + 1]], axis=0)
        np.testing.assert_allclose(trace[r][1], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", SHIPPED.values(), ids=SHIPPED.keys())
def test_an_absent_partner_moves_nobody_whatever_stands_in_its_place(rule: Rule) -> None:
    params = noise(0)
    state, params = rule.local(rule.init(params), params, params + noise(1))
    state, own = rule.share(state, params, jax.random.key(0), jnp.int32(0))
    nobody = {"params": jnp.full((1, N), jnp.nan)}
    after, moved = rule.merge(state, params, own, nobody, HALF, jnp.zeros(1))
    jax.tree.map(np.testing.assert_array_equal, (after, moved), (state, params))


@pytest.mark.parametrize("rule", SHIPPED.values(), ids=SHIPPED.keys())
def test_a_merge_adds_the_same_change_to_parameters_that_have_moved_on(rule: Rule) -> None:
    params = noise(0)
    state, own = rule.share(rule.init(params), params, jax.random.key(0), jnp.int32(0))
    partner = {"params": noise(1)[None]}
    _, at_once = rule.merge(state, params, own, partner, HALF, ONE)
    _, later = rule.merge(state, params + noise(2), own, partner, HALF, ONE)
    np.testing.assert_allclose(later - noise(2), at_once, atol=1e-6)


def test_a_late_exchange_corrects_momentum_as_if_it_had_come_in_time() -> None:
    rule, start = momentum(0.9, 0.0), noise(0)
    state, params = rule.local(rule.init(start), start, start + noise(1))
    state, params = rule.merge(state, params, {"params": params}, {"params": noise(2)[None]}, HALF, ONE)
    assert isinstance(state, Momentum)
    np.testing.assert_allclose(state.momentum, 0.1 * (start - params), atol=1e-6)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("rule", ["average", "momentum"])
def test_a_completed_exchange_conserves_the_sum_of_both_ends(rule: str, codec: str) -> None:
    learner = toy(rule, codec)
    left, right = after_steps(learner, 1), after_steps(learner, 2)
    before = np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64)
    apart = float(jnp.linalg.norm(left.params - right.params))
    left, right = exchange(learner, left, right, 0.375)
    np.testing.assert_allclose(
        np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64), before, atol=1e-6
    )
    assert float(jnp.linalg.norm(left.params - right.params)) < 0.5 * apart


@pytest.mark.parametrize("rule", ["average", "momentum"])
def test_many_nodes_under_vmap_do_what_each_does_alone(rule: str) -> None:
    made, learner = recipe(rule, "int8"), toy(rule, "int8")
    states = jax.vmap(lambda seed: pure.init(made, seed))(jnp.arange(3, dtype=jnp.uint32))
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[rows(node) for node in range(3)])
    states, _ = jax.vmap(lambda s, d: pure.steps(made, s, d, jnp.int32(5)))(states, data)
    states = jax.vmap(lambda s: pure.end_round(made, s))(states)
    for node in range(3):
        alone = after_steps(learner, node)
        np.testing.assert_allclose(states.params[node], alone.params, rtol=1e-4, atol=1e-5)
