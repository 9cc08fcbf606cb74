"""Any rule, seen through a running average of its parameters.

A node's parameters at one moment carry the noise of its last batches and of its last partner. Their mean
over time carries less (Polyak and Juditsky 1992), and is what the node shows, serves and settles on; the
rule goes on from the parameters themselves. The average is over rounds' ends: a plain mean of the rounds so
far until there are 1 / (1 - average) of them, so that the start is soon forgotten, exponential afterwards.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule, RuleState


class Averaged(NamedTuple):
    """What is remembered.

    Attributes:
        rule: by the rule itself.
        average: f32[n], the running average over earlier rounds' ends, without the current one.
        rounds: f32[], how many it holds.
    """

    rule: RuleState
    average: jax.Array
    rounds: jax.Array


def averaged(build: Callable[..., Rule], average: float, **options: float) -> Rule:
    """The rule that `build` makes of the other options, with a running average as its view.

    Args:
        build: the rule's own function.
        average: how much the view keeps from round to round. 0 is the rule's own view, and costs nothing.
        options: of the rule.
    """
    rule = build(**options)
    if average == 0.0:
        return rule

    def view(state: Averaged, params: jax.Array) -> jax.Array:
        newest = jnp.maximum(1.0 - average, 1.0 / jnp.maximum(state.rounds, 1.0))
        return (1.0 - newest) * state.average + newest * rule.view(state.rule, params)

    def local(state: Averaged, start: jax.Array, end: jax.Array) -> tuple[Averaged, jax.Array]:
        seen = view(state, start)  # the start is the last round's end, exchanges included
        inner, params = rule.local(state.rule, start, end)
        return Averaged(inner, seen, state.rounds + 1.0), params

    def share(
        state: Averaged, params: jax.Array, key: jax.Array, turn: jax.Array
    ) -> tuple[Averaged, Payload]:
        inner, payload = rule.share(state.rule, params, key, turn)
        return state._replace(rule=inner), payload

    def merge(
        state: Averaged,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[Averaged, jax.Array]:
        inner, params = rule.merge(state.rule, params, own, partners, weights, present)
        return state._replace(rule=inner), params

    return replace(
        rule,
        init=lambda params: Averaged(rule.init(params), jnp.zeros_like(params), jnp.float32(0)),
        local=local,
        share=share,
        merge=merge,
        view=view,
    )
