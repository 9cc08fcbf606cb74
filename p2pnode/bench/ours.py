"""The path of every exchange: two networks as nodes have them, Noise and yamux of our own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from p2pnode.bench.transfer import Accept, Path, Pipe, touched
from p2pnode.identity.keys import Key
from p2pnode.net.host import open_network
from p2pnode.ports import Bytes, Stream

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PROTOCOL = "/p2pnode/bench/1"


class StreamPipe:
    """A stream, and a buffer to receive into, of some blocks."""

    def __init__(self, stream: Stream, blocks: int = 1) -> None:
        self.send = stream.send
        self._receive_into = stream.receive_into
        self._buffer = touched(blocks)

    async def take(self, most: int) -> Bytes:
        view = self._buffer[:most]
        await self._receive_into(view)
        return view


@asynccontextmanager
async def listen() -> AsyncIterator[tuple[str, Accept]]:
    """Be a node that is dialled."""
    arrive, arrived = trio.open_memory_channel[Pipe](0)

    async def accept(stream: Stream) -> None:
        await arrive.send(StreamPipe(stream))
        await trio.sleep_forever()

    async with open_network(Key.generate(), [LOOPBACK]) as network:
        network.serve(PROTOCOL, accept)
        yield f"{network.addresses[0]}/p2p/{network.me}", arrived.receive


@asynccontextmanager
async def dial(address: str, count: int) -> AsyncIterator[Sequence[Pipe]]:
    """Be a node that dials."""
    async with open_network(Key.generate(), [LOOPBACK]) as network:
        peer = await network.connect(address)
        yield [StreamPipe(await network.open(peer, PROTOCOL)) for _ in range(count)]


PATH = Path(listen, dial)
