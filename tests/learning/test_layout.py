"""What travels, laid out as one vector."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.learning.layout import layout_of
from p2pnode.learning.task import every_float
from tests.learning.made import toy_task


def of(**leaves: Any) -> bytes:
    """The digest of a task with these shared leaves."""
    task = replace(toy_task(), init=lambda key: leaves, shared=every_float)
    return layout_of(task).digest("average")


def test_splitting_and_joining_give_everything_back() -> None:
    task = toy_task()
    layout, params = layout_of(task), task.init(jax.random.key(1))
    vector, private = layout.split(params)
    assert (vector.shape, vector.dtype) == ((layout.size,), jnp.float32)
    assert set(private) == {"head", "seen"}
    joined = layout.join(vector, private)
    assert jax.tree.map(lambda leaf: leaf.dtype, joined) == jax.tree.map(lambda leaf: leaf.dtype, params)
    jax.tree.map(np.testing.assert_array_equal, joined, params)


def test_floats_are_shared_unless_the_task_says_otherwise() -> None:
    params = {
        "a": jnp.zeros(2),
        "b": jnp.int32(1),
        "c": [jnp.zeros(1, jnp.bfloat16)],
        "d": jnp.zeros(1, bool),
    }
    assert every_float(params) == {"a": True, "b": False, "c": [True], "d": False}


def test_the_digest_changes_with_anything_that_must_agree() -> None:
    digests = [
        of(a=jnp.zeros(6)),
        of(b=jnp.zeros(6)),
        of(a=jnp.zeros((2, 3))),
        of(a=jnp.zeros((3, 2))),
        of(a=jnp.zeros(6, jnp.bfloat16)),
        of(a=jnp.zeros(3), b=jnp.zeros(3)),
        of(a={"b": jnp.zeros(6)}),
        layout_of(toy_task()).digest("average"),
        layout_of(toy_task()).digest("momentum"),
        layout_of(toy_task()).digest("momentum", {"beta": 0.9}),
        layout_of(toy_task()).digest("momentum", {"beta": 0.8}),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 for digest in digests)


def test_the_digest_does_not_change_with_values_or_private_leaves() -> None:
    assert of(a=jnp.zeros(6)) == of(a=jnp.ones(6)) == of(a=jnp.zeros(6), n=jnp.int32(0))


def test_a_task_that_cannot_be_shared_is_refused() -> None:
    task = toy_task()
    with pytest.raises(ValueError, match=r"shares seen, which is int32"):
        layout_of(replace(task, shared=lambda params: jax.tree.map(lambda leaf: True, params)))
    with pytest.raises(ValueError, match="shares no parameters"):
        layout_of(replace(task, shared=lambda params: jax.tree.map(lambda leaf: False, params)))
    with pytest.raises(ValueError, match="two parameters of one name"):
        of(**{"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})
