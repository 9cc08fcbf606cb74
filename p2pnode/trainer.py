"""The one owner of the parameters.

Everybody else sees them through a few requests: take some local steps, take a snapshot, apply a
partner's difference, evaluate, save. Each request is one short compiled function that runs in the
worker thread, and they take turns: a difference is therefore applied at the next boundary between
two chunks of steps, and training need not stop for an exchange. Between a snapshot and its
difference no other difference can be applied, because there is one snapshot at a time. (Applying
late differences without this rule does not contract, and diverges from two rounds late.)

How far training may run ahead of an open exchange is `overlap`, in local steps: at 0 steps and
exchanges alternate strictly; at the length of a round an exchange hides behind a whole one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt
import trio

from p2pnode.errors import Fault, PeerFault
from p2pnode.learning.compress import Arrays
from p2pnode.learning.data import Dataset
from p2pnode.learning.learner import Learner, State
from p2pnode.ports import Compute
from p2pnode.wire import arrays

T = TypeVar("T")
Vector = npt.NDArray[np.float32]


class Trainer:
    """Owns one learner's state on this node's data.

    Args:
        learner: the compiled functions.
        data: rows to train on; they stay on this node.
        probes: named rows to evaluate on, e.g. `{"holdout": ..., "test": ...}`.
        compute: where the functions run.
        beside: where those run that need not wait for training.
        seed: of this node's batches and rounding.
        overlap: local steps that may be taken between a snapshot and its difference.
    """

    def __init__(
        self,
        learner: Learner,
        data: Dataset,
        probes: Mapping[str, Dataset],
        compute: Compute,
        beside: Compute,
        seed: int,
        overlap: int,
    ) -> None:
        self.round = 0
        self.taken = 0  # local steps since the start
        self._learner = learner
        self._compute = compute
        self._beside = beside
        self._overlap = overlap
        self._turn = trio.Lock()
        self._own: list[Arrays] | None = None  # the snapshot kept aside, as it was sent
        self._spent: list[Arrays] = []  # memory for the next one: what is left of the last
        self._ahead = 0  # steps since that snapshot
        self._closed = trio.Event()
        self._seed = seed
        self._data: Dataset = jax.device_put(data)
        self._probes: dict[str, Dataset] = {name: jax.device_put(rows) for name, rows in probes.items()}

    @property
    def payload(self) -> Sequence[int]:
        return [arrays.size(specs) for specs in self._learner.payload]

    @property
    def expected(self) -> Sequence[int]:
        return self.payload

    @property
    def layout(self) -> bytes:
        return self._learner.layout

    @cached_property
    def _state(self) -> State:
        """Begins when it is first asked for; never, in a node that goes on from a checkpoint."""
        return self._learner.init(self._seed)

    async def warm_up(self) -> None:
        """Compile everything on a state of no importance, so that no peer ever waits for a compiler."""

        def work() -> None:
            learner = self._learner
            jax.block_until_ready(self._state.params)
            state, own = learner.share(learner.init(0), 0)
            state, _ = learner.steps(state, self._data, 0)
            for piece, encoded in zip(learner.pieces, own, strict=True):
                jax.block_until_ready(learner.finite(piece, encoded))
            assert learner.payload  # traced here, not in the event loop
            state = learner.merge(learner.end_round(state), own, own, 0.0)
            for rows in self._probes.values():
                jax.block_until_ready(learner.evaluate(state, rows))

        await self._compute(work)

    async def steps(self, count: int) -> float:
        def work() -> tuple[State, float]:
            state, loss = self._learner.steps(self._state, self._data, count)
            return state, float(loss)

        while True:
            async with self._turn:  # looked at here: a snapshot may have had its turn before this one
                if self._own is None or self._ahead + count <= max(self._overlap, 0):
                    self._state, loss = await self._compute(work)
                    self._ahead += count
                    self.taken += count
                    return loss if count else math.nan
                closed = self._closed
            await closed.wait()

    async def end_round(self) -> None:
        async with self._turn:
            self._state = await self._compute(
                lambda: jax.block_until_ready(self._learner.end_round(self._state))
            )
        self.round += 1

    async def snapshot(self, turn: int, give: Callable[[Sequence[memoryview]], None]) -> None:
        assert self._own is None, "one snapshot at a time"
        async with self._turn:
            self._ahead = 0
            self._closed = trio.Event()
            self._own = self._spent or await self._compute(self._learner.blank)
            self._spent = []
            loop = trio.lowlevel.current_trio_token()
            await self._compute(
                partial(self._encode, turn, self._own, lambda piece: loop.run_sync_soon(give, piece))
            )

    def _encode(self, turn: int, own: list[Arrays], give: Callable[[Sequence[memoryview]], None]) -> None:
        """All pieces in one go: training waits meanwhile, and should not wait for the event loop, too."""
        for number, piece in enumerate(self._learner.pieces):
            self._state, own[number] = self._learner.encode(piece, self._state, turn, own[number])
            give(arrays.pack({name: np.asarray(value) for name, value in own[number].items()}))

    async def take(self, first: int, pieces: Sequence[memoryview]) -> Sequence[object]:
        def work() -> tuple[Sequence[Arrays], bool]:
            learner, taken = self._learner, []
            last = first + len(pieces)
            for specs, piece in zip(learner.payload[first:last], pieces, strict=True):
                taken.append({name: jax.device_put(a) for name, a in arrays.unpack(specs, piece).items()})
            finite = map(learner.finite, learner.pieces[first:last], taken)
            return taken, all(bool(one) for one in finite)

        taken, finite = await self._beside(work)
        if not finite:
            raise PeerFault(Fault.NOT_FINITE, "parameters with NaN or infinity")
        return taken

    async def apply(self, taken: list[Any], weight: float) -> None:
        own = self._own
        assert own is not None, "a difference needs the snapshot it answers"

        def work() -> State:
            state = self._learner.merge(self._state, own, taken, weight)
            jax.block_until_ready(state.params)
            taken.clear()  # here: to free large arrays takes milliseconds that the loop lacks
            return state

        async with self._turn:
            self._state = await self._compute(work)
        self.drop()

    def drop(self) -> None:
        self._spent, self._own = self._own or self._spent, None
        self._closed.set()

    async def evaluate(self) -> dict[str, float]:
        """Metrics of the view's model, named `<probe>_<metric>`."""

        def work() -> dict[str, float]:
            return {
                f"{probe}_{metric}": float(value)
                for probe, rows in self._probes.items()
                for metric, value in self._learner.evaluate(self._state, rows).items()
            }

        async with self._turn:
            return await self._compute(work)

    async def vector(self, out: Vector | None = None, over: int = 1) -> Vector:
        def work() -> Vector:
            found = np.empty(self._learner.size, np.float32) if out is None else out
            np.divide(np.asarray(self._state.params), np.float32(over), out=found)
            return found

        async with self._turn:
            return await self._compute(work)

    async def jump(self, round: int, vector: Vector | None) -> None:
        if vector is not None:
            async with self._turn:
                self._state = await self._compute(
                    lambda: jax.block_until_ready(self._learner.replace(self._state, jax.device_put(vector)))
                )
        self.round = round

    async def close(self, vector: Vector) -> None:
        def work() -> State:
            return self._state._replace(params=jax.device_put(vector))

        async with self._turn:
            self._state = await self._compute(work)

    async def loss(self, vector: Vector | None = None) -> float:
        def work() -> float:
            other = None if vector is None else jax.numpy.asarray(vector)
            return float(self._learner.evaluate(self._state, self._data, other)["loss"])

        async with self._turn:
            return await self._compute(work)

    async def settle(self) -> None:
        def work() -> tuple[Learner, State]:
            learner, convert = self._learner.settle()
            assert learner.payload  # as above
            return learner, jax.block_until_ready(convert(self._state))

        async with self._turn:
            self._learner, self._state = await self._compute(work)
            self._spent = []

    async def save(self) -> dict[str, np.ndarray]:
        """Everything a restart needs, as named arrays."""
        async with self._turn:
            saved = await self._compute(lambda: self._learner.pack(self._state))
        return saved | {"round": np.array(self.round), "taken": np.array(self.taken)}

    async def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on from what `save` returned. Raises ValueError when it belongs to another learner."""
        rest = dict(saved)
        try:
            round, taken = int(rest.pop("round")), int(rest.pop("taken"))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError("it does not say how far it is") from error
        async with self._turn:
            self._state = await self._compute(lambda: self._learner.unpack(rest))
        self.round, self.taken = round, taken


class Worker:
    """Computes in one worker thread, so that compiled steps never hold up the event loop.

    The thread is never the last to hold what it computed with. It lives on for a moment after its
    work is done, and a process that ends just when a thread of it frees JAX's memory is aborted.
    """

    def __init__(self) -> None:
        self._one = trio.CapacityLimiter(1)

    async def __call__(self, function: Callable[[], T], /) -> T:
        table: list[Any] = [function]

        def work() -> None:
            table.append(table.pop()())

        await trio.to_thread.run_sync(work, limiter=self._one)
        result: T = table.pop()
        return result


async def inline(function: Callable[[], T], /) -> T:
    """Compute at once: trio's virtual clock would jump past deadlines while a thread works."""
    await trio.lowlevel.checkpoint()
    return function()
