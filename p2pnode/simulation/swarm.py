"""n virtual nodes as one program: the functions of `learning/recipe.py` under `vmap`, many ticks as a `scan`.

Time is cut into *ticks*. In each, some nodes take local steps, then some end their round, then some
share a snapshot, then some merge what their partners have shared last. Which do so is data, made
beforehand (`timeline.py`), so that one compiled program serves every schedule. A snapshot stays until
its node shares the next one, as on a node: an exchange that takes many ticks merges what was sent
when it began.

The nodes may be spread over all local devices: the leading axis of everything is cut among them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from p2pnode.learning import recipe as pure
from p2pnode.learning.data import Dataset, Part
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.rules.rule import Payload
from p2pnode.learning.state import State

EVALUATED = 8
"""Nodes evaluated at once. What that takes in memory grows with the model, so of large ones it is fewer."""

BLOCK = 32
"""Nodes that take their local steps at once on a device. What they compute with then stays in its cache for
all the steps: with thousands at once, each step would fetch every model from memory and put it back."""

PARAMETERS = 1 << 17
"""Of all nodes that are evaluated at once; a single node may have more."""


class Ticks(NamedTuple):
    """What happens in each of some ticks.

    Attributes:
        steps: bool[ticks, n], who takes a chunk of local steps.
        ends: bool[ticks, n], who ends its round.
        shares: bool[ticks, n], who takes a snapshot.
        turns: i32[ticks, n], of which turn it is.
        partners: i32[ticks, n, K], whose last snapshots each merges.
        weights: f32[ticks, n, K].
        present: f32[ticks, n, K], 0 or 1.
    """

    steps: Any
    ends: Any
    shares: Any
    turns: Any
    partners: Any
    weights: Any
    present: Any


class Swarm(NamedTuple):
    """All nodes at one moment; every leaf has n as its first axis.

    Attributes:
        states: of the nodes.
        sent: the last snapshot of each, decoded.
    """

    states: State
    sent: Payload


@dataclass(frozen=True)
class Engine:
    """The compiled functions for swarms of one kind.

    Attributes:
        recipe: what a node computes; its seed and learning rate are arguments of the functions instead.
        optimizer: of a learning rate.
        chunk: local steps that a node takes in a tick.
        server: whether everybody's partner is the mean of all, weighted by `weights[:, 0]`.
    """

    recipe: Recipe
    optimizer: Callable[[Any], optax.GradientTransformation]
    chunk: int
    server: bool = False

    @cached_property
    def start(self) -> Callable[[Any, Any, Any], Swarm]:
        """`(rate, seed, node_seeds u32[n]) -> swarm`."""

        def start(rate: jax.Array, seed: jax.Array, node_seeds: jax.Array) -> Swarm:
            recipe = replace(self._at(rate), seed=seed)
            states = jax.vmap(partial(pure.init, recipe))(node_seeds)
            _, sent = self._share(recipe, states, jnp.zeros(len(node_seeds), jnp.int32))
            return Swarm(states, jax.tree.map(jnp.zeros_like, sent))

        return jax.jit(start)

    @cached_property
    def advance(self) -> Callable[[Any, Swarm, Part, Ticks], Swarm]:
        """`(rate, swarm, data, ticks) -> swarm`. Spends `swarm`."""

        def advance(rate: jax.Array, swarm: Swarm, data: Part, ticks: Ticks) -> Swarm:
            tick = partial(self._tick, self._at(rate), data)
            return lax.scan(tick, swarm, ticks)[0]

        return jax.jit(advance, donate_argnums=1)

    @cached_property
    def views(self) -> Callable[[Any, Swarm], jax.Array]:
        """`(rate, swarm) -> f32[n, size]`: what each node shows as its model."""
        return jax.jit(lambda rate, swarm: jax.vmap(partial(pure.view, self._at(rate)))(swarm.states))

    @cached_property
    def judge(self) -> Callable[[Any, Any, Dataset], dict[str, jax.Array]]:
        """`(vectors f32[m, size], private[m, ...], data) -> metrics`, each f32[m]."""

        def judge(vectors: jax.Array, private: dict[str, jax.Array], data: Dataset) -> dict[str, jax.Array]:
            def judged(one: tuple[jax.Array, dict[str, jax.Array]]) -> dict[str, jax.Array]:
                return pure.metrics(self.recipe, *one, data)

            at_once = max(1, min(EVALUATED, PARAMETERS // self.recipe.layout.size))
            metrics: dict[str, jax.Array] = lax.map(judged, (vectors, private), batch_size=at_once)
            return metrics

        return jax.jit(judge)

    @cached_property
    def payload_bytes(self) -> int:
        """Of one snapshot as it travels."""
        _, encoded = jax.eval_shape(
            lambda: pure.share(self.recipe, pure.init(self.recipe, jnp.uint32(0)), jnp.int32(0))
        )
        return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(encoded))

    def _at(self, rate: jax.Array) -> Recipe:
        return replace(self.recipe, optimizer=self.optimizer(rate))

    def _share(self, recipe: Recipe, states: State, turns: jax.Array) -> tuple[State, Payload]:
        def share(state: State, turn: jax.Array) -> tuple[State, Payload]:
            state, encoded = pure.share(recipe, state, turn)
            return state, pure.decode(recipe, encoded)

        return jax.vmap(share)(states, turns)

    def _tick(self, recipe: Recipe, data: Part, swarm: Swarm, tick: Ticks) -> tuple[Swarm, None]:
        def train(pool: Dataset, state: State, rows: jax.Array, count: jax.Array) -> State:
            return pure.steps(recipe, state, Part(pool, rows, count), jnp.int32(self.chunk))[0]

        trained = _in_blocks(train, data.pool, swarm.states, data.rows, data.count)
        states = _where(tick.steps, trained, swarm.states)
        states = _where(tick.ends, jax.vmap(partial(pure.end_round, recipe))(states), states)
        shared, fresh = self._share(recipe, states, tick.turns)
        states, sent = _where(tick.shares, shared, states), _where(tick.shares, fresh, swarm.sent)
        partners, weights = self._partners(sent, tick)
        merged = jax.vmap(partial(pure.merge_all, recipe))(states, sent, partners, weights, tick.present)
        return Swarm(_where(tick.present.any(axis=1), merged, states), sent), None

    def _partners(self, sent: Payload, tick: Ticks) -> tuple[Payload, jax.Array]:
        """For each node what its partners have sent, f32[n, K, ...], and their weights."""
        if not self.server:
            return jax.tree.map(lambda values: values[tick.partners], sent), tick.weights
        counted = tick.weights[:, 0] * tick.present[:, 0]
        shares = counted / jnp.maximum(counted.sum(), 1e-30)
        mean = jax.tree.map(lambda values: jnp.tensordot(shares, values, 1), sent)
        everywhere = jax.tree.map(
            lambda values: jnp.broadcast_to(values, (len(shares), 1, *values.shape)), mean
        )
        return everywhere, jnp.ones_like(tick.weights)


def spread(tree: Any, nodes: int, ticks: bool = False) -> Any:
    """Put the nodes' axis of all arrays (of `ticks` the second one) onto as many devices as divide it."""
    where = PartitionSpec(None, "nodes") if ticks else PartitionSpec("nodes")
    return jax.device_put(tree, NamedSharding(_devices(nodes), where))


def _devices(nodes: int) -> Mesh:
    devices = jax.local_devices()
    count = max(count for count in range(1, len(devices) + 1) if nodes % count == 0)
    return Mesh(np.array(devices[:count]), ("nodes",))


def _in_blocks(function: Callable[..., Any], pool: Dataset, *nodes: Any) -> Any:
    """`function(pool, *node)` for all nodes, on each device so many at once as its cache holds."""
    mesh = _devices(len(nodes[-1]))
    local = len(nodes[-1]) // mesh.size
    blocks = -(-local // BLOCK)

    def on_device(pool: Dataset, *nodes: Any) -> Any:
        return lax.map(lambda node: function(pool, *node), nodes, batch_size=-(-local // blocks))

    each = PartitionSpec("nodes")
    specs = (PartitionSpec(), *(each for _ in nodes))
    run = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)
    return run(pool, *nodes)


def _where(mask: jax.Array, new: Any, old: Any) -> Any:
    """Leaf by leaf, the `new` value of the nodes in `mask`, bool[n], and the `old` one of the others."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            return other  # a node's key never changes
        return jnp.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, new, old)
