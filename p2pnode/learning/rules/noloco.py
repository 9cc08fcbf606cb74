"""NoLoCo: an outer step with momentum, and a term that draws a pair's slow parameters together.

Kolehmainen et al. 2025 (arXiv:2506.10911), as in the authors' code, for a pair:

    momentum = alpha * momentum + beta * mean(fast - slow) + gamma * (mean(slow) - slow)
    slow     = slow + momentum

Their code has beta = gamma = 0.7 and alpha = 0.5, which are the defaults, with 50 local steps of Adam.

Deviations. The authors send `slow` and `fast - slow`; the formula needs no more of a partner than their
weighted sum, beta * (fast - slow) + gamma * slow, so that is what travels: half the bytes. (What is
lost is that slow parameters alone could be sent early, during the local steps.) A node's own part is
taken as it is, not as a codec wrote it. And there may be rounds without an exchange: see `outer.py`.

Without local steps, random pairs agree quickly with alpha 0.5; with alpha 0.9 and gamma 0.7 the nodes
drift apart instead (measured, 64 nodes).
"""

import jax

from p2pnode.learning.rules.outer import Outer, outer
from p2pnode.learning.rules.rule import Payload, Rule, pull


def noloco(alpha: float, beta: float, gamma: float) -> Rule:
    """NoLoCo; alpha 0, beta 1 and gamma 1 are plain averaging.

    Args:
        alpha: how much momentum keeps from exchange to exchange.
        beta: outer learning rate.
        gamma: how strongly slow parameters are drawn together.
    """

    def send(state: Outer) -> Payload:
        # At neutral rates this is `fast`, to the last bit.
        return {"params": state.fast + (beta - 1.0) * (state.fast - state.slow) + (gamma - 1.0) * state.slow}

    def step(
        state: Outer, own: Payload, partners: Payload, weights: jax.Array, present: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        drawn = pull(own["params"], partners["params"], weights, present)
        momentum = alpha * state.memory + beta * (state.fast - state.slow) + drawn
        return momentum, momentum

    return outer("noloco", send, step)
