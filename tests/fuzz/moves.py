"""What a hostile peer does in a conversation, told by a few bytes.

It makes moves: a byte says which of the target's acts, one how long its data is, and then come the data. An
act is a message, with the data for its fields, or something that no honest peer does. The moves go to the
streams in the order in which these are opened.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

import trio
from attrs import validators

from p2pnode.errors import Disconnected, LinkError
from p2pnode.net.memory import MemoryNetwork
from p2pnode.ports import PeerId, Stream
from p2pnode.wire.messages import Message, encode

MOST_MOVES = 64

Moves = deque[tuple[int, bytes]]
Act = Callable[[Stream, bytes], Awaitable[None]]


def moves_of(data: bytes) -> Moves:
    """A few of them: which, and the data."""
    moves: Moves = deque()
    while len(data) >= 2 and len(moves) < MOST_MOVES:
        moves.append((data[0], data[2 : 2 + data[1]]))
        data = data[2 + data[1] :]
    return moves


@dataclass(frozen=True)
class Hostile:
    """A peer; several may share their moves."""

    network: MemoryNetwork
    acts: Sequence[Act]
    moves: Moves

    async def play(self, stream: Stream) -> None:
        """Make moves until the stream has ended, or there are no more."""
        with suppress(LinkError):
            while self.moves:
                move, data = self.moves.popleft()
                await self.acts[move % len(self.acts)](stream, data)
        await stream.reset()

    async def visit(self, node: PeerId, protocol: str) -> None:
        await self.play(await self.network.open(node, protocol))


async def visit_all(peers: Sequence[Hostile], node: PeerId, protocol: str) -> None:
    """One comes after the other, and the first again after the last, until there are no more moves."""
    for peer in cycle(peers):
        if not peer.moves:
            return
        await peer.visit(node, protocol)


def say(make: Callable[[bytes], Message]) -> Act:
    """The act of a message that is made of the data, be it one that no honest peer can make."""

    async def act(stream: Stream, data: bytes) -> None:
        with validators.disabled():
            message = make(data)
        await stream.send(encode(message))

    return act


def number(data: bytes) -> int:
    """Up to four bytes."""
    return int.from_bytes(data[:4], "big")


def repeated(data: bytes, size: int) -> bytes:
    """These bytes again and again."""
    return ((data or b"0") * size)[:size]


async def wait(stream: Stream, data: bytes) -> None:
    """Up to five seconds."""
    await trio.sleep(number(data[:1]) / 50)


async def leave(stream: Stream, data: bytes) -> None:
    """The next move is for another stream."""
    raise Disconnected("has left")


RUDE: Sequence[Act] = (
    lambda stream, data: stream.send(data),
    lambda stream, data: stream.send(len(data).to_bytes(4, "big") + data),
    lambda stream, data: stream.close(),
    wait,
    leave,
)
