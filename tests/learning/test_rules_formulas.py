"""Single rules against what their papers say."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from p2pnode.identity.manifest import RuleSpec
from p2pnode.learning import registry
from p2pnode.learning.rules.aged import aged
from p2pnode.learning.rules.diloco import diloco
from p2pnode.learning.rules.fragments import contiguous, fragments
from p2pnode.learning.rules.gasloc import gasloc
from p2pnode.learning.rules.noloco import noloco
from p2pnode.learning.rules.rule import Rule
from p2pnode.learning.rules.sparse import sparse
from p2pnode.learning.rules.sparta import scattered, sparta
from tests.gossip.ends import manifest
from tests.learning.rounds import ONE, N, Node, exchange, noise, stacked


def together(rule: Rule, rounds: int = 5, count: int = 3) -> jax.Array:
    """The mean of nodes that all set out from `noise(0)` and meet all others after each round."""
    nodes = [Node(rule, noise(0)) for _ in range(count)]
    for r in range(rounds):
        for i, node in enumerate(nodes):
            node.work(noise(1 + count * r + i))
            node.end_round()
        sent = stacked(*[node.share(r) for node in nodes])
        mean = jax.tree.map(lambda entry: jnp.mean(entry, axis=0, keepdims=True), sent)
        for i, node in enumerate(nodes):
            node.merge(jax.tree.map(lambda entry, i=i: entry[i], sent), mean, ONE)
    return jnp.mean(jnp.stack([node.params for node in nodes]), axis=0)


def nesterov(rounds: int = 5, count: int = 3) -> jax.Array:
    """The same by optax, whose outer gradients point back to where a round set out from."""
    optimizer, params = optax.sgd(0.7, momentum=0.9, nesterov=True), noise(0)
    state = optimizer.init(params)
    for r in range(rounds):
        progress = sum((noise(1 + count * r + i) for i in range(count)), jnp.zeros(N)) / count
        updates, state = optimizer.update(-progress, state)
        params = params + updates
    return params


@pytest.mark.parametrize("rule", [diloco(0.7, 0.9), gasloc(0.7, 1.0, 0.9)], ids=["diloco", "gasloc"])
def test_where_all_meet_all_the_outer_step_is_nesterovs(rule: Rule) -> None:
    np.testing.assert_allclose(together(rule), nesterov(), rtol=1e-4, atol=2e-5)


def test_noloco_follows_the_formula_of_the_paper_which_sends_two_vectors() -> None:
    alpha, beta, gamma = 0.5, 0.6, 0.7
    nodes = [Node(noloco(alpha, beta, gamma), noise(seed)) for seed in range(2)]
    slow, momentum = np.stack([noise(0), noise(1)]), np.zeros((2, N), np.float32)
    for r in range(4):
        progress = np.stack([noise(2 + 2 * r + i) for i in range(2)])
        for node, work in zip(nodes, progress, strict=True):
            node.work(jnp.asarray(work))
        exchange(nodes[0], nodes[1], r)
        momentum = alpha * momentum + beta * progress.mean(axis=0) + gamma * (slow.mean(axis=0) - slow)
        slow = slow + momentum
        np.testing.assert_allclose(np.stack([node.params for node in nodes]), slow, atol=1e-5)


def test_a_round_without_an_exchange_leaves_its_progress_to_the_next_outer_step() -> None:
    nodes = [Node(diloco(0.7, 0.9), noise(0)) for _ in range(2)]
    for node in nodes:
        for _ in range(2):
            node.work(noise(1))
            node.end_round()
        np.testing.assert_allclose(node.params, noise(0) + 2 * noise(1), atol=1e-6)
    exchange(nodes[0], nodes[1])
    np.testing.assert_allclose(nodes[0].params, noise(0) + 0.7 * 1.9 * 2 * noise(1), atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 12, 300])
@pytest.mark.parametrize("choose", [contiguous, scattered])
@pytest.mark.parametrize("turns", [1, 5, 12])
def test_as_many_turns_as_there_are_parts_take_every_entry_once(
    choose: Callable[[int, jax.Array, int], jax.Array], size: int, turns: int
) -> None:
    for first in (0, 3 * turns):
        parts = [np.asarray(choose(size, jnp.int32(first + turn), turns)) for turn in range(turns)]
        assert {len(part) for part in parts} == {-(-size // turns)}
        entries = np.concatenate(parts)
        assert sorted(entries[entries < size]) == list(range(size))


def test_sparta_chooses_anew_when_all_have_had_their_turn() -> None:
    first, again, later = (scattered(N, jnp.int32(turn), 10) for turn in (3, 3, 13))
    np.testing.assert_array_equal(first, again)
    assert np.sum(np.asarray(first) == np.asarray(later)) < len(first) / 2


@pytest.mark.parametrize("rule", [sparta(0.1), fragments(10)], ids=["sparta", "fragments"])
def test_an_exchange_of_a_part_averages_it_and_leaves_the_rest(rule: Rule) -> None:
    nodes = [Node(rule, noise(seed)) for seed in range(2)]
    exchange(nodes[0], nodes[1], turn=4)
    moved = np.asarray(nodes[0].params != noise(0))
    assert np.sum(moved) == N / 10
    np.testing.assert_allclose(nodes[0].params[moved], (noise(0) + noise(1))[moved] / 2, atol=1e-6)
    np.testing.assert_allclose(nodes[0].params[moved], nodes[1].params[moved], atol=1e-6)


def test_sparse_keeps_exactly_what_was_not_sent_and_sends_it_later() -> None:
    nodes = [Node(sparse(beta=0.9, alpha=1.0, parts=3), noise(0)) for _ in range(2)]
    rest = jnp.zeros(N)
    for turn in range(3):
        for node in nodes:
            node.work(noise(turn + 1))
        total = 0.9 * rest + noise(turn + 1)
        sent = nodes[0].share(turn, "int8")["progress"]
        exchange(nodes[0], nodes[1], turn, "int8")
        rest = total - sent
        np.testing.assert_allclose(nodes[0].state.memory, rest, atol=1e-6)
    assert 0 < float(jnp.linalg.norm(rest)) < 0.1 * float(jnp.linalg.norm(noise(1)))


def test_the_fragment_that_holds_sparse_nodes_together_is_not_left_to_a_codec_that_drops_entries() -> None:
    made = replace(
        manifest("top64"),
        rule=RuleSpec("sparse", "top64", {"beta": 0.95, "alpha": 1.0, "parts": 8, "average": 0.0}),
    )
    learner = registry.build(made)
    payload = {piece.entry: specs for piece, specs in zip(learner.pieces, learner.payload, strict=True)}
    assert payload["slow"]["values"].dtype == jnp.int8
    assert payload["slow"]["values"].size == -(-learner.size // 8)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in payload["progress"].values()) < 300


def test_of_two_models_the_older_counts_for_more_and_both_agree_on_their_age() -> None:
    young, old = Node(aged(1.0), noise(0)), Node(aged(1.0), noise(1))
    for _ in range(8):
        old.end_round()
    exchange(young, old)
    for node in (young, old):
        np.testing.assert_allclose(node.params, (noise(0) + 9 * noise(1)) / 10, atol=1e-6)
        np.testing.assert_allclose(node.state, [(1 + 9 * 9) / 10], rtol=1e-6)


def test_ages_that_a_codec_made_zero_or_a_liar_negative_weigh_nothing_and_break_nothing() -> None:
    for lie in (0.0, -3.0):
        node, other = Node(aged(1.0), noise(0)), Node(aged(1.0), noise(1))
        own, partner = node.share(), other.share() | {"age": jnp.full(1, lie)}
        node.merge(own, stacked(partner))
        np.testing.assert_allclose(node.params, noise(0), atol=1e-2)
