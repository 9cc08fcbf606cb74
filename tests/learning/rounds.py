"""Rounds of a rule without a model: local work is made up, so that only the rule is seen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.compress import CODECS
from p2pnode.learning.rules.rule import Payload, Rule, RuleState

N = 300
"""Length of the vectors: more than one block of a codec."""

ONE, HALF = jnp.ones(1), jnp.full(1, 0.5)


def noise(seed: int, size: float = 1.0) -> jax.Array:
    """f32[N], normal."""
    return size * jnp.asarray(np.random.default_rng(seed).normal(size=N), jnp.float32)


def stacked(*payloads: Payload) -> Payload:
    """Payloads as a `merge` takes those of partners."""
    return {name: jnp.stack([payload[name] for payload in payloads]) for name in payloads[0]}


@cache
def _through(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    codec = CODECS[name]()
    return jax.jit(lambda values, key: codec.decode(codec.encode(values, key)))


@dataclass
class Node:
    """One node's end of a rule.

    Attributes:
        rule: what it follows.
        params: f32[N].
        start: f32[N], where the round began.
        state: the rule's.
    """

    rule: Rule
    params: jax.Array
    start: jax.Array = field(init=False)
    state: RuleState = field(init=False)

    def __post_init__(self) -> None:
        self.start, self.state = self.params, self.rule.init(self.params)

    def work(self, progress: jax.Array) -> None:
        """Local steps that make `progress`, within a round."""
        self.params = self.params + progress

    def end_round(self) -> None:
        self.state, self.params = self.rule.local(self.state, self.start, self.params)
        self.start = self.params

    def share(self, turn: int = 0, codec: str = "float32") -> Payload:
        """What the partner and this node itself decode of a snapshot."""
        key = jax.random.key(turn)
        self.state, payload = self.rule.share(self.state, self.params, key, jnp.int32(turn))
        return {name: _through(codec)(values, key) for name, values in payload.items()}

    def merge(self, own: Payload, partners: Payload, weights: jax.Array = HALF) -> None:
        present = jnp.ones(len(weights))
        self.state, params = self.rule.merge(self.state, self.params, own, partners, weights, present)
        self.start, self.params = self.start + (params - self.params), params


def exchange(
    left: Node,
    right: Node,
    turn: int = 0,
    codec: str = "float32",
    late: tuple[jax.Array, ...] = (),
) -> None:
    """Both ends average; `late`: work of each end between its snapshot and the merge."""
    sent = left.share(turn, codec), right.share(turn, codec)
    for node, progress in zip((left, right), late, strict=bool(late)):
        node.work(progress)
    left.merge(sent[0], stacked(sent[1]))
    right.merge(sent[1], stacked(sent[0]))
