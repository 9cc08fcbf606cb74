"""Stochastic gradient push (Assran et al. 2019, arXiv:1811.10792): averaging over one-way links.

Each node has a mass: a vector x and a weight w, at first its parameters and 1. It keeps one share of both and
sends one to each of s others, who add them to theirs. Nodes come to hold unequal masses where links are not
balanced, but x and w are then off by the same factor, and the model is their ratio:

    x_i, w_i = (x_i, w_i) / (s + 1) + sum of the shares that arrive
    z_i      = x_i / w_i

Local steps start at z and are added to x. So the sums of x and w over all nodes change by local steps only,
and without these all z go to the sum of x divided by the sum of w: the exact mean.

A lost message would take its mass with it. With `phases` a node therefore sends, as is usual for such links
(Hadjicostis et al. 2016), not a share but the sum of all shares so far, and the receiver takes what is
new in it: the next message brings what was lost. That needs the same neighbours in every `phases`-th round.
Codecs that lose something lose mass, unless these sums make it up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from p2pnode.learning.rules.rule import Payload, Rule


class PushSum(NamedTuple):
    """What the rule remembers. Masses are `params`, f32[n], and `weight`, f32[1].

    Attributes:
        mass: what the node holds.
        given: f32[phases, ...], the sum of the shares sent to each neighbour in rounds of each phase.
        taken: f32[phases, pushes, ...], the latest such sum from each who sends to this node.
        phase: i32, of the latest share.
    """

    mass: Payload
    given: Payload
    taken: Payload
    phase: jax.Array


def push_sum(pushes: int, phases: int) -> Rule:
    """Stochastic gradient push.

    Args:
        pushes: s, to how many others a node sends in a round.
        phases: how many rounds the graph takes to come round again, as many sending to each node as it sends
            to; 0 for graphs that do not, or where nothing is lost: any number may then send to a node.
    """

    def init(params: jax.Array) -> PushSum:
        mass = {"params": params, "weight": jnp.ones(1)}
        given = {name: jnp.zeros((phases, *part.shape)) for name, part in mass.items()}
        taken = {name: jnp.zeros((phases, pushes, *part.shape)) for name, part in mass.items()}
        return PushSum(mass, given, taken, jnp.int32(0))

    def local(state: PushSum, start: jax.Array, end: jax.Array) -> tuple[PushSum, jax.Array]:
        mass = state.mass | {"params": state.mass["params"] + (end - start)}
        return state._replace(mass=mass), start + (end - start) / mass["weight"]

    def share(state: PushSum, params: jax.Array, key: jax.Array, turn: jax.Array) -> tuple[PushSum, Payload]:
        part = {name: held / (pushes + 1) for name, held in state.mass.items()}
        if not phases:
            return state._replace(mass=part), part
        phase = turn % phases
        before = {name: sums[phase] for name, sums in state.given.items()}
        after = {name: sums + part[name] for name, sums in before.items()}
        # What the sums grew by, not the share: rounding then loses no mass.
        mass = {name: held - pushes * (after[name] - before[name]) for name, held in state.mass.items()}
        given = {name: sums.at[phase].set(after[name]) for name, sums in state.given.items()}
        return PushSum(mass, given, state.taken, phase), after

    def merge(
        state: PushSum,
        params: jax.Array,
        own: Payload,
        partners: Payload,
        weights: jax.Array,
        present: jax.Array,
    ) -> tuple[PushSum, jax.Array]:
        there = present[:, None] > 0
        taken, arrived = state.taken, partners
        if phases:
            known = {name: sums[state.phase] for name, sums in taken.items()}
            latest = {name: jnp.where(there, partners[name], sums) for name, sums in known.items()}
            arrived = {name: sums - known[name] for name, sums in latest.items()}
            taken = {name: sums.at[state.phase].set(latest[name]) for name, sums in taken.items()}
        more = {name: jnp.sum(jnp.where(there, parts, 0.0), axis=0) for name, parts in arrived.items()}
        mass = {name: held + more[name] for name, held in state.mass.items()}
        # The new ratio minus the old one, written so that nothing from nobody is exactly nothing.
        ratio = state.mass["params"] / state.mass["weight"]
        change = (more["params"] - more["weight"] * ratio) / mass["weight"]
        return state._replace(mass=mass, taken=taken), params + change

    return Rule(
        name="push-sum",
        init=init,
        local=local,
        share=share,
        merge=merge,
        view=lambda state, params: params,
        partners=pushes,
        symmetric=False,
        conserves=False,
        fixed_neighbours=phases > 0,
        on_nodes=False,
        feedback=not phases,
    )
