"""Rules that only simulations run: without training, they do to vectors what their papers' matrices do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.errors import UserError
from p2pnode.learning import registry
from p2pnode.learning.compress import CODECS, Codec, float32, top
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.choco import Choco, choco
from p2pnode.learning.rules.epidemic import epidemic
from p2pnode.learning.rules.push_sum import PushSum, push_sum
from p2pnode.learning.rules.rule import Rule
from tests.learning.test_registry import manifest

N, SIZE = 8, 30
X = np.random.default_rng(0).normal(size=(N, SIZE)).astype(np.float32)
MEAN = X.mean(axis=0)
Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of one round: partners i32[N, K], weights f32[N, K], present bool[N, K]."""


class Swarm:
    """N nodes that follow one rule."""

    def __init__(self, rule: Rule, codec: Codec | None = None) -> None:
        """Everybody's first parameters are zeros; the first local steps bring them to X."""
        self.rule, self.codec = rule, codec or float32()
        zeros = jnp.zeros((N, SIZE))
        self.state, self.x = jax.vmap(rule.local)(jax.vmap(rule.init)(zeros), zeros, jnp.asarray(X))
        self._round = jax.jit(jax.vmap(self._share)), jax.jit(jax.vmap(rule.merge))

    def _share(self, state: Any, params: jax.Array, key: jax.Array, turn: jax.Array) -> tuple[Any, Any]:
        state, payload = self.rule.share(state, params, key, turn)
        return state, {
            name: self.codec.decode(self.codec.encode(part, key)) for name, part in payload.items()
        }

    def round(self, turn: int, edges: Edges) -> None:
        """One round of exchanges."""
        share, merge = self._round
        partners, weights, present = (jnp.asarray(part) for part in edges)
        keys = jax.random.split(jax.random.key(turn), N)
        self.state, sent = share(self.state, self.x, keys, jnp.full(N, turn, jnp.int32))
        theirs = {name: part[partners] for name, part in sent.items()}
        self.state, self.x = merge(
            self.state, self.x, sent, theirs, weights.astype(jnp.float32), present.astype(jnp.float32)
        )

    def spread(self) -> float:
        """How far from the mean of X the nodes are, at most."""
        return float(np.abs(np.asarray(self.x) - MEAN).max())


def exponential(turn: int) -> Edges:
    """Each hears of the one 2**t places before it."""
    senders = (np.arange(N) - 2 ** (turn % 3)) % N
    return senders[:, None], np.full((N, 1), 0.5), np.ones((N, 1), bool)


def ring(turn: int) -> Edges:
    places = np.arange(N)
    return np.stack([places - 1, places + 1], axis=1) % N, np.full((N, 2), 1 / 3), np.ones((N, 2), bool)


def pushed(turn: int, s: int = 2) -> Edges:
    """Each sends to s random others; the slots are as many as could arrive."""
    random = np.random.default_rng(turn)
    arrived: list[list[int]] = [[] for _ in range(N)]
    for sender in range(N):
        for receiver in random.choice([i for i in range(N) if i != sender], s, replace=False):
            arrived[receiver].append(sender)
    slots = [senders + [0] * (N - 1 - len(senders)) for senders in arrived]
    present = [[place < len(senders) for place in range(N - 1)] for senders in arrived]
    return np.array(slots), np.full((N, N - 1), 0.5), np.array(present)


def lossy(edges: Edges, turn: int) -> Edges:
    """A third of all messages never arrives."""
    partners, weights, present = edges
    return partners, weights, present & (np.random.default_rng([turn, 1]).random(present.shape) > 1 / 3)


def matrix(edges: Edges) -> np.ndarray:
    """A[i, j] = 1 where j's message came to i."""
    found = np.zeros((N, N))
    for i, (senders, present) in enumerate(zip(edges[0], edges[2], strict=True)):
        found[i, senders[present]] = 1
    return found


@pytest.mark.parametrize("edges", [pushed, lambda turn: lossy(pushed(turn), turn)])
def test_epidemic_learning_takes_the_plain_mean_of_what_arrives(edges: Callable[[int], Edges]) -> None:
    swarm, x = Swarm(epidemic()), np.array(X, np.float64)
    for turn in range(12):
        swarm.round(turn, edges(turn))
        heard = matrix(edges(turn)) + np.eye(N)
        x = heard @ x / heard.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(swarm.x, x, atol=1e-5)
    assert np.ptp(x, axis=0).max() < 0.02 * np.ptp(X, axis=0).max()


