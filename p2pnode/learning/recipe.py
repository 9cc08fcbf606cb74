"""What a learner is made of, and the pure functions that follow from it.

They are written for one node and work under `vmap` for many. `learner.py` compiles them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from p2pnode.learning.compress import Arrays, Codec, int8
from p2pnode.learning.data import Dataset, Part, pick
from p2pnode.learning.layout import Layout
from p2pnode.learning.rules.rule import Payload, Rule
from p2pnode.learning.state import State
from p2pnode.learning.task import Task

PIECE = 1 << 21
"""Entries of a vector that are encoded, sent and merged at a time: 8 MB as float32, and much less than 64 MB
of everything that computing with them takes. Codecs cut them into whole blocks."""


LARGEST = 1e30
"""Numbers from here on are as good as infinite: no model has them, and a few of them sum to infinity."""


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


def _residual(recipe: Recipe, vector: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Of a node that has sent nothing yet."""
    if not _feeds_back(recipe):
        return {}
    share = partial(recipe.rule.share, recipe.rule.init(vector), vector)
    _, payload = jax.eval_shape(share, jax.random.key(0), jnp.int32(0))
    return {entry: (jnp.zeros(values.shape), jnp.zeros(values.shape)) for entry, values in payload.items()}


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


class Piece(NamedTuple):
    """Some entries of one vector of a payload, which are encoded and merged by themselves.

    Attributes:
        entry: name of the vector.
        begin: its first place in that.
        size: how many there are.
        last: it is the payload's last piece.
    """

    entry: str
    begin: int
    size: int
    last: bool


def pieces(recipe: Recipe) -> tuple[Piece, ...]:
    """How a payload is cut, in the order in which it travels."""
    state = jax.eval_shape(lambda: init(recipe, jnp.uint32(0)))
    _, payload = jax.eval_shape(recipe.rule.share, state.rule, state.params, state.key, state.step)
    cuts = [
        (entry, begin, min(PIECE, values.size - begin))
        for entry, values in sorted(payload.items())
        for begin in range(0, values.size, PIECE)
    ]
    return tuple(Piece(*cut, last=number == len(cuts)) for number, cut in enumerate(cuts, 1))


