"""Quasi-global momentum: a momentum that follows the swarm instead of the node's own data.

Where each node sees other data, ordinary momentum keeps pushing towards the node's own optimum
after every averaging. Lin et al. 2021 (QG-DSGDm, arXiv:2102.04761, algorithm 1) build it instead from
what the parameters did over a whole round, averaging included, which is close to what the swarm did:

    half     = start - (progress + beta * momentum)      progress = start - end, the local steps
    next     = average of half with the partners
    momentum = beta * momentum + (1 - beta) * (start - next)

Deviations from the paper. One of its steps is a whole round of ours, so the learning rate is inside
`progress` and momentum is in units of parameters. And since an exchange may be late, or not happen,
momentum is first updated with `half` in place of `next` and corrected when the exchange comes in: `merge`
changes `next` by what it adds to the parameters, and momentum by -(1 - beta) of that. When the exchange
is in before the next round ends, and with it momentum's next use, the result is the paper's.

As its view the rule keeps a running average of the parameters at each round's end: averaging over
time removes much of the noise of single nodes (Polyak averaging). It is a plain mean of
the rounds so far until there are 1 / (1 - average) of them, so that the start is soon forgotten.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull


class Momentum(NamedTuple):
    """What the rule remembers.

    Attributes:
        momentum: f32[n], subtracted from the parameters once a round.
        average: f32[n], the running average over earlier rounds' ends, without the current one.
        rounds: f32[], how many it holds.
    """

    momentum: jax.Array
    average: jax.Array
    rounds: jax.Array


def momentum(beta: float, average: float) -> Rule:
    """Quasi-global momentum.

    Args:
        beta: how much momentum keeps from round to round; it makes steps up to 1 / (1 - beta) times
            longer, so lower the learning rate with it. 0 is plain averaging.
        average: how much the view keeps from round to round. 0 views the parameters themselves.
    """

    def view(state: Momentum, params: jax.Array) -> jax.Array:
        newest = jnp.maximum(1.0 - average, 1.0 / jnp.maximum(state.rounds, 1.0))
        return (1.0 - newest) * state.average + newest * params

    def local(state: Momentum, start: jax.Array, end: jax.Array) -> tuple[Momentum, jax.Array]:
        half = end - beta * state.momentum
        moved = beta * state.momentum + (1.0 - beta) * (start - half)
        return Momentum(moved, view(state, start), state.rounds + 1.0), half

    def merge(
        state: Momentum,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Momentum, jax.Array]:
        change = pull(own["params"], partners["params"], weights, present)
        return state._replace(momentum=state.momentum - (1.0 - beta) * change), params + change

    return Rule(
        name="momentum",
        init=lambda params: Momentum(jnp.zeros_like(params), jnp.zeros_like(params), jnp.float32(0)),
        local=local,
        share=lambda state, params, key, turn: (state, {"params": params}),
        merge=merge,
        view=view,
    )
