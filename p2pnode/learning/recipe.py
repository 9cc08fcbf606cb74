"""What a learner is made of, and the pure functions that follow from it.

They are written for one node and work under `vmap` for many. `learner.py` compiles them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

from p2pnode.learning.compress import Codec, int8
from p2pnode.learning.data import Dataset, Part, pick
from p2pnode.learning.layout import Layout
from p2pnode.learning.rules.rule import Payload, Rule
from p2pnode.learning.state import State
from p2pnode.learning.task import Task

Encoded = Mapping[str, jax.Array]
"""What a codec made of a payload: arrays named `<entry>/<part>`."""


@dataclass(frozen=True)
class Recipe:
    """What a learner is made of.

    Attributes:
        task: what is learned.
        layout: of its parameters.
        rule: how nodes average.
        codec: how that is written for the way.
        optimizer: of the local steps.
        agreed: rule, codec and their options, in values of JSON: the layout digest covers them.
        seed: of the first parameters, which are the same on all nodes.
        batch_size: rows that a local step sees.
    """

    task: Task
    layout: Layout
    rule: Rule
    codec: Codec
    optimizer: optax.GradientTransformation
    agreed: tuple[object, ...]
    seed: int | jax.Array
    batch_size: int


_BATCH, _LOSS, _RULE, _CODEC = range(4)  # uses of a node's key; a codec has one for each entry
_USES = 16


def _key(state: State, count: jax.Array, use: int) -> jax.Array:
    """The node's key for one `use` at the step or snapshot numbered `count`."""
    return jax.random.fold_in(state.key, _USES * count + use)


def init(recipe: Recipe, node_seed: jax.Array) -> State:
    """A node's first state: everybody's parameters, randomness of its own."""
    params = recipe.task.init(jax.random.key(recipe.seed))
    vector, private = recipe.layout.split(params)
    return _begin(recipe, vector, private, jax.random.key(node_seed))


def replace(recipe: Recipe, state: State, vector: jax.Array) -> State:
    """`state` with other shared parameters, and with rule and optimizer begun anew."""
    begun = _begin(recipe, vector, state.private, state.key)
    return begun._replace(step=state.step, snapshots=state.snapshots)


def _begin(recipe: Recipe, vector: jax.Array, private: dict[str, jax.Array], key: jax.Array) -> State:
    optimizer = recipe.optimizer.init((vector, _trained(private)))
    return State(
        params=vector,
        private=private,
        optimizer=optimizer,
        rule=recipe.rule.init(vector),
        start=vector,
        key=key,
        step=jnp.int32(0),
        snapshots=jnp.int32(0),
        residual=_residual(recipe, vector),
    )


def _residual(recipe: Recipe, vector: jax.Array) -> dict[str, jax.Array]:
    """Of a node that has sent nothing yet."""
    if not _feeds_back(recipe):
        return {}
    share = partial(recipe.rule.share, recipe.rule.init(vector), vector)
    _, payload = jax.eval_shape(share, jax.random.key(0), jnp.int32(0))
    return {entry: jnp.zeros((2, *values.shape)) for entry, values in payload.items()}


def _feeds_back(recipe: Recipe) -> bool:
    """Whether what the codec loses is added to what is sent next."""
    return recipe.codec.feedback and recipe.rule.feedback