def encode(
    recipe: Recipe, piece: Piece, state: State, turn: jax.Array, begin: jax.Array
) -> tuple[State, Arrays]:
    """One piece of what goes to a partner. The last one completes the snapshot.

    With error feedback (DeepSqueeze, Tang et al. 2019, arXiv:1907.07346) that is the payload plus what
    was lost of earlier ones. What this one loses replaces that when the exchange is complete.
    """
    rule, payload = recipe.rule.share(state.rule, state.params, _key(state, state.snapshots, _RULE), turn)
    values = payload[piece.entry]
    key = _key(state, state.snapshots, _CODEC + sorted(payload).index(piece.entry))
    if values.size > piece.size:
        values, key = _cut(values, begin, piece.size), jax.random.fold_in(key, begin // PIECE)
    codec, pair = _codec(recipe, piece.entry), state.residual.get(piece.entry)
    if pair is not None:
        values = values + _cut(pair[0], begin, piece.size)
    arrays = codec.encode(values, key)
    if pair is not None:
        new = lax.dynamic_update_slice(pair[1], values - codec.decode(arrays), (begin,))
        state = state._replace(residual=state.residual | {piece.entry: (pair[0], new)})
    if piece.last:
        state = state._replace(rule=rule, snapshots=state.snapshots + 1)
    return state, arrays


def share(recipe: Recipe, state: State, turn: jax.Array) -> tuple[State, list[Arrays]]:
    """All pieces of what goes to a partner, encoded."""
    encoded = []
    for piece in pieces(recipe):
        state, arrays = encode(recipe, piece, state, turn, jnp.int32(piece.begin))
        encoded.append(arrays)
    return state, encoded


def shapes(recipe: Recipe, piece: Piece) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of a piece's arrays, encoded."""
    encode = _codec(recipe, piece.entry).encode
    return dict(jax.eval_shape(lambda: encode(jnp.zeros(piece.size), jax.random.key(0))))


def _codec(recipe: Recipe, entry: str) -> Codec:
    """How an entry of the payload is written."""
    return int8() if recipe.codec.feedback and entry in recipe.rule.dense else recipe.codec


def _cut(values: jax.Array, begin: jax.Array, size: int) -> jax.Array:
    return lax.dynamic_slice(values, (begin,), (size,))


def finite(recipe: Recipe, piece: Piece, arrays: Arrays) -> jax.Array:
    """Whether all of a piece is, once decoded, and stays so when it is averaged with others."""
    return jnp.all(jnp.abs(_codec(recipe, piece.entry).decode(arrays)) < LARGEST)


def decode(recipe: Recipe, encoded: Sequence[Arrays]) -> Payload:
    """The vectors of which all pieces are given, encoded."""
    found: dict[str, list[jax.Array]] = {}
    for piece, arrays in zip(pieces(recipe), encoded, strict=True):
        found.setdefault(piece.entry, []).append(_codec(recipe, piece.entry).decode(arrays))
    return {entry: jnp.concatenate(parts) if len(parts) > 1 else parts[0] for entry, parts in found.items()}


def merge(
    recipe: Recipe, state: State, own: Sequence[Arrays], partner: Sequence[Arrays], weight: jax.Array
) -> State:
    """One completed exchange, both sides as they were encoded."""
    partners = jax.tree.map(lambda values: values[None], decode(recipe, partner))
    return merge_all(recipe, state, decode(recipe, own), partners, jnp.reshape(weight, (1,)), jnp.ones(1))


def merge_piece(
    recipe: Recipe,
    piece: Piece,
    state: State,
    own: Arrays,
    partner: Arrays,
    weight: jax.Array,
    begin: jax.Array,
) -> State:
    """The same for one piece, where the rule is additive; `state.residual` stays behind, see `sent`.

    The rule is asked what it adds to zeros. Given the state itself, the compiler would come to need old
    values when some are overwritten already, and therefore copy all of them for each piece.
    """

    def zeros(leaf: jax.Array) -> jax.Array:
        return jnp.zeros(piece.size) if leaf.shape == state.params.shape else leaf

    def add(leaf: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
        if after is before:
            return leaf
        return lax.dynamic_update_slice(leaf, _cut(leaf, begin, piece.size) + after, (begin,))

    before = state._replace(
        params=zeros(state.params),
        start=zeros(state.start),
        rule=jax.tree.map(zeros, state.rule),
        residual={},
    )
    codec = _codec(recipe, piece.entry)
    sent, received = {piece.entry: codec.decode(own)}, {piece.entry: codec.decode(partner)[None]}
    after = merge_all(recipe, before, sent, received, jnp.reshape(weight, (1,)), jnp.ones(1))
    return state._replace(
        params=add(state.params, before.params, after.params),
        start=add(state.start, before.start, after.start),
        rule=jax.tree.map(add, state.rule, before.rule, after.rule),
    )


def sent(state: State) -> State:
    """What the codec lost of the latest snapshot now counts: its exchange is complete."""
    return state._replace(residual={name: (new, old) for name, (old, new) in state.residual.items()})


def merge_all(
    recipe: Recipe, state: State, sent: Payload, partners: Payload, weights: jax.Array, present: jax.Array
) -> State:
    """What came from K partners at once: see `Rule.merge`. All of it is decoded."""
    rule, params = recipe.rule.merge(state.rule, state.params, sent, partners, weights, present)
    start = state.start + (params - state.params)
    # Who pushes never hears whether it arrived.
    done = jnp.any(present > 0) if recipe.rule.symmetric else True
    residual = {name: (jnp.where(done, new, old), new) for name, (old, new) in state.residual.items()}
    return state._replace(rule=rule, params=params, start=start, residual=residual)


def view(recipe: Recipe, state: State) -> jax.Array:
    """The vector to evaluate, serve and save; never the state's own memory."""
    return jnp.copy(recipe.rule.view(state.rule, state.params))


def metrics(
    recipe: Recipe, vector: jax.Array, private: dict[str, jax.Array], data: Dataset
) -> dict[str, jax.Array]:
    """The task's metrics of one model."""
    return recipe.task.metrics(recipe.layout.join(vector, private), data)
