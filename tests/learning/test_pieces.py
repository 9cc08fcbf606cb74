"""Snapshots in pieces: the same as whole ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning import recipe as pure
from p2pnode.learning.compress import CODECS
from p2pnode.learning.learner import Learner, State, compiled
from p2pnode.learning.registry import RULES
from tests.learning.made import after_steps, recipe

PIECE = 128
"""Of the toy's 305 parameters: two whole pieces, and a rest."""

ADDITIVE = sorted(
    name for name, rule in RULES.items() if recipe(name).rule.additive and recipe(name).rule.on_nodes
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pure, "PIECE", PIECE)


def learner(rule: str = "average", codec: str = "float32") -> Learner:
    """In pieces; not the one that other tests share."""
    return compiled(recipe(rule, codec))


def equal(one: State, other: State) -> None:
    """All that two states hold is equal, but for the node's key, and for how compilers round sums."""
    for left, right in zip(
        *(jax.tree.leaves(state._replace(key=state.step)) for state in (one, other)), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_pieces_come_in_order_and_are_all_of_the_vector(codec: str) -> None:
    one = learner(codec=codec)
    assert [(piece.begin, piece.size, piece.last) for piece in one.pieces] == [
        (0, 128, False),
        (128, 128, False),
        (256, 49, True),
    ]
    state, encoded = one.share(one.init(1), 0)
    assert int(state.snapshots) == 1
    decoded = pure.decode(recipe("average", codec), encoded)["params"]
    assert decoded.shape == state.params.shape
    if codec == "float32":
        np.testing.assert_array_equal(decoded, state.params)
    for specs, arrays in zip(one.payload, encoded, strict=True):
        assert {name: (spec.shape, spec.dtype) for name, spec in specs.items()} == {
            name: (array.shape, array.dtype) for name, array in arrays.items()
        }


def test_no_two_pieces_round_alike() -> None:
    made = recipe("average", "int4")
    same = np.full(3 * PIECE, 1.0, np.float32)
    same[::3] = 0.3
    state = pure.init(made, jnp.uint32(1))
    vector = jnp.asarray(np.tile(same[:PIECE], 3)[: state.params.size])
    one = compiled(made)
    _, encoded = one.share(state._replace(params=vector), 0)
    assert np.any(np.asarray(encoded[0]["values"]) != np.asarray(encoded[1]["values"]))


@pytest.mark.parametrize("codec", ["float32", "int4", "int2"])
@pytest.mark.parametrize("rule", ADDITIVE)
def test_merging_piece_by_piece_is_merging_the_whole(rule: str, codec: str) -> None:
    one, made = learner(rule, codec), recipe(rule, codec)
    (left, own), (_, partner) = (one.share(after_steps(one, node), 3) for node in (1, 2))
    whole = jax.jit(lambda state: pure.merge(made, state, own, partner, jnp.float32(0.25)))(left)
    parts = one.merge(left, own, partner, 0.25)
    # Of a residual, what is to be sent next; the other half is written anew before anything reads it.
    kept = {name: (old, whole.residual[name][1]) for name, (old, _) in parts.residual.items()}
    equal(parts._replace(residual=kept), whole)


def test_the_rules_that_most_swarms_use_are_merged_piece_by_piece() -> None:
    assert set(ADDITIVE) >= {"average", "momentum", "gasloc"}


@pytest.mark.parametrize("place", [0, 200, 304])
def test_one_number_that_is_not_finite_is_seen_in_its_piece(place: int) -> None:
    one = learner(codec="int8")
    state = one.init(1)
    _, encoded = one.share(state._replace(params=state.params.at[place].set(np.nan)), 0)
    finite = [bool(one.finite(piece, arrays)) for piece, arrays in zip(one.pieces, encoded, strict=True)]
    assert finite == [place // PIECE != number for number in range(3)]
