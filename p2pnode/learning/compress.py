"""Codecs: a float32 vector as fewer bytes.

Both ends of an exchange must decode the same arrays to the same floats, bit by bit, on any hardware;
else what one end gains is not what the other loses. So an integer codec's scales are bfloat16:
an integer of 8 bits times a number of 8 significant bits is exact in float32, in whatever order and
with whatever fused instructions it is computed. How large the arrays are depends on the vector's length only.

What was not finite stays not finite, so that the receiver can see it and refuse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

Arrays = dict[str, jax.Array]

BLOCK = 256  # entries that share a scale: 2 bytes of scale for 256, under 1 %
QUIET_NAN = 0x7FC0  # as bfloat16
SMALLEST = 0x0080  # the smallest normal bfloat16: below it hardware may or may not flush to zero


@dataclass(frozen=True)
class Codec:
    """A pair of pure functions.

    Attributes:
        name: as in manifests.
        encode: `(x: f32[n], key) -> arrays` of int8, uint8, uint16 or float32; `key` is for rounding.
        decode: `(arrays) -> f32[n]`.
    """

    name: str
    encode: Callable[[jax.Array, jax.Array], Arrays]
    decode: Callable[[Mapping[str, jax.Array]], jax.Array]


def float32() -> Codec:
    """Everything as it is: 4 bytes an entry."""
    return Codec("float32", lambda x, key: {"values": jnp.copy(x)}, lambda arrays: arrays["values"])


def bfloat16() -> Codec:
    """The upper half of each float, rounded to nearest: 2 bytes an entry, relative error at most 2**-8.

    The bits travel as uint16, since plain numpy knows no bfloat16.
    """

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        rounded = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        return {"values": _upper_half(lax.bitcast_convert_type(rounded, jnp.uint32))}

    return Codec("bfloat16", encode, lambda arrays: _widen(arrays["values"]))


def int8() -> Codec:
    """Blocks of 256 entries as integers -127..127 times one scale each: about 1 byte an entry.

    Rounding is stochastic and unbiased: up with the probability of the part cut off, so that errors
    average out over rounds. Scales are rounded up, so that no entry has to be clipped.
    A block with an entry that is not finite decodes to NaN throughout.
    """

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        blocks = _blocks(x)
        scale = _scale(jnp.max(jnp.abs(blocks), axis=1))
        step = _widen(scale)[:, None]
        usable = jnp.isfinite(step) & (step > 0)
        steps = jnp.where(usable, blocks / jnp.where(usable, step, 1.0), 0.0)
        rounded = jnp.floor(steps + jax.random.uniform(key, blocks.shape))
        return {"scale": scale, "values": jnp.clip(rounded, -127, 127).astype(jnp.int8).ravel()[: x.size]}

    def decode(arrays: Mapping[str, jax.Array]) -> jax.Array:
        values = arrays["values"]
        steps = _blocks(values.astype(jnp.float32))
        return (steps * _widen(arrays["scale"])[:, None]).ravel()[: values.size]

    return Codec("int8", encode, decode)


CODECS: Mapping[str, Callable[[], Codec]] = {"float32": float32, "bfloat16": bfloat16, "int8": int8}


def _blocks(x: jax.Array) -> jax.Array:
    """As [blocks, BLOCK], the last filled up with zeros."""
    return jnp.pad(x, (0, -x.size % BLOCK)).reshape(-1, BLOCK)


def _scale(largest: jax.Array) -> jax.Array:
    """Bits of the bfloat16 next above `largest` / 127; zero where that is not a normal number."""
    bits = lax.bitcast_convert_type(largest / 127.0, jnp.uint32)
    scale = _upper_half(bits + jnp.uint32(0xFFFF))
    scale = jnp.where(scale < SMALLEST, jnp.uint16(0), scale)
    return jnp.where(jnp.isfinite(largest), scale, jnp.uint16(QUIET_NAN))


def _upper_half(bits: jax.Array) -> jax.Array:
    return (bits >> 16).astype(jnp.uint16)


def _widen(bits: jax.Array) -> jax.Array:
    """The floats whose upper halves are `bits` (uint16)."""
    return lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)