def _trained(private: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The private leaves that have a gradient."""
    return {name: leaf for name, leaf in private.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}


def steps(recipe: Recipe, state: State, data: Dataset | Part, count: jax.Array) -> tuple[State, jax.Array]:
    """`count` local steps and their mean loss, nan for none."""

    def body(_: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, total = carry
        state, loss = _step(recipe, state, data)
        return state, total + loss

    state, total = lax.fori_loop(0, count, body, (state, jnp.float32(0)))
    return state, total / jnp.asarray(count, jnp.float32)


def _step(recipe: Recipe, state: State, data: Dataset | Part) -> tuple[State, jax.Array]:
    batch = pick(data, jax.random.bits(_key(state, state.step, _BATCH), (recipe.batch_size,)))

    def loss_of(trained: tuple[jax.Array, dict[str, jax.Array]]) -> jax.Array:
        vector, floats = trained
        return recipe.task.loss(
            recipe.layout.join(vector, state.private | floats), batch, _key(state, state.step, _LOSS)
        )

    trained = state.params, _trained(state.private)
    loss, gradient = jax.value_and_grad(loss_of)(trained)
    with jax.numpy_dtype_promotion("standard"):  # Adam in optax raises a float to an integer's power
        updates, optimizer = recipe.optimizer.update(gradient, state.optimizer, trained)
    vector, floats = optax.apply_updates(trained, updates)
    private = state.private | floats
    return state._replace(params=vector, private=private, optimizer=optimizer, step=state.step + 1), loss


def end_round(recipe: Recipe, state: State) -> State:
    """What the rule makes of the round's local steps; the next round starts there."""
    rule, params = recipe.rule.local(state.rule, state.start, state.params)
    return state._replace(rule=rule, params=params, start=params)


def share(recipe: Recipe, state: State, turn: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    """What goes to a partner, encoded.

    With error feedback (DeepSqueeze, Tang et al. 2019, arXiv:1907.07346) that is the payload plus what
    was lost of earlier ones. What this one loses replaces that when the exchange is complete.
    """
    key = _key(state, state.snapshots, _RULE)
    rule, payload = recipe.rule.share(state.rule, state.params, key, turn)
    meant = {entry: payload[entry] + pair[0] for entry, pair in state.residual.items()} or payload
    encoded = {
        f"{entry}/{part}": array
        for use, (entry, values) in enumerate(sorted(meant.items()), _CODEC)
        for part, array in _codec(recipe, entry).encode(values, _key(state, state.snapshots, use)).items()
    }
    state = state._replace(rule=rule, snapshots=state.snapshots + 1)
    if state.residual:
        sent, _ = decode(recipe, encoded)
        residual = {
            name: jnp.stack([pair[0], meant[name] - sent[name]]) for name, pair in state.residual.items()
        }
        state = state._replace(residual=residual)
    return state, encoded


def _codec(recipe: Recipe, entry: str) -> Codec:
    """How an entry of the payload is written."""
    return int8() if recipe.codec.feedback and entry in recipe.rule.dense else recipe.codec


def decode(recipe: Recipe, encoded: Encoded) -> tuple[Payload, jax.Array]:
    """What was encoded, and whether all of it is finite."""
    entries: dict[str, dict[str, jax.Array]] = {}
    for name, array in encoded.items():
        entry, part = name.split("/")
        entries.setdefault(entry, {})[part] = array
    decoded = {entry: _codec(recipe, entry).decode(parts) for entry, parts in entries.items()}
    finite = [jnp.all(jnp.isfinite(values)) for values in decoded.values()]
    return decoded, jnp.all(jnp.stack(finite))


def merge(recipe: Recipe, state: State, own: Encoded, partner: Payload, weight: jax.Array) -> State:
    """One completed exchange: `own` as it was encoded for it, the partner's decoded already."""
    sent, _ = decode(recipe, own)
    partners = jax.tree.map(lambda values: values[None], partner)
    weights = jnp.reshape(jnp.asarray(weight, jnp.float32), (1,))
    return merge_all(recipe, state, sent, partners, weights, jnp.ones(1))


def merge_all(
    recipe: Recipe, state: State, sent: Payload, partners: Payload, weights: jax.Array, present: jax.Array
) -> State:
    """What came from K partners at once: see `Rule.merge`. All of it is decoded."""
    rule, params = recipe.rule.merge(state.rule, state.params, sent, partners, weights, present)
    start = state.start + (params - state.params)
    # Who pushes never hears whether it arrived.
    done = jnp.any(present > 0) if recipe.rule.symmetric else True
    residual = {
        name: pair.at[0].set(jnp.where(done, pair[1], pair[0])) for name, pair in state.residual.items()
    }
    return state._replace(rule=rule, params=params, start=start, residual=residual)


def view(recipe: Recipe, state: State) -> jax.Array:
    """The vector to evaluate, serve and save; never the state's own memory."""
    return jnp.copy(recipe.rule.view(state.rule, state.params))


def metrics(
    recipe: Recipe, vector: jax.Array, private: dict[str, jax.Array], data: Dataset
) -> dict[str, jax.Array]:
    """The task's metrics of one model."""
    return recipe.task.metrics(recipe.layout.join(vector, private), data)
