"""Everything a trainer calls, compiled: one node's learning as functions from state to state.

A `Learner` is put together once from a task, a rule, a codec and an optimizer. Its functions are pure:
whoever calls them keeps the state. Those that return a new state in place of the old one take the old
one's memory: `steps`, `end_round` and `merge` spend the state they are given.

Compiling is what a node's start waits for, so there are few functions, and how many steps to take is
an argument of the compiled function and not a part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from p2pnode.learning.compress import Codec, float32
from p2pnode.learning.data import Dataset
from p2pnode.learning.layout import Layout, leaf_name
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.rule import Payload, Rule
from p2pnode.learning.task import Task

EVALUATED = 8192  # rows evaluated at once; more are cut into parts, to bound the memory that takes


class State(NamedTuple):
    """One node's learning, a pytree.

    Attributes:
        params: f32[n], the shared parameters.
        private: the other leaves, by name.
        optimizer: the local optimizer's state.
        rule: the rule's state.
        start: f32[n], the parameters at the round's start, plus what exchanges have added since: so
            that `params - start` is the local steps' work alone.
        key: the node's random key. It never changes; `step` and `snapshots` tell its uses apart, so
            which rows a step sees depends on nothing that happens in the network.
        step: i32, local steps since the start.
        snapshots: i32, how often the node has shared.
    """

    params: jax.Array
    private: dict[str, jax.Array]
    optimizer: optax.OptState
    rule: Any
    start: jax.Array
    key: jax.Array
    step: jax.Array
    snapshots: jax.Array


@dataclass(frozen=True)
class Recipe:
    """What a learner is made of.

    Attributes:
        agreed: rule, codec and their options, for the layout digest.
        seed: of the first parameters, the same on all nodes.
        batch_size: rows a local step sees.
    """

    task: Task
    layout: Layout
    rule: Rule
    codec: Codec
    optimizer: optax.GradientTransformation
    agreed: tuple[object, ...]
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Learner:
    """The compiled functions, and what others must know of them. `encoded` is arrays by name.

    Attributes:
        task: what is learned.
        size: n, length of the shared vector.
        layout: SHA-256 digest of what is shared: names, shapes and dtypes, rule, codec and options.
        payload: shape and dtype of each encoded array, by name, in the order in which they travel.
        init: `(node_seed) -> state`: the same parameters on every node, randomness of its own.
        steps: `(state, data, count) -> (state, mean_loss)`: local steps on batches drawn with
            replacement; the loss of no steps is nan. Spends `state`.
        end_round: `(state) -> state`: the rule's say after the local steps. Spends `state`.
        share: `(state) -> (state, encoded)`: a snapshot of what goes to a partner.
        decode: `(encoded) -> (decoded, finite)`; `finite` is False when it holds NaN or infinity.
        merge: `(state, own_encoded, decoded, weight) -> state`: with one partner. Spends `state`.
        view: `(state) -> f32[n]`: what to evaluate, serve and save.
        evaluate: `(state, data) -> metrics` of the view's model.
        replace: `(state, vector) -> state`: with a donor's parameters, rule and optimizer begun anew.
        settle: `() -> (learner, convert)`: for exact averaging of what `view` shows.
        pack: `(state) -> arrays`: copies, for a checkpoint.
        unpack: `(arrays) -> state`. Raises ValueError naming a leaf that is missing or does not fit.
    """

    task: Task
    size: int
    layout: bytes
    payload: dict[str, jax.ShapeDtypeStruct]
    init: Callable[[int], State]
    steps: Callable[[State, Dataset, int], tuple[State, jax.Array]]
    end_round: Callable[[State], State]
    share: Callable[[State], tuple[State, dict[str, jax.Array]]]
    decode: Callable[[Mapping[str, Any]], tuple[Payload, jax.Array]]
    merge: Callable[[State, Mapping[str, Any], Payload, float], State]
    view: Callable[[State], jax.Array]
    evaluate: Callable[[State, Dataset], dict[str, jax.Array]]
    replace: Callable[[State, Any], State]
    settle: Callable[[], "tuple[Learner, Callable[[State], State]]"]
    pack: Callable[[State], dict[str, np.ndarray]]
    unpack: Callable[[Mapping[str, np.ndarray]], State]


def compiled(recipe: Recipe) -> Learner:
    """The learner of a recipe. Each function compiles at its first call."""
    return _compiled(recipe, jax.jit(partial(_metrics, recipe)))


def _compiled(recipe: Recipe, metrics: Callable[..., dict[str, jax.Array]]) -> Learner:
    init = jax.jit(partial(_init, recipe))
    share = jax.jit(partial(_share, recipe))
    view = jax.jit(lambda state: jnp.copy(recipe.rule.view(state.rule, state.params)))
    like = jax.eval_shape(init, jnp.uint32(0))
    payload = jax.eval_shape(share, like)[1]
    return Learner(
        task=recipe.task,
        size=recipe.layout.size,
        layout=recipe.layout.digest(*recipe.agreed),
        payload=dict(sorted(payload.items())),
        init=lambda node_seed: init(np.uint32(node_seed % 2**32)),
        steps=jax.jit(partial(_steps, recipe), donate_argnums=0),
        end_round=jax.jit(partial(_end_round, recipe), donate_argnums=0),
        share=share,
        decode=jax.jit(partial(_decode, recipe)),
        merge=jax.jit(partial(_merge, recipe), donate_argnums=0),
        view=view,
        evaluate=lambda state, data: _evaluate(metrics, view(state), state.private, data),
        replace=jax.jit(partial(_replace, recipe)),
        settle=lambda: _settle(recipe, metrics),
        pack=pack,
        unpack=partial(unpack, like),
    )


def _init(recipe: Recipe, node_seed: jax.Array) -> State:
    params = recipe.task.init(jax.random.key(recipe.seed))
    vector, private = recipe.layout.split(params)
    return _begin(recipe, vector, private, jax.random.key(node_seed))


def _begin(recipe: Recipe, vector: jax.Array, private: dict[str, jax.Array], key: jax.Array) -> State:
    optimizer = recipe.optimizer.init((vector, _floats(private)))
    zero = jnp.int32(0)
    return State(vector, private, optimizer, recipe.rule.init(vector), vector, key, zero, zero)


def _floats(private: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The private leaves that are trained."""
    return {name: leaf for name, leaf in private.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}


