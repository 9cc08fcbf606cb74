"""Codecs: a float32 vector as fewer bytes.

Both ends of an exchange must decode the same arrays to the same floats, bit by bit, on any hardware;
else what one end gains is not what the other loses. So an integer codec's scales are bfloat16:
an integer of 8 bits times a number of 8 significant bits is exact in float32, in whatever order and
with whatever fused instructions it is computed. How large the arrays are depends on the vector's length only.

What was not finite stays not finite, so that the receiver can see it and refuse.
"""

from collections.abc import Callable, Mapping
from functools import partial

from p2pnode.learning.compress.codec import Arrays, Codec
from p2pnode.learning.compress.floats import bfloat16, float32
from p2pnode.learning.compress.integers import BLOCK, int4, int8
from p2pnode.learning.compress.top import top
from p2pnode.learning.compress.two import int2

__all__ = ["BLOCK", "CODECS", "Arrays", "Codec", "bfloat16", "float32", "int2", "int4", "int8", "top"]

CODECS: Mapping[str, Callable[[], Codec]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "int8": int8,
    "int4": int4,
    "int2": int2,
    **{f"top{ratio}": partial(top, ratio) for ratio in (16, 32, 64, 128)},
}
