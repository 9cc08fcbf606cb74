"""A TCP proxy on the loopback that spoils the first direct connection of two nodes that meet through it.

One node dials the other at the proxy's address. Everything is passed on, until so many bytes have gone one
way over the first connection that is asked for as a direct one. Then something happens to it.
"""

import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from p2pnode.net.addresses import format_address, parse_address
from p2pnode.net.bulk_keys import PROTOCOL

CHUNK = 1 << 16
TRICKLE_SECONDS = 0.01
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Pipe:
    """One way of a connection: what comes from `source` goes to `sink`."""

    def __init__(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        self.source = source
        self.sink = sink
        self.back = self
        self.frozen = False

    async def run(self, first: bytes, after: float, spoil: "Spoil") -> None:
        """Pass everything on, `first` before all; when `after` bytes have gone, `spoil` it."""
        passed = 0
        data = first or await self.source.receive_some(CHUNK)
        while data:
            if self.frozen:
                await trio.sleep_forever()
            if passed < after <= passed + len(data):
                good = int(after) - passed
                await self.sink.send_all(data[:good])
                await spoil(self, data[good:])
            else:
                await self.sink.send_all(data)
            passed += len(data)
            data = await self.source.receive_some(CHUNK)
        await self.sink.send_eof()


Spoil = Callable[[Pipe, bytes], Awaitable[None]]
"""Does something to a connection, given one way of it and what would go there next."""


async def kill(pipe: Pipe, rest: bytes) -> None:
    """Both ends are told that the connection is lost."""
    for end in (pipe.source, pipe.sink):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        end.socket.close()  # so it says RST
    await trio.lowlevel.checkpoint()


async def cut(pipe: Pipe, rest: bytes) -> None:
    """To both ends it looks as if the other had closed."""
    for end in (pipe.source, pipe.sink):
        with suppress(OSError):
            end.socket.shutdown(socket.SHUT_RDWR)
        end.socket.close()
    await trio.lowlevel.checkpoint()


async def freeze(pipe: Pipe, rest: bytes) -> None:
    """Nothing comes any more, either way."""
    pipe.back.frozen = True
    await trio.sleep_forever()


async def throttle(pipe: Pipe, rest: bytes) -> None:
    """A hundred bytes a second come from here on."""
    while rest := rest or await pipe.source.receive_some(CHUNK):
        await pipe.sink.send_all(rest[:1])
        rest = rest[1:]
        await trio.sleep(TRICKLE_SECONDS)


async def corrupt(pipe: Pipe, rest: bytes) -> None:
    """One bit of the next byte is turned over; where none has come yet there is one byte more."""
    await pipe.sink.send_all(bytes([rest[0] ^ 1 if rest else 0]) + rest[1:])


class Middleman:
    """The proxy.

    Args:
        target: multiaddr of the node behind it.
        spoil: what it does to the first direct connection.
        way: 0: counts what the dialler sends; 1: what the listener does.
        after: so many bytes.
        nursery: where it works.

    Attributes:
        address: where it listens.
        struck: it has done so.
        sockets: how many it has open for others.
    """

    def __init__(self, target: str, spoil: Spoil, way: int, after: int, nursery: trio.Nursery) -> None:
        self.address = ""
        self.struck = False
        self._first = True
        self.sockets = 0
        self._nursery = nursery
        self._place = parse_address(target)
        self._spoil = spoil
        self._way = way
        self._after = after

    @property
    def tasks(self) -> int:
        """How many it has running."""
        return _tasks_in(self._nursery)

    async def welcome(self, dialler: trio.SocketStream) -> None:
        """Connect one that has dialled."""
        listener = await trio.open_tcp_stream(self._place.host, self._place.port)
        self.sockets += 2
        try:
            async with dialler, listener:
                await self._connect(dialler, listener)
        finally:
            self.sockets -= 2

    async def _strike(self, pipe: Pipe, rest: bytes) -> None:
        self.struck = True
        await self._spoil(pipe, rest)

    async def _connect(self, dialler: trio.SocketStream, listener: trio.SocketStream) -> None:
        first = await dialler.receive_some(CHUNK)  # its greeting and the name that it asks for
        direct = PROTOCOL.encode() in first and self._first
        self._first = self._first and not direct
        there, back = Pipe(dialler, listener), Pipe(listener, dialler)
        there.back, back.back = back, there
        try:
            async with trio.open_nursery() as both:
                for number, (pipe, head) in enumerate(((there, first), (back, b""))):
                    after = self._after if direct and number == self._way else math.inf
                    both.start_soon(pipe.run, head, after, self._strike)
        except* BROKEN:  # one has hung up: so does the other
            pass


def _tasks_in(nursery: trio.Nursery) -> int:
    inner = (one for task in nursery.child_tasks for one in task.child_nurseries)
    return len(nursery.child_tasks) + sum(map(_tasks_in, inner))


@asynccontextmanager
async def middleman(target: str, spoil: Spoil, way: int, after: int) -> AsyncIterator[Middleman]:
    """A proxy before the node at `target`."""
    async with trio.open_nursery() as nursery:
        made = Middleman(target, spoil, way, after, nursery)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, made.welcome, listeners)
        made.address = format_address(*listeners[0].socket.getsockname()[:2])
        yield made
        nursery.cancel_scope.cancel()
