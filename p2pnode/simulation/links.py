"""How fast nodes compute, and how long bytes take between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Links:
    """A network of n nodes.

    Attributes:
        step: f64[n], seconds of a local step of each node.
        latency: seconds, one way.
        bandwidth: bytes a second, each way at once, of a usual link.
        slow: share of links that are slow; which ones follows from the seed.
        factor: how many times slower those are.
        drop: share of exchanges that come to nothing.
        seed: of which links are slow.
    """

    step: npt.NDArray[np.float64]
    latency: float
    bandwidth: float
    slow: float
    factor: float
    drop: float
    seed: int

    def rate(self, one: Any, other: Any) -> Any:
        """Bytes a second between nodes; the same both ways, and from one call to the next."""
        low, high = np.minimum(one, other).astype(np.uint64), np.maximum(one, other).astype(np.uint64)
        chance = _mixed(low << np.uint64(32) | high, self.seed).astype(np.float64) / 2.0**64
        return self.bandwidth / np.where(chance < self.slow, self.factor, 1.0)


def _mixed(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): each number's own random one."""
    with np.errstate(over="ignore"):
        x = numbers + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
