"""What the codecs promise, over many vectors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.learning.compress import BLOCK, CODECS, Arrays, Codec, int8

NAMES = tuple(CODECS)
PLAIN = {"int8", "uint8", "uint16", "float32"}


@cache
def compiled(name: str) -> Codec:
    codec = CODECS[name]()
    return Codec(name, jax.jit(codec.encode), jax.jit(codec.decode))


def there_and_back(name: str, x: np.ndarray, seed: int = 0) -> np.ndarray:
    codec = compiled(name)
    return np.asarray(codec.decode(codec.encode(jnp.asarray(x), jax.random.key(seed))))


def vector(seed: int, size: int = 600, spread: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=size) * np.exp(spread * random.normal(size=size))).astype(np.float32)


def numpy_decode(arrays: Arrays) -> np.ndarray:
    """int8 as anybody would decode it who has only numpy: the format, written a second time."""
    scale = (np.asarray(arrays["scale"]).astype(np.uint32) << 16).view(np.float32)
    values = np.asarray(arrays["values"])
    return values * np.repeat(scale, BLOCK)[: values.size]


def test_float32_changes_nothing() -> None:
    x = vector(0)
    np.testing.assert_array_equal(there_and_back("float32", x), x)


@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30))
def test_bfloat16_errs_by_half_a_unit_in_the_eighth_bit_at_most(seed: int, size: float) -> None:
    x = (vector(seed) * size).astype(np.float32)
    assert np.all(np.abs(there_and_back("bfloat16", x) - x) <= np.abs(x) * 2.0**-8)


@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30), st.integers(0, 2**31 - 1))
def test_int8_errs_by_less_than_one_step_of_its_block(seed: int, size: float, key: int) -> None:
    x = (vector(seed) * size).astype(np.float32)
    largest = [np.abs(x[i : i + BLOCK]).max() for i in range(0, len(x), BLOCK)]
    step = np.repeat(largest, BLOCK)[: len(x)] / 127 * (1 + 2.0**-7)
    assert np.all(np.abs(there_and_back("int8", x, key) - x) <= step * (1 + 1e-6))


def test_int8_is_unbiased() -> None:
    x, draws = vector(1, 256), 2000
    codec = int8()
    keys = jax.random.split(jax.random.key(3), draws)
    found = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(jnp.asarray(x), key))))(keys)
    step = np.abs(x).max() / 127 * (1 + 2.0**-7)
    deviation = step / 2 / np.sqrt(draws)  # of the mean, at most
    assert np.abs(np.mean(np.asarray(found, np.float64), axis=0) - x).max() < 5 * deviation


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_numpy_and_jax_decode_to_the_same_bits(name: str) -> None:
    codec = compiled(name)
    for spread in (1.0, 10.0):
        arrays = codec.encode(jnp.asarray(vector(2, spread=spread)), jax.random.key(1))
        if name == "bfloat16":
            expected = (np.asarray(arrays["values"]).astype(np.uint32) << 16).view(np.float32)
        else:
            expected = numpy_decode(arrays)
        np.testing.assert_array_equal(np.asarray(codec.decode(arrays)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_on_the_codecs_grid_come_through_exactly(name: str) -> None:
    zeros = np.zeros(300, np.float32)
    np.testing.assert_array_equal(there_and_back(name, zeros), zeros)
    whole = np.tile(np.array([-127, 0, 64, 127], np.float32), 75) * np.float32(
        0.25
    )  # steps of a bfloat16 scale
    np.testing.assert_array_equal(there_and_back(name, whole), whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.uint32(0x7F800001).view(np.float32)])
def test_what_is_not_finite_stays_not_finite(name: str, bad: float) -> None:
    x = vector(4)
    x[300] = bad
    found = there_and_back(name, x)
    assert not np.isfinite(found[300])
    assert np.isfinite(found[:BLOCK]).all()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_but_finite_numbers_stay_finite_and_small_ones_may_vanish(name: str) -> None:
    x = np.full(300, np.float32(1e-42))
    assert np.abs(there_and_back(name, x)).max() <= 2e-42
    if name != "bfloat16":  # whose largest number is below float32's
        x[0] = np.finfo(np.float32).max
        assert np.isfinite(there_and_back(name, x)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 1000])
def test_sizes_depend_on_the_length_only_and_dtypes_are_plain(name: str, size: int) -> None:
    codec = CODECS[name]()
    shapes = [jax.eval_shape(codec.encode, jnp.zeros(size), jax.random.key(0))]
    shapes.append(jax.eval_shape(codec.encode, jnp.asarray(vector(0, size)), jax.random.key(1)))
    assert shapes[0] == shapes[1]
    assert {str(array.dtype) for array in shapes[0].values()} <= PLAIN
    assert jax.eval_shape(codec.decode, shapes[0]) == jax.ShapeDtypeStruct((size,), jnp.float32)


def test_rounding_follows_the_key() -> None:
    x = vector(5)
    np.testing.assert_array_equal(there_and_back("int8", x, 1), there_and_back("int8", x, 1))
    assert np.any(there_and_back("int8", x, 1) != there_and_back("int8", x, 2))
