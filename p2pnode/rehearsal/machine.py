"""The computer that a node runs on: how long things take there, whether it is frozen, what its clock says."""

from collections.abc import Callable
from random import Random
from typing import TypeVar

import trio

from p2pnode.gossip.gate import Gate

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""What a right clock says at the start: seconds since the Unix epoch."""


class Machine:
    """One node's computer, which outlives the node's processes.

    Args:
        seconds: that one computation takes.
        before: called before each, when it is this machine's turn.
    """

    def __init__(self, seconds: float, before: Callable[[], None]) -> None:
        self.ahead = 0.0  # seconds by which its clock is wrong
        self.frozen: trio.Event | None = None  # set when it is thawed
        self._seconds = seconds
        self._before = before

    async def compute(self, function: Callable[[], T], /) -> T:
        """A `ports.Compute`."""
        await self.spend(self._seconds)
        self._before()
        return function()

    async def spend(self, seconds: float) -> None:
        """Let time pass, and then wait until the machine runs."""
        await trio.sleep(seconds)
        while self.frozen is not None:
            await self.frozen.wait()

    def freeze(self) -> None:
        """Stop computing."""
        self.frozen = self.frozen or trio.Event()

    def thaw(self) -> None:
        """Go on."""
        if self.frozen is not None:
            self.frozen.set()
            self.frozen = None

    def jump(self, seconds: float) -> None:
        """Let its clock be wrong by so much more."""
        self.ahead += seconds

    def wall(self) -> float:
        """A `ports.WallClock`."""
        return EPOCH + trio.current_time() + self.ahead


class Pace(Gate):
    """A gate that a chunk of steps takes its time to pass: as if it had been computed meanwhile.

    So a round may take a minute of virtual time and one short computation, and an exchange that comes in
    the meantime is served as it would be between two chunks.
    """

    def __init__(self, machine: Machine, seconds: float, uneven: float, random: Random) -> None:
        super().__init__()
        self._machine = machine
        self._seconds = seconds
        self._uneven = uneven
        self._random = random

    async def passed(self) -> None:
        await self._machine.spend(self._seconds * self._random.uniform(1 - self._uneven, 1 + self._uneven))
        await super().passed()
