"""What the codecs promise, over many vectors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.learning.compress import BLOCK, CODECS, Arrays, Codec, int4, int8
from p2pnode.learning.compress.codec import uniform
from p2pnode.learning.compress.integers import SMALL_BLOCK
from p2pnode.learning.compress.top import CHUNK
from p2pnode.learning.compress.two import BLOCK as PAIR_BLOCK

NAMES = tuple(CODECS)
TOP = {name: int(name[3:]) for name in NAMES if name.startswith("top")}
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


def widened(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def numpy_decode(name: str, arrays: Arrays) -> np.ndarray:
    """What anybody would write who has only numpy: the formats, a second time."""
    got = {part: np.asarray(array) for part, array in arrays.items()}
    if name == "bfloat16":
        return widened(got["values"])
    scale, size = widened(got["scale"]), len(got["length"] if "length" in got else got["values"])
    if name in TOP:
        return numpy_top(TOP[name], got["kept"], scale)[:size]
    if name == "int8":
        values, block = got["values"].astype(np.float32), BLOCK
    elif name == "int4":
        values = (
            np.stack([got["values"] & 15, got["values"] >> 4], axis=1).ravel()[:size].astype(np.float32) - 8
        )
        block = SMALL_BLOCK
    else:
        codes = np.stack([got["values"] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
        values, block = 2 * codes.ravel()[:size].astype(np.float32) - 3, PAIR_BLOCK
    return np.asarray(values * np.repeat(scale, block)[:size])


def numpy_top(ratio: int, kept: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Bit by bit: a row of bits that tells places' upper parts, then their lower parts, then levels."""
    width = ratio.bit_length() - 1
    chunks = []
    for row in kept:
        bits = np.unpackbits(row)
        k = len(bits) // (width + 4)
        chunk = np.zeros(k * ratio, np.float32)
        for i, position in enumerate(np.flatnonzero(bits[: 2 * k])[:k]):
            lower, code = bits[2 * k + i * width :][:width], bits[(2 + width) * k + 2 * i :][:2]
            place = int(position - i) * ratio + int(sum(int(bit) << j for j, bit in enumerate(lower)))
            if place < len(chunk):
                chunk[place] += (1 + code[0]) * (-1.0 if code[1] else 1.0)
        chunks.append(chunk)
    return np.asarray(np.array(chunks) * scale[:, None]).ravel()


def test_float32_changes_nothing() -> None:
    x = vector(0)
    np.testing.assert_array_equal(there_and_back("float32", x), x)


@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30))
def test_bfloat16_errs_by_half_a_unit_in_the_eighth_bit_at_most(seed: int, size: float) -> None:
    x = (vector(seed) * size).astype(np.float32)
    assert np.all(np.abs(there_and_back("bfloat16", x) - x) <= np.abs(x) * 2.0**-8)


@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30), st.integers(0, 2**31 - 1))
def test_integers_err_by_less_than_one_step_of_their_block(seed: int, size: float, key: int) -> None:
    x = (vector(seed) * size).astype(np.float32)
    for name, block, levels in (("int8", BLOCK, 127), ("int4", SMALL_BLOCK, 7)):
        largest = [np.abs(x[i : i + block]).max() for i in range(0, len(x), block)]
        step = np.repeat(largest, block)[: len(x)] / levels * (1 + 2.0**-7)
        assert np.all(np.abs(there_and_back(name, x, key) - x) <= step * (1 + 1e-6))


@pytest.mark.parametrize(("codec", "levels"), [(int8(), 127), (int4(), 7)])
def test_integers_are_unbiased(codec: Codec, levels: int) -> None:
    x, draws = vector(1, SMALL_BLOCK), 2000
    keys = jax.random.split(jax.random.key(3), draws)
    found = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(jnp.asarray(x), key))))(keys)
    step = np.abs(x).max() / levels * (1 + 2.0**-7)
    deviation = step / 2 / np.sqrt(draws)  # of the mean, at most
    assert np.abs(np.mean(np.asarray(found, np.float64), axis=0) - x).max() < 5 * deviation


@pytest.mark.parametrize("name", ["int2", "top16", "top128"])
@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30), st.floats(0.0, 8.0))
def test_what_is_lost_is_always_less_than_what_there_was(
    name: str, seed: int, size: float, spread: float
) -> None:
    """All that error feedback needs: what waits to be sent stays bounded."""
    x = vector(seed, spread=spread)
    x = (x / np.abs(x).max() * size).astype(np.float32)
    lost = (there_and_back(name, x).astype(np.float64) - x) / size
    assert np.sum(lost**2) < np.sum((x.astype(np.float64) / size) ** 2)


