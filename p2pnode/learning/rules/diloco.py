"""DiLoCo for a pair: an outer step with Nesterov momentum towards where the pair has come.

Douillard et al. 2023 (arXiv:2311.08105) let all nodes set out from the same parameters and take, with
the mean of what they made of them,

    gradient = slow - mean(fast)
    momentum = beta * momentum + gradient
    slow     = slow - rate * (gradient + beta * momentum)

with rate 0.7 and beta 0.9, the defaults here; the step is that of `torch.optim.SGD` with `nesterov`.

Deviations. The mean is the pair's, and each node takes the step from slow parameters and with momentum
of its own, as there is nobody to keep common ones. Part of `gradient` is then how far the pair was apart
when it set out, so the step also draws the two together. There may be rounds without an exchange: see
`outer.py`.
"""

import jax

from p2pnode.learning.rules.outer import Outer, outer
from p2pnode.learning.rules.rule import Payload, Rule, pull


def diloco(rate: float, beta: float) -> Rule:
    """DiLoCo for a pair; rate 1 and beta 0 are plain averaging.

    Args:
        rate: outer learning rate.
        beta: how much momentum keeps from exchange to exchange; it makes steps up to 1 / (1 - beta)
            times longer.
    """

    def step(
        state: Outer, own: Payload, partners: Payload, weights: jax.Array, present: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        progress = state.fast - state.slow + pull(own["params"], partners["params"], weights, present)
        momentum = beta * state.memory + progress
        return rate * (progress + beta * momentum), momentum

    return outer("diloco", lambda state: {"params": state.fast}, step)
