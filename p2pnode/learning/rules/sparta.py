"""SPARTA: each exchange averages a few entries from all over the model, chosen from a shared seed.

Sparse parameter averaging (Beton et al. 2025, openreview.net/forum?id=stFPf3gzq1): parameters change slowly,
so averaging a random 0.5 % of them after every step keeps models together at 1/200 of the bytes. The
seed is shared and both ends number an exchange alike, so no index travels.

Of the ways to choose in the authors' code this is a shuffled partition: with period P = 1 / density, the
vector is cut into runs of P entries, and each turn takes one entry of every run, so that P turns
take every entry once. Where in its run a turn begins is drawn anew for each run and each P turns.

Deviations. The authors shuffle the whole vector, which takes a sort; this draws n / P numbers. They
average over all nodes after every step; here it is a pair after a round, so a `density` of H times
theirs is as much for rounds of H steps.
"""

import math

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.fragments import partly
from p2pnode.learning.rules.rule import Rule


def sparta(density: float) -> Rule:
    """Averaging of a few scattered entries.

    Args:
        density: the part of all entries that an exchange averages; 1 is plain averaging.
    """
    period = math.ceil(1 / density)
    return partly("sparta", lambda size, turn: scattered(size, turn, period))


def scattered(size: int, turn: jax.Array, period: int) -> jax.Array:
    """One entry out of every `period`, i32[ceil(size / period)]; all of them in `period` turns."""
    runs = -(-size // period)
    key = jax.random.fold_in(jax.random.key(0), turn // period)
    begin = (jax.random.bits(key, (runs,)) % period).astype(jnp.int32)
    return jnp.arange(runs, dtype=jnp.int32) * period + (begin + turn) % period
