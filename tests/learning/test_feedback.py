"""Error feedback: what a codec loses is sent later."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning import recipe as pure
from p2pnode.learning.compress import CODECS
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.registry import RULES
from p2pnode.learning.rules.choco import choco
from p2pnode.learning.state import State
from tests.learning.made import after_steps, exchange, recipe, toy

LOSING = ["int2", "top16", "top128"]
TURN = jnp.int32(0)


def fixed(made: Recipe) -> State:
    """A state with parameters of its own."""
    state: State = jax.jit(partial(pure.init, made))(np.uint32(0))
    x = jnp.asarray(np.random.default_rng(0).standard_t(3, size=state.params.size), jnp.float32)
    return state._replace(params=x)


def meeting(made: Recipe) -> Callable[[State, float], tuple[State, jax.Array]]:
    """`(state, present) -> (state, sent)` of an exchange with a copy of itself."""

    def met(state: State, present: float) -> tuple[State, jax.Array]:
        state, encoded = pure.share(made, state, TURN)
        sent = pure.decode(made, encoded)
        partners = {name: part[None] for name, part in sent.items()}
        return pure.merge_all(made, state, sent, partners, jnp.full(1, 0.5), jnp.full(1, present)), sent[
            "params"
        ]

    return jax.jit(met)


def test_only_codecs_that_lose_much_feed_back() -> None:
    assert {name for name, codec in CODECS.items() if codec().feedback} > set(LOSING)
    assert not any(CODECS[name]().feedback for name in ("float32", "bfloat16", "int8", "int4"))


@pytest.mark.parametrize("codec", LOSING)
def test_the_mean_of_many_snapshots_of_a_vector_comes_to_it(codec: str) -> None:
    made = recipe("average", codec)
    state, met = fixed(made), meeting(made)
    rounds = 8 * int(codec[3:]) if codec.startswith("top") else 50
    x = state.params
    after, sent = jax.lax.scan(lambda state, _: met(state, 1.0), state, None, rounds)
    np.testing.assert_array_equal(after.params, x)
    # Telescoped: everything sent and what still waits are everything there was.
    np.testing.assert_allclose(jnp.mean(sent, axis=0) + after.residual["params"][0] / rounds, x, atol=1e-3)
    errors = [
        float(jnp.linalg.norm(jnp.mean(sent[:n], axis=0) - x) / jnp.linalg.norm(x)) for n in (1, rounds)
    ]
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("codec", ["int2", "top16"])
def test_an_exchange_that_is_dropped_loses_nothing_but_time(codec: str) -> None:
    made = recipe("average", codec)
    met = meeting(made)
    state, _ = met(fixed(made), 1.0)
    waiting = state.residual["params"][0]
    assert float(jnp.linalg.norm(waiting)) > 0
    dropped, lost = jax.jit(partial(pure.share, made))(state, TURN)
    absent, same = met(state, 0.0)
    for later in (dropped, absent):
        np.testing.assert_array_equal(later.residual["params"][0], waiting)
    again, sent = met(dropped, 1.0)
    np.testing.assert_array_equal(sent, pure.decode(made, lost)["params"])
    np.testing.assert_array_equal(sent, same)
    np.testing.assert_allclose(again.residual["params"][0], waiting + state.params - sent, atol=1e-5)


@pytest.mark.parametrize("codec", LOSING)
def test_a_completed_exchange_conserves_the_sum_of_both_ends(codec: str) -> None:
    learner = toy("average", codec)
    left, right = after_steps(learner, 1), after_steps(learner, 2)
    for _ in range(3):
        before = np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64)
        left, right = exchange(learner, left, right, 0.375)
        after = np.asarray(left.params, np.float64) + np.asarray(right.params, np.float64)
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_codec_that_loses_little_leaves_the_state_as_it_was() -> None:
    for codec in ("float32", "int4"):
        learner = toy("average", codec)
        assert learner.init(0).residual == {}
        assert not any("residual" in name for name in learner.pack(learner.init(0)))


def test_a_rule_that_sends_again_what_was_lost_gets_no_other_feedback() -> None:
    assert "choco" in RULES
    assert not choco(1.0).feedback
    assert pure.init(recipe("choco", "top16"), jnp.uint32(0)).residual == {}


def test_what_waits_is_in_checkpoints_and_forgotten_with_the_parameters() -> None:
    learner = toy("average", "int2")
    left, _ = exchange(learner, after_steps(learner, 1), after_steps(learner, 2))
    again = learner.unpack(learner.pack(left))
    np.testing.assert_array_equal(again.residual["params"], left.residual["params"])
    assert np.any(left.residual["params"])
    exact, convert = learner.settle()
    settled = convert(again)
    assert exact.unpack(exact.pack(settled)).residual == {}
    assert not np.any(learner.replace(left, np.ones(learner.size, np.float32)).residual["params"])
