"""Everything a trainer calls, compiled: one node's learning as functions from state to state.

A `Learner` is made once, of a task, a rule, a codec and an optimizer. Its functions are pure: whoever
calls them keeps the state. `steps`, `end_round`, `encode`, `merge` and `replace` *spend* the state they are
given: its memory goes to the one they return, so that a large model is neither held twice nor copied.

A node's start waits for compiling, so there are few functions, each compiled at its first call,
and how many steps to take is an argument of the compiled function, not a part of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from p2pnode.learning import recipe as pure
from p2pnode.learning import state as states
from p2pnode.learning.compress import Arrays, float32
from p2pnode.learning.data import Dataset
from p2pnode.learning.recipe import Piece, Recipe
from p2pnode.learning.rules.average import average
from p2pnode.learning.state import HostArray, State
from p2pnode.learning.task import Task

__all__ = ["Learner", "State", "compiled"]

EVALUATED = 8192  # rows evaluated at once; more are cut into parts, which bounds the memory that takes

Metrics = dict[str, jax.Array]
Judge = Callable[[jax.Array, dict[str, jax.Array], Dataset], Metrics]


@dataclass(frozen=True)
class Learner:
    """The compiled functions, and what others must know of them.

    Attributes:
        task: what is learned.
        size: n, the length of the shared vector.
        layout: SHA-256 digest of what is shared: names, shapes and dtypes, rule, codec and options.
        init: `(node_seed) -> state`: the same parameters on every node, randomness of its own.
        steps: `(state, data, count) -> (state, mean loss)`: local steps on batches drawn with
            replacement; the loss of no steps is nan. Spends `state`.
        end_round: `(state) -> state`: the rule's say after the local steps. Spends `state`.
        pieces: how a snapshot of what goes to a partner is cut, in the order in which it travels.
        encode: `(piece, state, turn, spent) -> (state, arrays)`: one of them, all of them one after the
            other, in an exchange that both number `turn`. Spends `state`, and `spent`: the same piece of an
            earlier snapshot, or a blank one. (To write where something was written before costs a quarter
            of what new memory does.)
        shapes: `(piece) -> specs`: shape and dtype of its arrays, by name.
        finite: `(piece, arrays) -> bool[]`: False when there is NaN or infinity in it.
        merge: `(state, own, partner's, weight) -> state`, of all pieces, encoded. Spends `state`.
        view: `(state) -> f32[n]`: what to evaluate, serve and save.
        evaluate: `(state, data, vector=None) -> metrics` of the view's model, or with `vector` as its shared
            parameters, each f32[]; of more than 8,192 rows the means over parts of that size.
        replace: `(state, f32[n]) -> state`: with a donor's parameters; rule and optimizer begin anew. Spends
            `state`.
        settle: `() -> (learner, convert)`: a learner that averages exactly, and what turns this one's state
            into its: the view becomes the parameters. `convert` spends the state.
        pack: `(state) -> arrays` by name, copied to the host.
        unpack: `(arrays) -> state`. Raises ValueError naming a leaf that is missing or does not fit.
    """

    task: Task
    size: int
    layout: bytes
    init: Callable[[int], State]
    steps: Callable[[State, Dataset, int], tuple[State, jax.Array]]
    end_round: Callable[[State], State]
    pieces: tuple[Piece, ...]
    encode: Callable[[Piece, State, int, Arrays], tuple[State, Arrays]]
    shapes: Callable[[Piece], dict[str, jax.ShapeDtypeStruct]]
    finite: Callable[[Piece, Arrays], jax.Array]
    merge: Callable[[State, Sequence[Arrays], Sequence[Arrays], float], State]
    view: Callable[[State], jax.Array]
    evaluate: Callable[..., Metrics]
    replace: Callable[[State, jax.Array | npt.NDArray[np.float32]], State]
    settle: Callable[[], "tuple[Learner, Callable[[State], State]]"]
    pack: Callable[[State], dict[str, HostArray]]
    unpack: Callable[[Mapping[str, HostArray]], State]

    @cached_property
    def payload(self) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
        """Shape and dtype of each piece's encoded arrays, by name."""
        shapes = {_anywhere(piece): self.shapes(piece) for piece in {_anywhere(one) for one in self.pieces}}
        return tuple(shapes[_anywhere(piece)] for piece in self.pieces)

    @cached_property
    def blank(self) -> Callable[[], list[Arrays]]:
        """`() -> pieces`: memory for a snapshot."""
        payload = list(self.payload)
        return jax.jit(lambda: jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), payload))

    def share(self, state: State, turn: int) -> tuple[State, list[Arrays]]:
        """All pieces of a snapshot. Spends `state`."""
        encoded = []
        for piece, blank in zip(self.pieces, self.blank(), strict=True):
            state, arrays = self.encode(piece, state, turn, blank)
            encoded.append(arrays)
        return state, encoded


