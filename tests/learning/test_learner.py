"""One node's learning as its trainer sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning.data import Dataset
from p2pnode.learning.learner import compiled
from tests.learning.made import after_steps, exchange, recipe, rows, toy


def test_all_nodes_start_with_the_same_parameters_and_batches_of_their_own() -> None:
    learner = toy()
    one, two = learner.init(1), learner.init(2**40 + 2)
    np.testing.assert_array_equal(one.params, two.params)
    (one, _), (two, _) = learner.steps(one, rows(0), 1), learner.steps(two, rows(0), 1)
    assert np.any(np.asarray(one.params) != np.asarray(two.params))


def test_local_steps_lower_the_loss_and_train_private_floats_too() -> None:
    learner = toy()
    state = learner.init(1)
    before = float(learner.evaluate(state, rows(1))["loss"])
    head = np.array(state.private["head"])
    state, _ = learner.steps(state, rows(1), 200)
    assert float(learner.evaluate(state, rows(1))["loss"]) < 0.5 * before
    assert np.all(np.asarray(state.private["head"]) != head)
    assert int(state.private["seen"]) == 7


def test_steps_in_two_chunks_are_the_steps_of_one() -> None:
    learner = toy("momentum", "int8", "adam")
    whole, _ = learner.steps(learner.init(1), rows(1), 7)
    first, _ = learner.steps(learner.init(1), rows(1), 3)
    first, _ = learner.share(first, 0)  # what happens in the network does not change the batches
    parts, _ = learner.steps(first, rows(1), 4)
    np.testing.assert_array_equal(whole.params, parts.params)


def test_no_steps_change_nothing_and_have_no_loss() -> None:
    learner = toy()
    state, loss = learner.steps(learner.init(1), rows(1), 0)
    np.testing.assert_array_equal(state.params, learner.init(1).params)
    assert np.isnan(loss)


def test_how_many_steps_to_take_is_no_reason_to_compile_again() -> None:
    learner = compiled(recipe())
    state = learner.init(1)
    for count in (1, 2, 0):
        state, _ = learner.steps(state, rows(1), count)
    assert learner.steps._cache_size() == 1  # type: ignore[attr-defined]


def test_only_what_is_shared_travels() -> None:
    learner = toy("momentum", "int8")
    assert learner.size == 3 * 100 + 5
    _, [encoded] = learner.share(learner.init(1), 0)
    [payload] = learner.payload
    assert {name: (a.shape, a.dtype) for name, a in encoded.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in payload.items()
    }
    assert payload["values"].size == learner.size


def test_what_is_private_has_no_part_in_what_travels() -> None:
    learner = toy()
    state, other = learner.init(1), learner.init(1)
    other = other._replace(private={"head": other.private["head"] + 1, "seen": jnp.int32(0)})
    jax.tree.map(np.testing.assert_array_equal, learner.share(state, 0)[1], learner.share(other, 0)[1])


def test_an_exchange_leaves_the_private_part_alone() -> None:
    learner = toy()
    left, right = after_steps(learner, 1), after_steps(learner, 2)
    heads = [np.array(state.private["head"]) for state in (left, right)]
    left, right = exchange(learner, left, right)
    np.testing.assert_allclose(left.params, right.params, atol=1e-6)
    for state, head in zip((left, right), heads, strict=True):
        np.testing.assert_array_equal(state.private["head"], head)


def test_a_merge_during_the_next_round_counts_as_nobodys_local_work() -> None:
    learner = toy("momentum", "float32", beta=0.9, average=0.0)
    state, own = learner.share(after_steps(learner, 1), 0)
    _, partner = learner.share(after_steps(learner, 2), 0)
    state, _ = learner.steps(state, rows(1), 3)
    work = np.array(state.params - state.start)
    state = learner.merge(state, own, partner, 0.5)
    np.testing.assert_allclose(state.params - state.start, work, atol=1e-6)


def test_a_snapshot_survives_the_steps_that_follow_it() -> None:
    learner = toy()
    state, [own] = learner.share(learner.init(1), 0)
    view = learner.view(state)
    kept = np.array(own["values"])
    state, _ = learner.steps(state, rows(1), 5)
    np.testing.assert_array_equal(own["values"], kept)
    np.testing.assert_array_equal(view, kept)
    assert np.any(np.asarray(state.params) != kept)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
def test_a_payload_that_is_not_finite_is_seen(codec: str) -> None:
    learner = toy("average", codec)
    [piece] = learner.pieces
    assert learner.finite(piece, learner.share(learner.init(1), 0)[1][0])
    for bad in (np.nan, np.inf):
        state = learner.init(1)
        poisoned = state._replace(params=state.params.at[7].set(bad))
        assert not learner.finite(piece, learner.share(poisoned, 0)[1][0])


def test_each_snapshot_rounds_anew() -> None:
    learner = toy("average", "int8")
    state, [first] = learner.share(learner.init(1), 0)
    state, [second] = learner.share(state, 0)
    assert np.any(np.asarray(first["values"]) != np.asarray(second["values"]))


def test_evaluation_in_parts_is_the_evaluation_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, data = toy(), rows(3, 100)
    state = learner.init(1)
    whole = learner.evaluate(state, data)
    monkeypatch.setattr("p2pnode.learning.learner.EVALUATED", 32)
    np.testing.assert_allclose(learner.evaluate(state, data)["loss"], whole["loss"], rtol=1e-5)


def test_a_newcomer_takes_the_donors_parameters_and_nothing_else() -> None:
    learner = toy("momentum", "int8", "adam")
    state = after_steps(learner, 1)
    head, steps = np.array(state.private["head"]), int(state.step)
    taken = learner.replace(state, np.arange(learner.size, dtype=np.float32))
    np.testing.assert_array_equal(taken.params, np.arange(learner.size))
    np.testing.assert_array_equal(learner.view(taken), taken.params)
    np.testing.assert_array_equal(taken.private["head"], head)
    assert int(taken.step) == steps == 5
    assert not np.any(np.asarray(taken.rule.rule.momentum))


def test_settling_averages_the_views_exactly() -> None:
    learner = toy("momentum", "int8")
    left, right = after_steps(learner, 1), after_steps(learner, 2)
    mean = np.array(learner.view(left) + learner.view(right)) / 2
    exact, convert = learner.settle()
    assert exact.layout != learner.layout
    left, right = exchange(exact, convert(left), convert(right))
    for state in (left, right):
        np.testing.assert_allclose(exact.view(state), mean, atol=1e-6)
    left, loss = exact.steps(left, rows(1), 1)  # nothing in it is shared, and it can be spent
    assert np.isfinite(loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(optimizer: str) -> None:
    learner = toy("momentum", "int8", optimizer)
    state = after_steps(learner, 1)
    saved = learner.pack(state)
    assert all(isinstance(array, np.ndarray) for array in saved.values())
    onward, loss = learner.steps(state, rows(1), 3)
    again, same = learner.steps(learner.unpack(saved), rows(1), 3)
    assert float(loss) == float(same)
    for name, array in learner.pack(onward).items():
        np.testing.assert_array_equal(array, learner.pack(again)[name])


def test_a_checkpoint_of_another_learner_is_refused_by_the_leafs_name() -> None:
    learner = toy("momentum")
    saved = learner.pack(learner.init(1))
    with pytest.raises(ValueError, match="private/head is missing"):
        learner.unpack({name: array for name, array in saved.items() if name != "private/head"})
    with pytest.raises(ValueError, match=r"params is float32\[304\], not float32\[305\]"):
        learner.unpack(saved | {"params": saved["params"][1:]})
    with pytest.raises(ValueError, match=r"step is int64\[\], not int32\[\]"):
        learner.unpack(saved | {"step": np.array(1)})
    with pytest.raises(ValueError, match=r"^'extra\\n\\u20acx+' belongs to another learner$"):
        learner.unpack(saved | {"extra\n€" + "x" * 1000: np.zeros(1)})


def test_a_batch_may_be_larger_than_the_data() -> None:
    learner = toy()
    data = Dataset(*(array[:2] for array in rows(1)))
    _, loss = learner.steps(learner.init(1), data, 2)
    assert np.isfinite(loss)
