"""Named arrays as bytes, without a word of description on the wire.

Both ends of an exchange compute the shapes of what travels from the same manifest, and compare a
digest of them first. So the arrays go back to back, sorted by name, in little-endian C order, and
the receiver knows the size before the first byte arrives. This file knows no codec: whatever a codec
makes of the parameters is arrays of plain dtypes by the time it comes here.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class Shaped(Protocol):
    """What is known of an array before it arrives (jax.ShapeDtypeStruct, for one)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[np.generic]: ...


def size(specs: Mapping[str, Shaped]) -> int:
    """Bytes that arrays of these specs take on the wire."""
    return sum(_bytes(spec) for spec in specs.values())


def pack(arrays: Mapping[str, Array]) -> Sequence[memoryview]:
    """Views of the arrays' bytes in wire order, without a copy where they are contiguous already."""
    assert sys.byteorder == "little", "p2pnode runs on little-endian machines only"
    return [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name in sorted(arrays)]


def unpack(specs: Mapping[str, Shaped], payload: memoryview) -> dict[str, Array]:
    """Arrays over `payload`'s own memory, which must be exactly `size(specs)` bytes long."""
    arrays: dict[str, Array] = {}
    offset = 0
    for name in sorted(specs):
        spec = specs[name]
        end = offset + _bytes(spec)
        arrays[name] = np.frombuffer(payload[offset:end], dtype=spec.dtype).reshape(spec.shape)
        offset = end
    if offset != len(payload):
        raise ValueError(f"{len(payload)} bytes instead of {offset}")
    return arrays


def _bytes(spec: Shaped) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