def compiled(recipe: Recipe) -> Learner:
    """The learner of a recipe."""
    return _compiled(recipe, _jit(pure.metrics, recipe))


def _compiled(recipe: Recipe, judge: Judge) -> Learner:
    init, view = _jit(pure.init, recipe), _jit(pure.view, recipe)
    return Learner(
        task=recipe.task,
        size=recipe.layout.size,
        layout=recipe.layout.digest(*recipe.agreed),
        init=lambda node_seed: init(np.uint32(node_seed % 2**32)),
        steps=_jit(pure.steps, recipe, spends=True),
        end_round=_jit(pure.end_round, recipe, spends=True),
        pieces=(pieces := pure.pieces(recipe)),
        encode=_encode(recipe),
        shapes=partial(pure.shapes, recipe),
        finite=_finite(recipe),
        merge=_merge(recipe, pieces),
        view=view,
        evaluate=lambda state, data, vector=None: _evaluate(
            judge, view(state) if vector is None else vector, state.private, data
        ),
        replace=_jit(pure.replace, recipe, spends=True),
        settle=partial(_settle, recipe, judge),
        pack=states.pack,
        unpack=partial(states.unpack, jax.eval_shape(init, np.uint32(0))),
    )


def _jit(function: Callable[..., object], recipe: Recipe, spends: bool = False) -> Callable[..., Any]:
    """`function` of this recipe, compiled; one that `spends` reuses the memory of the state it is given."""
    return jax.jit(partial(function, recipe), donate_argnums=0 if spends else ())


def _encode(recipe: Recipe) -> Callable[[Piece, State, int, Arrays], tuple[State, Arrays]]:
    def encode(
        piece: Piece, state: State, turn: jax.Array, begin: jax.Array, spent: Arrays
    ) -> tuple[State, Arrays]:
        return pure.encode(recipe, piece, state, turn, begin)

    jitted = jax.jit(encode, static_argnums=0, donate_argnums=(1, 4), keep_unused=True)
    return lambda piece, state, turn, spent: jitted(_anywhere(piece), state, turn, piece.begin, spent)


def _finite(recipe: Recipe) -> Callable[[Piece, Arrays], jax.Array]:
    finite = jax.jit(partial(pure.finite, recipe), static_argnums=0)
    return lambda piece, arrays: finite(_anywhere(piece), arrays)


def _merge(
    recipe: Recipe, pieces: Sequence[Piece]
) -> Callable[[State, Sequence[Arrays], Sequence[Arrays], float], State]:
    """Piece by piece where there are several and the rule allows it: that takes no memory."""
    one = jax.jit(partial(pure.merge_piece, recipe), static_argnums=0, donate_argnums=1)

    def merge(state: State, own: Sequence[Arrays], partner: Sequence[Arrays], weight: float) -> State:
        for piece, mine, other in zip(pieces, own, partner, strict=True):
            state = one(_anywhere(piece), state, mine, other, weight, piece.begin)
        return pure.sent(state)

    whole: Callable[..., State] = _jit(pure.merge, recipe, spends=True)
    return merge if recipe.rule.additive and len(pieces) > 1 else whole


def _anywhere(piece: Piece) -> Piece:
    """What a compiled function is made for: where the piece begins is no part of that."""
    return piece._replace(begin=0)


def _settle(recipe: Recipe, judge: Judge) -> tuple[Learner, Callable[[State], State]]:
    exact = replace(recipe, rule=average(), codec=float32(), agreed=("average", "float32"))

    # Where the view is the parameters themselves, it so takes neither time nor memory.
    view = jax.jit(lambda params, rule: recipe.rule.view(rule, params), donate_argnums=0)

    def convert(state: State) -> State:
        vector = view(state.params, state.rule)
        return state._replace(params=vector, rule=exact.rule.init(vector), residual={})

    return _compiled(exact, judge), convert


def _evaluate(judge: Judge, vector: jax.Array, private: dict[str, jax.Array], data: Dataset) -> Metrics:
    rows = len(data.y)
    if rows <= EVALUATED:
        return judge(vector, private, data)
    total: Metrics = {}
    for first in range(0, rows, EVALUATED):
        part = Dataset(data.x[first : first + EVALUATED], data.y[first : first + EVALUATED])
        for name, value in judge(vector, private, part).items():
            total[name] = total.get(name, 0.0) + value * (len(part.y) / rows)
    return total
