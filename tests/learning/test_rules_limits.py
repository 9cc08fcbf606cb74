"""Every rule at its limits: neutral options, silence, late exchanges, what it says it conserves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning.compress import CODECS
from p2pnode.learning.registry import RULES
from p2pnode.learning.rules.aged import aged
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.diloco import diloco
from p2pnode.learning.rules.fragments import fragments
from p2pnode.learning.rules.gasloc import gasloc
from p2pnode.learning.rules.momentum import momentum
from p2pnode.learning.rules.noloco import noloco
from p2pnode.learning.rules.rule import Rule
from p2pnode.learning.rules.sparse import sparse
from p2pnode.learning.rules.sparta import sparta
from tests.learning.rounds import HALF, ONE, N, Node, exchange, noise

NEUTRAL = {
    "average": average(),
    "momentum": momentum(beta=0.0, correction=0.0),
    "noloco": noloco(alpha=0.0, beta=1.0, gamma=1.0),
    "gasloc": gasloc(eta=1.0, alpha=1.0, gamma=0.0),
    "diloco": diloco(rate=1.0, beta=0.0),
    "sparta": sparta(density=1.0),
    "fragments": fragments(parts=1),
    "sparse": sparse(beta=0.95, alpha=1.0, parts=1),
    "aged": aged(power=0.0),
}
AHEAD = {
    "momentum": (momentum(0.8, 0.0), momentum(0.0, 0.0)),
    "noloco": (noloco(0.5, 0.7, 0.7), noloco(0.0, 0.7, 0.7)),
    "gasloc": (gasloc(0.7, 1.0, 0.5), gasloc(0.7, 1.0, 0.0)),
    "diloco": (diloco(0.7, 0.9), diloco(0.7, 0.0)),
}
"""Each with momentum and without."""


def default(name: str) -> Rule:
    """A rule with default options, but that all entries soon have their turn."""
    options = {option: given.default for option, given in RULES[name].options.items()}
    brisk = {"density": 0.3, "parts": 3}
    rule: Rule = RULES[name].build(**{option: brisk.get(option, value) for option, value in options.items()})
    return rule


def nodes_after(rule: Rule, rounds: int = 6, nodes: int = 5) -> list[Node]:
    """Nodes after rounds of random pairs: some average late, and some nodes have no partner."""
    random = np.random.default_rng(0)
    made = [Node(rule, noise(100)) for _ in range(nodes)]
    for r in range(rounds):
        for i, node in enumerate(made[: nodes - r % 2]):  # the last one is slow
            node.work(noise(nodes * r + i, 0.3))
            node.end_round()
        order = random.permutation(nodes)
        for left, right in order[: nodes - 1].reshape(-1, 2)[: 1 + r % 2]:
            late = noise(200 + r, 0.1), noise(300 + r, 0.1)
            exchange(made[left], made[right], r, late=late if random.integers(2) else ())
    return made


def test_every_rule_has_neutral_options() -> None:
    assert NEUTRAL.keys() == {name for name in RULES if default(name).on_nodes}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_rule_with_neutral_options_is_plain_averaging(name: str) -> None:
    for found, plain in zip(nodes_after(NEUTRAL[name]), nodes_after(average()), strict=True):
        np.testing.assert_allclose(found.params, plain.params, atol=2e-6)


@pytest.mark.parametrize("name", NEUTRAL)
def test_silence_moves_nobody_whatever_stands_in_the_partners_place(name: str) -> None:
    rule = default(name)
    node = nodes_after(rule)[0]
    own = node.share(turn=7)
    for nothing in (jnp.nan, jnp.inf, 1e30):
        nobody = jax.tree.map(lambda entry, x=nothing: jnp.full((1, *entry.shape), x), own)
        after = rule.merge(node.state, node.params, own, nobody, HALF, jnp.zeros(1))
        jax.tree.map(np.testing.assert_array_equal, after, (node.state, node.params))


@pytest.mark.parametrize("name", NEUTRAL)
def test_an_exchange_adds_the_same_change_to_parameters_that_have_moved_on(name: str) -> None:
    rule = default(name)
    left, right = nodes_after(rule)[:2]
    own, partner = left.share(turn=7), jax.tree.map(lambda entry: entry[None], right.share(turn=7))
    _, at_once = rule.merge(left.state, left.params, own, partner, HALF, ONE)
    _, later = rule.merge(left.state, left.params + noise(9), own, partner, HALF, ONE)
    np.testing.assert_allclose(later - noise(9), at_once, atol=2e-6)


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_travels_has_one_size_in_every_round(name: str) -> None:
    nodes = nodes_after(default(name))
    sizes = [jax.tree.map(jnp.shape, node.share(turn)) for node in nodes for turn in (0, 7, 2**31 - 1)]
    assert all(size == sizes[0] for size in sizes)


@pytest.mark.parametrize("name", NEUTRAL)
def test_many_nodes_at_once_do_what_each_does_alone(name: str) -> None:
    rule = default(name)

    def alone(start: jax.Array, turn: jax.Array) -> jax.Array:
        state, params = rule.local(rule.init(start), start, 1.1 * start)
        state, own = rule.share(state, params, jax.random.key(0), turn)
        partners = jax.tree.map(lambda entry: -0.9 * entry[None], own)
        state, params = rule.merge(state, params, own, partners, HALF, ONE)
        return rule.view(state, params)

    starts, turn = jnp.stack([noise(0), noise(1)]), jnp.int32(3)
    together = jax.vmap(alone, in_axes=(0, None))(starts, turn)
    np.testing.assert_allclose(together, jnp.stack([alone(start, turn) for start in starts]), atol=1e-5)


def lost(rule: Rule, codec: str) -> float:
    """The most by which an exchange changes an entry of the pair's sum."""
    left, right = nodes_after(rule)[-2:]
    left.work(noise(8))
    right.work(noise(9))
    before = np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64)
    exchange(left, right, 6, codec)
    after = np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64)
    return float(np.max(np.abs(after - before)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", [name for name in NEUTRAL if default(name).conserves])
def test_a_rule_that_says_so_conserves_the_sum_of_both_ends(name: str, codec: str) -> None:
    assert lost(default(name), codec) < 3e-6


@pytest.mark.parametrize("name", [name for name in NEUTRAL if not default(name).conserves])
def test_a_rule_that_says_it_does_not_conserve_the_sum_really_does_not(name: str) -> None:
    assert lost(default(name), "int8") > 1e-3


@pytest.mark.parametrize("name", AHEAD)
def test_momentum_leads_further_along_progress_and_not_back(name: str) -> None:
    reached = []
    for rule in AHEAD[name]:
        left, right = Node(rule, noise(0)), Node(rule, noise(0))
        for turn in range(4):
            for node in (left, right):
                node.work(noise(1))
                node.end_round()
            exchange(left, right, turn)
        reached.append(float(jnp.vdot(left.params - noise(0), noise(1)) / N))
    assert reached[0] > reached[1] > 1.0


def test_where_nobody_learns_every_rule_makes_nodes_agree() -> None:
    for name in NEUTRAL:
        nodes = [Node(default(name), noise(seed)) for seed in range(2)]
        for node in nodes:
            node.end_round()
        for turn in range(24):
            exchange(nodes[0], nodes[1], turn)
        apart = float(jnp.linalg.norm(nodes[0].params - nodes[1].params))
        assert apart < 1e-2 * float(jnp.linalg.norm(noise(0) - noise(1))), name
