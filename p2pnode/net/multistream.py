"""Agreeing on a protocol by name: multistream-select 1.0.

Whoever opens a connection or a stream proposes one name; the other side echoes it, or says `na`.
Each line has its length before it and a newline after it. The opener sends the greeting and its
proposal together, as the specification allows (https://github.com/multiformats/multistream-select),
which costs one round trip where the library's own client takes two. The library also believes any
length that a stranger announces; here a line is short or the conversation is over.
"""

from collections.abc import Awaitable, Callable, Collection

from p2pnode.errors import Disconnected, Unreachable
from p2pnode.ports import Stream

Read = Callable[[int], Awaitable[bytes]]
"""Reads exactly so many bytes."""

Write = Callable[[bytes], Awaitable[None]]

_GREETING = "/multistream/1.0.0"
_REFUSAL = "na"
_LONGEST_LINE = 127  # bytes: what one byte of the varint length can say; our names have half of that
_MOST_PROPOSALS = 8  # a peer that goes on guessing is not looking for us


async def propose(read: Read, write: Write, name: str) -> None:
    """Ask the other side to speak `name`.

    Raises:
        Unreachable: it does not, or does not speak multistream at all.
    """
    await write(_line(_GREETING) + _line(name))
    if (greeting := await _read_line(read)) != _GREETING:
        raise Unreachable(f"no multistream there: {greeting!r}")
    if await _read_line(read) != name:
        raise Unreachable(f"{name} is not spoken there")


async def agree(read: Read, write: Write, names: Collection[str]) -> str:
    """Let the other side propose until it finds one of `names`; returns which.

    Raises:
        Disconnected: it does not speak multistream, or wants nothing that we speak.
    """
    await write(_line(_GREETING))
    if (greeting := await _read_line(read)) != _GREETING:
        raise Disconnected(f"no multistream there: {greeting!r}")
    for _ in range(_MOST_PROPOSALS):
        name = await _read_line(read)
        if name in names:
            await write(_line(name))
            return name
        await write(_line(_REFUSAL))
    raise Disconnected(f"nothing in common after {_MOST_PROPOSALS} proposals")


async def receive(stream: Stream, size: int) -> bytes:
    """Read exactly `size` bytes."""
    data = bytearray(size)
    await stream.receive_into(memoryview(data))
    return bytes(data)


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    assert len(data) <= _LONGEST_LINE
    return bytes([len(data)]) + data


async def _read_line(read: Read) -> str:
    [size] = await read(1)
    if not 1 <= size <= _LONGEST_LINE:
        raise Disconnected("no multistream there")
    return (await read(size)).decode("ascii", "replace").removesuffix("\n")
