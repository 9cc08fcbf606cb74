"""Everything a trainer calls, compiled: one node's learning as functions from state to state.

A `Learner` is made once, of a task, a rule, a codec and an optimizer. Its functions are pure: whoever
calls them keeps the state. `steps`, `end_round`, `share` and `merge` *spend* the state they are given: its
memory goes to the one they return, so that a large model is neither held twice nor copied.

A node's start waits for compiling, so there are few functions, each compiled at its first call,
and how many steps to take is an argument of the compiled function, not a part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from p2pnode.learning import recipe as pure
from p2pnode.learning import state as states
from p2pnode.learning.compress import float32
from p2pnode.learning.data import Dataset
from p2pnode.learning.recipe import Encoded, Recipe
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.rule import Payload
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
        share: `(state, turn) -> (state, encoded)`: a snapshot of what goes to a partner, in an exchange
            that both number `turn`. Spends `state`.
        decode: `(encoded) -> (decoded, finite)`; `finite` is False when there is NaN or infinity in it.
        merge: `(state, own encoded, partner's decoded, weight) -> state`. Spends `state`.
        view: `(state) -> f32[n]`: what to evaluate, serve and save.
        evaluate: `(state, data) -> metrics` of the view's model, each f32[]; of more than 8,192 rows
            the means over parts of that size.
        replace: `(state, f32[n]) -> state`: with a donor's parameters; rule and optimizer begin anew.
        settle: `() -> (learner, convert)`: a learner that averages exactly, and what turns this
            one's state into its: the view becomes the parameters.
        pack: `(state) -> arrays` by name, copied to the host.
        unpack: `(arrays) -> state`. Raises ValueError naming a leaf that is missing or does not fit.
    """

    task: Task
    size: int
    layout: bytes
    init: Callable[[int], State]
    steps: Callable[[State, Dataset, int], tuple[State, jax.Array]]
    end_round: Callable[[State], State]
    share: Callable[[State, int], tuple[State, dict[str, jax.Array]]]
    decode: Callable[[Encoded], tuple[Payload, jax.Array]]
    merge: Callable[[State, Encoded, Payload, float], State]
    view: Callable[[State], jax.Array]
    evaluate: Callable[[State, Dataset], Metrics]
    replace: Callable[[State, jax.Array | npt.NDArray[np.float32]], State]
    settle: Callable[[], "tuple[Learner, Callable[[State], State]]"]
    pack: Callable[[State], dict[str, HostArray]]
    unpack: Callable[[Mapping[str, HostArray]], State]

    @cached_property
    def payload(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each encoded array, by name, in the order in which they travel."""
        _, payload = jax.eval_shape(lambda: self.share(self.init(0), 0))
        return dict(sorted(payload.items()))


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
        share=_jit(pure.share, recipe, spends=True),
        decode=_jit(pure.decode, recipe),
        merge=_jit(pure.merge, recipe, spends=True),
        view=view,
        evaluate=lambda state, data: _evaluate(judge, view(state), state.private, data),
        replace=_jit(pure.replace, recipe),
        settle=partial(_settle, recipe, judge),
        pack=states.pack,
        unpack=partial(states.unpack, jax.eval_shape(init, np.uint32(0))),
    )


def _jit(function: Callable[..., object], recipe: Recipe, spends: bool = False) -> Callable[..., Any]:
    """`function` of this recipe, compiled; one that `spends` reuses the memory of the state it is given."""
    return jax.jit(partial(function, recipe), donate_argnums=0 if spends else ())


def _settle(recipe: Recipe, judge: Judge) -> tuple[Learner, Callable[[State], State]]:
    exact = replace(recipe, rule=average(), codec=float32(), agreed=("average", "float32"))

    def convert(state: State) -> State:
        vector = pure.view(recipe, state)
        return state._replace(params=vector, start=vector, rule=exact.rule.init(vector), residual={})

    return _compiled(exact, judge), jax.jit(convert)


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
