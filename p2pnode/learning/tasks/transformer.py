"""A small character transformer: what comes next, given at most so many characters before it.

Decoder blocks as in GPT-2 (Radford et al. 2019), with what later proved simpler: normalization before each
half by the root mean square and without gains (Zhang and Sennrich 2019, arXiv:1910.07467), no biases, one
matrix to read characters in and to write them out (Press and Wolf 2017, arXiv:1608.05859).
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from p2pnode.learning.task import Params

HEAD = 32
"""Numbers in one head of the attention."""


def init(characters: int, context: int, heads: int, layers: int, key: jax.Array) -> Params:
    """Normal weights with deviations of 1 / sqrt(inputs), in what ends a block smaller by sqrt(2 layers).

    All are drawn at once: each further draw takes a fifth of a second to compile.
    """
    width = HEAD * heads
    inner, outer, last = width**-0.5, (4 * width) ** -0.5, (2 * layers) ** -0.5
    block = {
        "attend": jnp.full((width, 3 * width), inner),
        "mix": jnp.full((width, width), inner * last),
        "up": jnp.full((width, 4 * width), inner),
        "down": jnp.full((4 * width, width), outer * last),
    }
    read = {"characters": jnp.full((characters, width), 0.02), "places": jnp.full((context, width), 0.02)}
    deviations, join = ravel_pytree({**read, "blocks": [block] * layers})
    return join(deviations * jax.random.normal(key, deviations.shape))


def logits_of(params: Params, read: jax.Array) -> jax.Array:
    """f32[rows, context, characters], of what follows each of `read`, i32[rows, context]."""
    x: jax.Array = params["characters"][read] + params["places"][None]
    for block in params["blocks"]:
        x = x + _attended(_normal(x) @ block["attend"]) @ block["mix"]
        x = x + jax.nn.gelu(_normal(x) @ block["up"]) @ block["down"]
    return jnp.matmul(_normal(x), params["characters"].T)


def _normal(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _attended(x: jax.Array) -> jax.Array:
    """Causal attention for queries, keys and values side by side, f32[rows, context, 3 width]."""
    rows, context, _ = x.shape
    queries, keys, values = jnp.moveaxis(x.reshape(rows, context, 3, -1, HEAD), 2, 0)
    scores = jnp.einsum("rqhd,rkhd->rhqk", queries, keys) * HEAD**-0.5
    past = jnp.tril(jnp.ones((context, context), bool))[None, None]
    chances = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
    return jnp.einsum("rhqk,rkhd->rqhd", chances, values).reshape(rows, context, -1)
