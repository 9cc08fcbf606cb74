"""What a codec is, and what several of them are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Arrays = dict[str, jax.Array]

QUIET_NAN = 0x7FC0  # as bfloat16
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 0x0080  # the smallest normal bfloat16: below it hardware may or may not flush to zero


@dataclass(frozen=True)
class Codec:
    """A pair of pure functions.

    Attributes:
        name: as in manifests.
        encode: `(x: f32[n], key) -> arrays` of int8, uint8, uint16 or float32; `key` is for rounding.
        decode: `(arrays) -> f32[n]`, whatever the arrays hold.
        feedback: it errs so much that what it lost must be added to what is encoded next.
    """

    name: str
    encode: Callable[[jax.Array, jax.Array], Arrays]
    decode: Callable[[Mapping[str, jax.Array]], jax.Array]
    feedback: bool = False


def rows(x: jax.Array, width: int) -> jax.Array:
    """As [rows, width], the last filled up with zeros."""
    return jnp.pad(x, (0, -x.size % width)).reshape(-1, width)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers from 0 up to 1, f32[rows, width], for rounding: random enough for that, and for no more.

    A hash of each place's number and the key: MurmurHash3's finalizer (Appleby 2011), in which every bit of
    the input changes half of the output's. JAX's own generator takes ten times as long as all else here.
    """
    seeds = jax.random.bits(key, (2,))
    place = lax.broadcasted_iota(jnp.uint32, shape, 0) * shape[1] + lax.broadcasted_iota(jnp.uint32, shape, 1)
    bits = place * jnp.uint32(0x9E3779B9) + seeds[0]  # neighbours far apart
    bits = (bits ^ (bits >> 16) ^ seeds[1]) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    bits = bits ^ (bits >> 16)
    numbers: jax.Array = (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    return numbers


def pack(values: jax.Array, bits: int) -> jax.Array:
    """Numbers of 2 or 4 bits, u8[n], several to a byte, the first lowest."""
    shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)
    return jnp.sum(rows(values, len(shifts)) << shifts[None], axis=1, dtype=jnp.uint8)


def unpack(packed: jax.Array, bits: int, size: int) -> jax.Array:
    """The first `size` numbers that `pack` put into `packed`."""
    shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)
    values: jax.Array = (packed[:, None] >> shifts[None]) & jnp.uint8(2**bits - 1)
    return values.ravel()[:size]


def length(x: jax.Array) -> jax.Array:
    """An array without a byte, whose shape tells how long `x` is where packing leaves that open."""
    return jnp.zeros((x.size, 0), jnp.uint8)


def largest(blocks: jax.Array) -> jax.Array:
    """The largest magnitude in each row; NaN where not all is finite: XLA's maximum may overlook a NaN."""
    finite = jnp.all(jnp.isfinite(blocks), axis=1)
    return jnp.where(finite, jnp.max(jnp.abs(blocks), axis=1), jnp.nan)


def shares(blocks: jax.Array, highest: jax.Array) -> jax.Array:
    """Rows divided by the `highest` of each; zeros where that is not a normal number."""
    usable = jnp.isfinite(highest) & (highest >= widen(jnp.uint16(SMALLEST)))
    return jnp.where(usable[:, None], blocks / jnp.where(usable, highest, 1.0)[:, None], 0.0)


def fitted(x: jax.Array, levels: jax.Array, highest: jax.Array) -> jax.Array:
    """Bits of the bfloat16 scales with which `levels` come closest to `x`, row by row.

    Where every level has its number's sign and none is 0, the squared error is then less than the
    square of `x`, whatever `x` is: all that error feedback asks of a codec.

    Args:
        x: f32[rows, width], as `shares` of `highest`.
        levels: f32[rows, width], integers from -3 to 3.
        highest: f32[rows], NaN where something was not finite.
    """
    part = jnp.sum(x * levels, axis=1) / jnp.maximum(jnp.sum(levels * levels, axis=1), 1.0)
    rounded = lax.reduce_precision(part * highest, exponent_bits=8, mantissa_bits=7)
    return bounded(upper_half(lax.bitcast_convert_type(rounded, jnp.uint32)), highest, 3)


def bounded(scale: jax.Array, highest: jax.Array, levels: int) -> jax.Array:
    """Bits of scales kept so low that `levels` times them are finite; NaN where `highest` is not finite.

    Those that are not normal numbers are zero.
    """
    limit = lax.bitcast_convert_type(jnp.float32(LARGEST / levels), jnp.uint32)
    scale = jnp.where(scale < SMALLEST, jnp.uint16(0), jnp.minimum(scale, upper_half(limit)))
    return jnp.where(jnp.isfinite(highest), scale, jnp.uint16(QUIET_NAN))


def upper_half(bits: jax.Array) -> jax.Array:
    """The bfloat16 that a float32's bits (uint32) begin with, as uint16."""
    return (bits >> 16).astype(jnp.uint16)


def widen(bits: jax.Array) -> jax.Array:
    """The floats whose upper halves are `bits` (uint16)."""
    return lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)
