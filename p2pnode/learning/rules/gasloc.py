"""GASLoC: gossip with a momentum on what was reached before the gossip.

Cagnasso, Belilovsky and Oyallon 2026 (arXiv:2606.11081). One round, with g the local steps' progress
and l the weights of the edges:

    v_i  = x_i + eta * g_i
    x_i' = v_i - alpha * sum_j l_ij (v_i - v_j) + gamma * (v_i - v_i of the round before)

Where everybody averages with everybody, the nodes' mean moves as in DiLoCo with rate eta and Nesterov
momentum gamma. That also says what stands for v before the first round: the first parameters.

The formula is that of a transcription by others; the paper itself, and the values in its experiments,
could not be read. So the defaults are DiLoCo's eta, and a gamma for random pairs: without local steps
64 nodes agree quickly with gamma 0.5, hardly with 0.7, and drift apart with 0.8 (measured).

Deviation. The momentum is added when the local steps end, whether or not an exchange follows; what is
sent is the parameters without it, as the formula has it. So the exchange itself is plain averaging,
which conserves the pair's sum and may be late.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, pull


class Accelerated(NamedTuple):
    """What the rule remembers.

    Attributes:
        reached: f32[n], v of the last round.
        momentum: f32[n], what was added to it.
    """

    reached: jax.Array
    momentum: jax.Array


def gasloc(eta: float, alpha: float, gamma: float) -> Rule:
    """GASLoC; eta 1, alpha 1 and gamma 0 are plain averaging.

    Args:
        eta: outer learning rate.
        alpha: gossip step, times the weight of an exchange.
        gamma: momentum.
    """

    def local(state: Accelerated, start: jax.Array, end: jax.Array) -> tuple[Accelerated, jax.Array]:
        reached = end + (eta - 1.0) * (end - start)
        momentum = gamma * (reached - state.reached)
        return Accelerated(reached, momentum), reached + momentum

    def merge(
        state: Accelerated,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Accelerated, jax.Array]:
        return state, params + alpha * pull(own["params"], partners["params"], weights, present)

    return Rule(
        name="gasloc",
        init=lambda params: Accelerated(params, jnp.zeros_like(params)),
        local=local,
        share=lambda state, params, key, turn: (state, {"params": params - state.momentum}),
        merge=merge,
        view=lambda state, params: params,
        additive=True,
    )