def test_epidemic_learning_among_two_is_averaging() -> None:
    ends = np.array([[1], [0]] * (N // 2)) + 2 * np.arange(N // 2).repeat(2)[:, None]
    edges = ends, np.full((N, 1), 0.5), np.ones((N, 1), bool)
    for rule in (epidemic(), push_sum(1, 0)):
        found, expected = Swarm(rule), Swarm(average())
        found.round(0, edges)
        expected.round(0, edges)
        np.testing.assert_allclose(found.x, expected.x, atol=1e-6)


def total(state: PushSum, name: str, s: int) -> np.ndarray:
    """All mass there is: with the nodes, and on its way to them."""
    held = np.asarray(state.mass[name], np.float64).sum(axis=0)
    given, taken = (np.asarray(sums[name], np.float64) for sums in (state.given, state.taken))
    return np.asarray(held + s * given.sum(axis=(0, 1)) - taken.sum(axis=(0, 1, 2)))


@pytest.mark.parametrize("phases", [0, 3])
def test_push_sum_is_exact_after_one_cycle_of_the_exponential_graph(phases: int) -> None:
    swarm = Swarm(push_sum(1, phases))
    for turn in range(6):
        swarm.round(turn, exponential(turn))
        assert turn < 2 or swarm.spread() < 1e-6


def test_push_sum_over_random_pushes_follows_its_column_stochastic_matrix_to_the_exact_mean() -> None:
    swarm, x, w = Swarm(push_sum(2, 0)), np.array(X, np.float64), np.ones(N)
    for turn in range(40):
        swarm.round(turn, pushed(turn))
        columns = (matrix(pushed(turn)) + np.eye(N)) / 3
        x, w = columns @ x, columns @ w
        assert isinstance(swarm.state, PushSum)
        np.testing.assert_allclose(swarm.state.mass["weight"][:, 0], w, rtol=1e-4)
        np.testing.assert_allclose(swarm.x, x / w[:, None], atol=1e-5)
    assert np.ptp(w) > 0.5, "the graph was balanced, which tests nothing"
    assert swarm.spread() < 1e-5


def test_push_sum_with_running_sums_comes_to_the_exact_mean_though_messages_are_lost() -> None:
    swarm, careless = Swarm(push_sum(1, 3)), Swarm(push_sum(1, 0))
    for turn in range(90):
        for one in (swarm, careless):
            one.round(turn, lossy(exponential(turn), turn))
        assert isinstance(swarm.state, PushSum)
        np.testing.assert_allclose(total(swarm.state, "params", 1), X.sum(axis=0), atol=1e-4)
        np.testing.assert_allclose(total(swarm.state, "weight", 1), N, atol=1e-4)
    assert swarm.spread() < 1e-4
    assert careless.spread() > 1e-2
    assert float(careless.state.mass["weight"].sum()) < 0.1 * N


def test_push_sum_takes_local_steps_at_the_ratio_and_adds_them_to_the_mass() -> None:
    rule, start = push_sum(1, 0), jnp.asarray(X[0])
    state = rule.init(start)._replace(mass={"params": start, "weight": jnp.full(1, 0.5)})
    state, z = rule.local(state, start / 0.5, start / 0.5 + 1.0)
    np.testing.assert_allclose(state.mass["params"], start + 1.0, atol=1e-6)
    np.testing.assert_allclose(z, (start + 1.0) / 0.5, atol=1e-5)


def test_choco_that_loses_nothing_with_gamma_one_is_averaging() -> None:
    found, expected = Swarm(choco(1.0)), Swarm(average())
    for turn in range(20):
        found.round(turn, ring(turn))
        expected.round(turn, ring(turn))
        np.testing.assert_allclose(found.x, expected.x, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_choco_follows_its_matrix(gamma: float) -> None:
    swarm, x = Swarm(choco(gamma)), np.array(X, np.float64)
    w = (matrix(ring(0)) + np.eye(N)) / 3
    for turn in range(20):
        swarm.round(turn, ring(turn))
        x = x + gamma * (w @ x - x)
        np.testing.assert_allclose(swarm.x, x, atol=1e-5)


@pytest.mark.parametrize(("codec", "gamma"), [("int4", 1.0), ("int2", 0.5), ("top16", 0.4)])
def test_choco_comes_to_the_mean_and_conserves_the_sum_whatever_the_codec_loses(
    codec: str, gamma: float
) -> None:
    swarm = Swarm(choco(gamma), CODECS[codec]())
    for turn in range(150):
        swarm.round(turn, ring(turn))
        np.testing.assert_allclose(np.asarray(swarm.x, np.float64).mean(axis=0), MEAN, atol=1e-5)
    assert swarm.spread() < 1e-3


def test_choco_copies_are_what_neighbours_have_heard() -> None:
    swarm, w = Swarm(choco(0.3), top(16)), matrix(ring(0)) / 3
    for turn in range(5):
        swarm.round(turn, ring(turn))
    assert isinstance(swarm.state, Choco)
    public = np.asarray(swarm.state.public)
    np.testing.assert_allclose(swarm.state.away, w @ public - 2 / 3 * public, atol=1e-5)


@pytest.mark.parametrize("rule", [epidemic(), choco(0.5), push_sum(2, 0), push_sum(2, 3)])
def test_silence_moves_nobody(rule: Rule) -> None:
    swarm = Swarm(rule)
    swarm.round(0, ring(0))
    before = np.asarray(swarm.x)
    partners, weights, present = ring(1)
    swarm.round(1, (partners, weights, np.zeros_like(present)))
    np.testing.assert_array_equal(swarm.x, before)


@pytest.mark.parametrize("name", ["push-sum", "epidemic", "choco"])
def test_nodes_refuse_rules_that_are_for_simulations(name: str) -> None:
    options = {option: entry.default for option, entry in registry.RULES[name].options.items()}
    asked = manifest(rule=name, rule_options=options)
    with pytest.raises(UserError, match=f"rule {name} is for simulations only: try it with p2pnode simulate"):
        registry.build(asked)
    assert registry.recipe(asked, simulated=True).rule.name == name
