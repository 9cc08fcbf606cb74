"""Two bits an entry: -3, -1, 1 or 3 times a scale for 128 of them.

Four even levels are the best quantizer of normal numbers with two bits to within 1 % when they stand about
one standard deviation apart (Max 1960); with outer levels at the block's largest number they would err by
60 % more. Which level is nearest is decided by that distance, then the scale is the one of least
squared error. No level is 0 and rounding is to nearest, so single vectors come out badly wrong (a third of
their length): what is lost must be sent later, by error feedback.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from p2pnode.learning.compress.codec import (
    Arrays,
    Codec,
    fitted,
    largest,
    length,
    pack,
    rows,
    shares,
    unpack,
    widen,
)

BLOCK = 128


def int2() -> Codec:
    """Blocks of 128 at four levels: 0.27 bytes an entry. Needs error feedback.

    A block with an entry that is not finite decodes to NaN throughout.
    """

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        blocks = rows(x, BLOCK)
        there = rows(jnp.ones_like(x), BLOCK)
        highest = largest(blocks)
        unit = shares(blocks, highest)
        deviation = jnp.sqrt(jnp.sum(unit * unit, axis=1) / jnp.sum(there, axis=1))[:, None]
        outer = jnp.where(jnp.abs(unit) > deviation, 3.0, 1.0)
        levels = jnp.where(unit < 0, -outer, outer)
        codes = ((levels + 3.0) / 2.0).astype(jnp.uint8).ravel()[: x.size]
        return {"scale": fitted(unit, levels * there, highest), "values": pack(codes, 2), "length": length(x)}

    def decode(arrays: Mapping[str, jax.Array]) -> jax.Array:
        codes = unpack(arrays["values"], 2, len(arrays["length"]))
        levels = 2.0 * codes.astype(jnp.float32) - 3.0
        return (rows(levels, BLOCK) * widen(arrays["scale"])[:, None]).ravel()[: codes.size]

    return Codec("int2", encode, decode, feedback=True)
