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

Ours is the *correction*. The local steps themselves still lead to the node's own optimum. SCAFFOLD
(Karimireddy et al. 2020, arXiv:1910.06378) takes what is peculiar to a node out of them: where its steps
usually go less where everybody's go. That costs it a second vector on the way. Here both are at hand. Where
the node's own go is the running mean of its progress; and where momentum is steady, it is the swarm's
progress over 1 - beta. So a share of the difference is added to each round, and no byte is sent for it:

    half     = start - (progress + beta * momentum + correction * ((1 - beta) * momentum - usual))
    usual    = running mean of progress, over about 33 rounds

At a share of 1 nothing would hold the mean of all nodes in place: whatever direction momentum had, it would
keep.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull

KEPT = 0.97
"""Of a node's usual progress, from round to round: with .9 it follows the noise of single batches."""


class Momentum(NamedTuple):
    """What the rule remembers.

    Attributes:
        momentum: f32[n], subtracted from the parameters once a round.
        usual: f32[n], the node's own progress in a round, averaged over rounds.
        rounds: f32[], how many that holds.
    """

    momentum: jax.Array
    usual: jax.Array
    rounds: jax.Array


def momentum(beta: float, correction: float) -> Rule:
    """Quasi-global momentum; without beta and correction it is plain averaging.

    Args:
        beta: how much momentum keeps from round to round; it makes steps up to 1 / (1 - beta) times
            longer, so lower the learning rate with it.
        correction: the share of what is peculiar to the node's own data that is taken out of its progress.
    """

    def local(state: Momentum, start: jax.Array, end: jax.Array) -> tuple[Momentum, jax.Array]:
        progress = start - end
        peculiar = state.usual - (1.0 - beta) * state.momentum
        half = end - beta * state.momentum + correction * peculiar
        moved = beta * state.momentum + (1.0 - beta) * (start - half)
        newest = jnp.maximum(1.0 - KEPT, 1.0 / (state.rounds + 1.0))
        usual = state.usual + newest * (progress - state.usual)
        return Momentum(moved, usual, state.rounds + 1.0), half

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
        view=lambda state, params: params,
        additive=True,
    )
