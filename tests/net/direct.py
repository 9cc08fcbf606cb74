"""What the tests of direct connections share."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2pnode.net.bulk import BulkStream
from p2pnode.net.bulk_keys import Keys, agree_on, invite
from p2pnode.net.wire import Meter
from p2pnode.ports import Network, PeerId, Stream

from .contract import PROTOCOL, parked_handler, receive

CONTEXT = b"an exchange"


def both_keys(cipher: int = 0, seed: int = 0) -> tuple[Keys, Keys]:
    """The dialler's, and the listener's."""
    one, other = invite(cipher, bytes([seed]) * 32), invite(cipher, bytes([seed + 1]) * 32)
    return agree_on(one, other, CONTEXT, True), agree_on(other, one, CONTEXT, False)


def bulk_pair(cipher: int = 0) -> tuple[BulkStream, BulkStream]:
    """Both ends of a direct connection, in one process."""
    sockets = socket.socketpair()
    near, far = (
        BulkStream(end, PeerId(name), keys, Meter())
        for end, name, keys in zip(sockets, ("far", "near"), both_keys(cipher), strict=True)
    )
    return near, far


@asynccontextmanager
async def two_streams(near: Network, far: Network) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of a stream that `near` opens."""
    accept, accepted = parked_handler()
    far.serve(PROTOCOL, accept)
    stream = await near.open(far.me, PROTOCOL)
    await stream.send(b"!")
    other = await accepted.receive()
    await receive(other, 1)
    yield stream, other
    await stream.reset()


async def met(
    near: Network,
    far: Network,
    streams: tuple[Stream, Stream],
    contexts: tuple[bytes, bytes] = (CONTEXT, CONTEXT),
) -> tuple[Stream | None, Stream | None]:
    """What both get who invite each other over `streams`."""
    here, there = near.invitation(streams[0]), far.invitation(streams[1])
    found: dict[int, Stream | None] = {}

    async def meet(number: int, network: Network, mine: bytes, theirs: bytes) -> None:
        found[number] = await network.direct(streams[number], mine, theirs, contexts[number])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meet, 0, near, here, there)
        nursery.start_soon(meet, 1, far, there, here)
    return found[0], found[1]


async def paired(near: Network, far: Network, streams: tuple[Stream, Stream]) -> tuple[Stream, Stream]:
    """The same, where both must get one."""
    here, there = await met(near, far, streams)
    assert here is not None
    assert there is not None
    return here, there


async def exchanged(one: Stream, other: Stream, up: bytes, down: bytes) -> None:
    """Send both ways at once, and find the same at the other end."""
    buffers = bytearray(len(down)), bytearray(len(up))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, up)
        nursery.start_soon(other.send, down)
        nursery.start_soon(one.receive_into, memoryview(buffers[0]))
        nursery.start_soon(other.receive_into, memoryview(buffers[1]))
    assert (bytes(buffers[0]), bytes(buffers[1])) == (down, up)


def open_files() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())
