"""Blocks of entries as integers of 8 or 4 bits times one scale each.

Rounding is stochastic and unbiased: up with the probability of the part cut off, so that errors
average out over rounds. Scales are rounded up, so that no entry has to be clipped.
A block with an entry that is not finite decodes to NaN throughout.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from p2pnode.learning.compress.codec import (
    Arrays,
    Codec,
    bounded,
    largest,
    length,
    pack,
    rows,
    uniform,
    unpack,
    upper_half,
    widen,
)

BLOCK = 256  # entries of int8 that share a scale: 2 bytes of scale for 256, under 1 %
# Of int4: half as many take 6 % more bytes and err 10 % less, twice as many 3 % less and 9 % more (normal
# numbers; the heavier the tails, the more small blocks gain).
SMALL_BLOCK = 64


def int8() -> Codec:
    """Blocks of 256 as integers -127..127: about 1 byte an entry."""

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        scale, levels = _rounded(x, key, BLOCK, 127)
        return {"scale": scale, "values": levels}

    return Codec("int8", encode, lambda arrays: _scaled(arrays["values"], arrays["scale"], BLOCK))


def int4() -> Codec:
    """Blocks of 64 as integers -7..7, two to a byte: 0.53 bytes an entry."""

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        scale, levels = _rounded(x, key, SMALL_BLOCK, 7)
        return {
            "scale": scale,
            "values": pack((levels + jnp.int8(8)).astype(jnp.uint8), 4),
            "length": length(x),
        }

    def decode(arrays: Mapping[str, jax.Array]) -> jax.Array:
        values = unpack(arrays["values"], 4, len(arrays["length"])).astype(jnp.int8) - jnp.int8(8)
        return _scaled(values, arrays["scale"], SMALL_BLOCK)

    return Codec("int4", encode, decode)


def _rounded(x: jax.Array, key: jax.Array, block: int, levels: int) -> tuple[jax.Array, jax.Array]:
    """Scales u16[blocks], and the integers i8[n] that stand for `x`."""
    blocks = rows(x, block)
    scale = _scale(largest(blocks), levels)
    step = widen(scale)[:, None]
    usable = jnp.isfinite(step) & (step > 0)
    steps = jnp.where(usable, blocks / jnp.where(usable, step, 1.0), 0.0)
    rounded = jnp.floor(steps + uniform(key, blocks.shape))
    return scale, jnp.clip(rounded, -levels, levels).astype(jnp.int8).ravel()[: x.size]


def _scaled(values: jax.Array, scale: jax.Array, block: int) -> jax.Array:
    """What integers and scales stand for."""
    return (rows(values.astype(jnp.float32), block) * widen(scale)[:, None]).ravel()[: values.size]


def _scale(highest: jax.Array, levels: int) -> jax.Array:
    """Bits of the bfloat16 next above `highest` / `levels`; zero where that is not a normal number."""
    bits = lax.bitcast_convert_type(highest / levels, jnp.uint32)
    return bounded(upper_half(bits + jnp.uint32(0xFFFF)), highest, levels)
