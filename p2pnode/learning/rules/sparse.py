"""SparseLoCo in a pair: what a codec drops of a node's progress waits, and is sent later.

Sarfi et al. 2025 (arXiv:2508.15706). Each node keeps what it could not send:

    total = beta * rest + progress
    sent  = codec(total)                 such as the largest 1-3 % of the entries, in 2 bits
    rest  = total - sent
    slow  = slow + alpha * mean(sent)

Only a codec that drops or rounds makes it sparse; what was really sent is what `own` decodes to. beta is
about 0.95 in the paper, where the decaying rest stands in for momentum.

Deviations. In the paper everybody hears of everybody's progress, so `slow` is the same on all nodes. In
pairs it drifts apart, and progress alone never mends that. So each exchange also carries one of `parts`
fragments of `slow`, all of them in turn, at least in 8 bits, and averages it. There may be rounds
without an exchange: see `outer.py`.
"""

import jax

from p2pnode.learning.rules.fragments import added, contiguous, taken
from p2pnode.learning.rules.outer import Outer, outer
from p2pnode.learning.rules.rule import Payload, Rule, pull


def sparse(beta: float, alpha: float, parts: int) -> Rule:
    """SparseLoCo in a pair; alpha 1 and parts 1 are plain averaging, with a codec that loses nothing.

    Args:
        beta: how much of what was not sent is kept from exchange to exchange.
        alpha: outer learning rate.
        parts: into how many fragments the slow parameters are cut; one travels with each exchange.
    """

    def total(state: Outer) -> jax.Array:
        return beta * state.memory + (state.fast - state.slow)

    def send(state: Outer) -> Payload:
        entries = contiguous(state.slow.size, state.turn, parts)
        return {"progress": total(state), "slow": taken(state.slow, entries)}

    def step(
        state: Outer, own: Payload, partners: Payload, weights: jax.Array, present: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        mean = own["progress"] + pull(own["progress"], partners["progress"], weights, present)
        drawn = pull(own["slow"], partners["slow"], weights, present)
        entries = contiguous(state.slow.size, state.turn, parts)
        return added(alpha * mean, entries, drawn), total(state) - own["progress"]

    return outer("sparse", send, step, feedback=False, dense=frozenset({"slow"}))
