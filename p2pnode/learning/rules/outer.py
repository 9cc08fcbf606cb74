"""What rules with an outer step share: slow parameters, from which the fast ones set out.

Local steps move the fast parameters. An exchange makes one step of the slow ones out of all that has
come together since their last (Zhang et al. 2019, Lookahead, arXiv:1907.08610), and the fast ones take
their place:

    slow'   = slow + step
    params' = slow' + (params - fast)        fast: the parameters as they were when the snapshot was taken

Local steps taken since the snapshot are so kept. A round without an exchange makes no outer step: its
progress waits for the next. With two exchanges in one round there are two steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule


class Outer(NamedTuple):
    """What the rule remembers.

    Attributes:
        slow: f32[n], the parameters after the last outer step.
        fast: f32[n], the parameters at the last snapshot.
        turn: i32[], of that snapshot.
        memory: f32[n], what the steps carry over from one to the next, such as momentum.
    """

    slow: jax.Array
    fast: jax.Array
    turn: jax.Array
    memory: jax.Array


Step = Callable[[Outer, Payload, Payload, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(state, own, partners, weights, present) -> (step of the slow parameters, memory)`."""


def outer(
    name: str,
    send: Callable[[Outer], Payload],
    step: Step,
    feedback: bool = True,
    dense: frozenset[str] = frozenset(),
) -> Rule:
    """A rule with slow parameters.

    Args:
        name: as in manifests.
        send: what goes to a partner.
        step: what the slow parameters make of it; not used when no partner is there.
        feedback: as in `Rule`.
        dense: as in `Rule`.
    """

    def share(state: Outer, params: jax.Array, key: jax.Array, turn: jax.Array) -> tuple[Outer, Payload]:
        state = state._replace(fast=params, turn=jnp.asarray(turn, jnp.int32))
        return state, send(state)

    def merge(
        state: Outer,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Outer, jax.Array]:
        taken, memory = step(state, own, partners, weights, present)
        moved = state._replace(slow=state.slow + taken, memory=memory)
        here = jnp.max(present) > 0
        change = jnp.where(here, moved.slow - state.fast, 0.0)
        return jax.tree.map(lambda new, old: jnp.where(here, new, old), moved, state), params + change

    return Rule(
        name=name,
        init=lambda params: Outer(params, params, jnp.int32(0), jnp.zeros_like(params)),
        local=lambda state, start, end: (state, end),
        share=share,
        merge=merge,
        view=lambda state, params: params,
        conserves=False,
        feedback=feedback,
        dense=dense,
    )