@pytest.mark.parametrize(("name", "ratio"), TOP.items())
def test_the_largest_of_each_chunk_are_kept_and_the_rest_is_zero(name: str, ratio: int) -> None:
    x = vector(6, 2 * CHUNK, 0.0)
    found = there_and_back(name, x).reshape(2, CHUNK)
    for chunk, kept in zip(np.abs(x).reshape(2, CHUNK), found != 0, strict=True):
        assert kept.sum() == CHUNK // ratio
        assert chunk[kept].min() >= chunk[~kept].max()
    assert np.all(np.sign(found[found != 0]) == np.sign(x.reshape(2, CHUNK)[found != 0]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "float32"])
def test_numpy_and_jax_decode_to_the_same_bits(name: str) -> None:
    codec = compiled(name)
    for spread in (1.0, 10.0):
        arrays = codec.encode(jnp.asarray(vector(2, spread=spread)), jax.random.key(1))
        np.testing.assert_array_equal(np.asarray(codec.decode(arrays)), numpy_decode(name, arrays))


@pytest.mark.parametrize("name", ["int4", "int2", *TOP])
@given(st.integers(0, 2**32 - 1))
def test_nonsense_is_decoded_to_the_same_by_everybody(name: str, seed: int) -> None:
    random, codec = np.random.default_rng(seed), compiled(name)
    shapes = jax.eval_shape(codec.encode, jnp.zeros(600), jax.random.key(0))
    noise = {
        part: random.integers(0, 2**16 if part == "scale" else 2**8, spec.shape).astype(spec.dtype)
        for part, spec in shapes.items()
    }
    noise["scale"] &= 0xBFFF  # a scale that is not finite is seen by whoever decodes
    found = codec.decode({part: jnp.asarray(array) for part, array in noise.items()})
    expected = numpy_decode(name, noise)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-37)  # hardware may flush what is not normal
    assert found.shape == (600,)


@pytest.mark.parametrize("name", NAMES)
def test_many_vectors_at_once_come_out_as_each_alone(name: str) -> None:
    codec, x = CODECS[name](), jnp.asarray(np.stack([vector(7), vector(8)]))
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(lambda x, key: codec.decode(codec.encode(x, key))))(x, keys)
    alone = [compiled(name).decode(compiled(name).encode(*pair)) for pair in zip(x, keys, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [("int8", 1.01), ("int4", 0.532), ("int2", 0.266), ("top16", 0.065), ("top32", 0.039), ("top64", 0.022)],
)
def test_bytes_are_as_few_as_promised(name: str, bytes_each: float) -> None:
    for size in (4810, 100_000):
        arrays = jax.eval_shape(CODECS[name]().encode, jnp.zeros(size), jax.random.key(0))
        assert sum(array.size * array.dtype.itemsize for array in arrays.values()) < bytes_each * size


@pytest.mark.parametrize("name", NAMES)
def test_numbers_on_the_codecs_grid_come_through_exactly(name: str) -> None:
    zeros = np.zeros(300, np.float32)
    np.testing.assert_array_equal(there_and_back(name, zeros), zeros)
    few = np.zeros(300, np.float32)
    few[[3, 50, 51, 299]] = [-2, 1, -1, 2]
    integers = {"int4": [-7, 0, 4, 7], "int2": [-3, -1, 1, 3]}.get(name, [-127, 0, 64, 127])
    whole = few if name in TOP else np.tile(np.array(integers, np.float32), 75)
    steps = whole * np.float32(0.25)  # of a scale that is a bfloat16
    np.testing.assert_array_equal(there_and_back(name, steps), steps)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.uint32(0x7F800001).view(np.float32)])
def test_what_is_not_finite_stays_not_finite(name: str, bad: float) -> None:
    x = vector(4, 2 * CHUNK)
    x[CHUNK] = bad
    found = there_and_back(name, x)
    assert not np.isfinite(found[CHUNK])
    assert np.isfinite(found[:CHUNK]).all()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_but_finite_numbers_stay_finite_and_small_ones_may_vanish(name: str) -> None:
    x = np.full(300, np.float32(1e-42))
    assert np.abs(there_and_back(name, x)).max() <= 2e-42
    if name != "bfloat16":  # whose largest number is below float32's
        for count in (1, 150, 300):
            x[:count] = np.finfo(np.float32).max
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
    for name in ("int8", "int4"):
        np.testing.assert_array_equal(there_and_back(name, x, 1), there_and_back(name, x, 1))
        assert np.any(there_and_back(name, x, 1) != there_and_back(name, x, 2))


def test_numbers_for_rounding_are_even_and_owe_nothing_to_their_place_or_key() -> None:
    shape = (512, 256)
    one, other = (np.asarray(uniform(jax.random.key(seed), shape), np.float64) for seed in (1, 2))
    for numbers in (one, other):
        assert numbers.min() >= 0.0
        assert numbers.max() < 1.0
        counts = np.histogram(numbers, 64, (0, 1))[0]
        assert np.abs(counts - numbers.size / 64).max() < 5 * np.sqrt(numbers.size / 64)
        for axis in (0, 1):  # and neighbours nothing to each other
            a, b = np.delete(numbers, 0, axis).ravel(), np.delete(numbers, -1, axis).ravel()
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
