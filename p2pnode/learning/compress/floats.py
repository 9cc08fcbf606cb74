"""Floats of 32 and of 16 bits."""

import jax
import jax.numpy as jnp
from jax import lax

from p2pnode.learning.compress.codec import Arrays, Codec, upper_half, widen


def float32() -> Codec:
    """Everything as it is: 4 bytes an entry."""
    return Codec("float32", lambda x, key: {"values": jnp.copy(x)}, lambda arrays: arrays["values"])


def bfloat16() -> Codec:
    """The upper half of each float, rounded to nearest: 2 bytes an entry, relative error at most 2**-8.

    The bits travel as uint16, since plain numpy knows no bfloat16.
    """

    def encode(x: jax.Array, key: jax.Array) -> Arrays:
        rounded = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        return {"values": upper_half(lax.bitcast_convert_type(rounded, jnp.uint32))}

    return Codec("bfloat16", encode, lambda arrays: widen(arrays["values"]))