def _steps(recipe: Recipe, state: State, data: Dataset, count: int) -> tuple[State, jax.Array]:
    def body(_: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, total = carry
        state, loss = _step(recipe, state, data)
        return state, total + loss

    state, total = lax.fori_loop(0, count, body, (state, jnp.float32(0)))
    return state, total / count


def _step(recipe: Recipe, state: State, data: Dataset) -> tuple[State, jax.Array]:
    drawing, noise = jax.random.split(jax.random.fold_in(state.key, 2 * state.step))
    rows = jax.random.randint(drawing, (recipe.batch_size,), 0, len(data.y))
    batch = Dataset(data.x[rows], data.y[rows])

    def loss_of(trained: tuple[jax.Array, dict[str, jax.Array]]) -> jax.Array:
        vector, floats = trained
        return recipe.task.loss(recipe.layout.join(vector, state.private | floats), batch, noise)

    trained = state.params, _floats(state.private)
    loss, gradient = jax.value_and_grad(loss_of)(trained)
    updates, optimizer = recipe.optimizer.update(gradient, state.optimizer, trained)
    vector, floats = optax.apply_updates(trained, updates)
    return state._replace(
        params=vector, private=state.private | floats, optimizer=optimizer, step=state.step + 1
    ), loss


def _end_round(recipe: Recipe, state: State) -> State:
    rule, params = recipe.rule.local(state.rule, state.start, state.params)
    return state._replace(rule=rule, params=params, start=params)


def _share(recipe: Recipe, state: State) -> tuple[State, dict[str, jax.Array]]:
    key = jax.random.fold_in(state.key, 2 * state.snapshots + 1)
    rule, payload = recipe.rule.share(state.rule, state.params, key)
    encoded = {
        f"{entry}/{name}": array
        for index, (entry, vector) in enumerate(sorted(payload.items()))
        for name, array in recipe.codec.encode(vector, jax.random.fold_in(key, index)).items()
    }
    return state._replace(rule=rule, snapshots=state.snapshots + 1), encoded


def _decode(recipe: Recipe, encoded: Mapping[str, jax.Array]) -> tuple[Payload, jax.Array]:
    entries: dict[str, dict[str, jax.Array]] = {}
    for name, array in encoded.items():
        entry, part = name.rsplit("/", 1)
        entries.setdefault(entry, {})[part] = array
    decoded = {entry: recipe.codec.decode(arrays) for entry, arrays in entries.items()}
    return decoded, jnp.all(jnp.stack([jnp.all(jnp.isfinite(vector)) for vector in decoded.values()]))


def _merge(
    recipe: Recipe, state: State, own: Mapping[str, jax.Array], partner: Payload, weight: jax.Array
) -> State:
    decoded, _ = _decode(recipe, own)
    partners = jax.tree.map(lambda vector: vector[None], partner)
    weights = jnp.reshape(weight, (1,)).astype(jnp.float32)
    rule, params = recipe.rule.merge(state.rule, state.params, decoded, partners, weights, jnp.ones(1))
    return state._replace(rule=rule, params=params, start=state.start + (params - state.params))


def _replace(recipe: Recipe, state: State, vector: jax.Array) -> State:
    begun = _begin(recipe, vector, state.private, state.key)
    return begun._replace(step=state.step, snapshots=state.snapshots)


def _metrics(
    recipe: Recipe, vector: jax.Array, private: dict[str, jax.Array], data: Dataset
) -> dict[str, jax.Array]:
    return recipe.task.metrics(recipe.layout.join(vector, private), data)


def _evaluate(
    metrics: Callable[..., dict[str, jax.Array]],
    vector: jax.Array,
    private: dict[str, jax.Array],
    data: Dataset,
) -> dict[str, jax.Array]:
    rows = len(data.y)
    if rows <= EVALUATED:
        return metrics(vector, private, data)
    parts = [Dataset(data.x[i : i + EVALUATED], data.y[i : i + EVALUATED]) for i in range(0, rows, EVALUATED)]
    shares = [
        jax.tree.map(lambda value, w=len(p.y) / rows: w * value, metrics(vector, private, p)) for p in parts
    ]
    return jax.tree.map(lambda *values: sum(values), *shares)


def _settle(
    recipe: Recipe, metrics: Callable[..., dict[str, jax.Array]]
) -> tuple[Learner, Callable[[State], State]]:
    exact = replace(recipe, rule=average(), codec=float32(), agreed=("average", "float32"))

    def convert(state: State) -> State:
        vector = recipe.rule.view(state.rule, state.params)
        return state._replace(params=vector, start=vector, rule=exact.rule.init(vector))

    return _compiled(exact, metrics), jax.jit(convert)


def pack(state: State) -> dict[str, np.ndarray]:
    """A state as named arrays, copied to the host."""
    named, _ = jax.tree_util.tree_flatten_with_path(state._replace(key=jax.random.key_data(state.key)))
    return {leaf_name(path): np.array(leaf) for path, leaf in named}


def unpack(like: State, arrays: Mapping[str, np.ndarray]) -> State:
    """The inverse of `pack`, for states shaped `like` this one."""
    like = like._replace(key=jax.eval_shape(jax.random.key_data, like.key))
    named, tree = jax.tree_util.tree_flatten_with_path(like)
    for path, leaf in named:
        name = leaf_name(path)
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            found = f"{arrays[name].dtype}{list(arrays[name].shape)}"
            raise ValueError(f"{name} is {found}, not {leaf.dtype}{list(leaf.shape)}")
    state: State = jax.device_put(jax.tree.unflatten(tree, [arrays[leaf_name(path)] for path, _ in named]))
    return state._replace(key=jax.random.wrap_key_data(state.key))
