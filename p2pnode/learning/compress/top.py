"""Only the largest entries, the rest as zeros: one of 16 to 128, at two bits, in chunks of up to 4096.

Which entries were kept takes more bits than their values. Kept places in ascending order are written after
Elias and Fano (1974): their lower bits as they are, and the rest as a row of bits, in which the i-th
place sets bit i + (place // ratio). For k places of k * ratio that takes log2(ratio) + 2 bits each, 0.6
bits more than the least possible, and as many bits whatever the places are.

Values are -2, -1, 1 or 2 times the chunk's scale, the one of least squared error. What is not kept must be
sent later, by error feedback; see Sarfi et al. 2025 (SparseLoCo, arXiv:2508.15706), which also keeps the
largest of each chunk and writes them with two bits.

Received bits may be anything: a place outside of the chunk is dropped, and one that is there twice adds up.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from p2pnode.learning.compress.codec import Arrays, Codec, fitted, largest, length, shares, widen

CHUNK = 4096  # entries at most: larger ones choose a little better, smaller ones follow layers' sizes


def top(ratio: int) -> Codec:
    """One of `ratio` entries, at least 8 of each chunk: `(log2(ratio) + 4) / 8 / ratio` bytes an entry.

    Needs error feedback. A chunk with an entry that is not finite decodes to NaN throughout.

    Args:
        ratio: a power of two.
    """

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        chunks = _chunks(x, ratio)
        highest = largest(chunks)
        unit = shares(chunks, highest)
        size = unit.shape[1]
        sizes, places = jax.lax.top_k(jnp.abs(unit), size // ratio)
        places = jnp.sort(jnp.where(sizes > 0, places, size), axis=1)  # zeros go where they are dropped
        kept = jnp.take_along_axis(unit, places, axis=1, mode="fill", fill_value=0)
        squares = kept * kept
        count = jnp.sum(sizes > 0, axis=1, keepdims=True, dtype=jnp.float32)
        outer = squares * count > jnp.sum(squares, axis=1, keepdims=True)  # above their root mean square
        levels = jnp.sign(kept) * jnp.where(outer, 2.0, 1.0)
        bits = jax.vmap(partial(_bits, ratio))(places, levels.astype(jnp.int32))
        return {
            "scale": fitted(kept, levels, highest),
            "kept": jnp.packbits(bits, axis=1),
            "length": length(x),
        }

    def decode(arrays: Mapping[str, jax.Array]) -> jax.Array:
        bits = jnp.unpackbits(arrays["kept"], axis=1)
        levels = jax.vmap(partial(_levels, ratio))(bits).astype(jnp.float32)
        return (levels * widen(arrays["scale"])[:, None]).ravel()[: len(arrays["length"])]

    return Codec(f"top{ratio}", encode, decode, feedback=True)


def _chunks(x: jax.Array, ratio: int) -> jax.Array:
    """As few chunks as can be, all of one size, which is a multiple of what takes whole bytes."""
    count = -(-x.size // CHUNK)
    size = -(-x.size // (count * 8 * ratio)) * 8 * ratio
    return jnp.pad(x, (0, count * size - x.size)).reshape(count, size)


def _bits(ratio: int, places: jax.Array, levels: jax.Array) -> jax.Array:
    """One chunk as u8[k * (log2(ratio) + 4)] of 0 and 1: the row of bits, lower bits of places, levels."""
    k = len(places)
    upper = jnp.zeros(2 * k, jnp.uint8).at[places // ratio + jnp.arange(k)].set(1)
    values = jnp.where(levels < 0, 1 - levels, jnp.maximum(levels, 1) - 1)
    lower, codes = _split(places % ratio, _width(ratio)), _split(values, 2)
    return jnp.concatenate([upper, lower, codes])


def _levels(ratio: int, bits: jax.Array) -> jax.Array:
    """What `_bits` was made of, as i32[k * ratio], zero where nothing was kept."""
    width = _width(ratio)
    k = len(bits) // (width + 4)
    upper, lower, codes = jnp.split(bits.astype(jnp.int32), [2 * k, (2 + width) * k])
    values = _join(codes, 2)
    levels = (values % 2 + 1) * (1 - 2 * (values // 2))
    which = jnp.cumsum(upper) - 1  # how many places come before the one that a set bit stands for
    entry = jnp.clip(which, 0, k - 1)
    places = (jnp.arange(2 * k) - which) * ratio + _join(lower, width)[entry]
    there = (upper > 0) & (which < k)
    # Integers add up to the same in any order, so both ends agree even on nonsense.
    return (
        jnp.zeros(k * ratio, jnp.int32)
        .at[jnp.where(there, places, k * ratio)]
        .add(levels[entry], mode="drop")
    )


def _width(ratio: int) -> int:
    return ratio.bit_length() - 1


def _split(numbers: jax.Array, width: int) -> jax.Array:
    """Numbers as their lowest `width` bits, one after the other."""
    return ((numbers[:, None] >> jnp.arange(width)[None]) & 1).astype(jnp.uint8).ravel()


def _join(bits: jax.Array, width: int) -> jax.Array:
    return jnp.sum(bits.reshape(-1, width) << jnp.arange(width)[None], axis=1)
