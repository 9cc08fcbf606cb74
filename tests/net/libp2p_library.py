"""The library's own host, with its own Noise and yamux, beside our network.

Nothing of ours is in that host. Only its streams are dressed as ours, so that both ends of a
conversation read the same.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from multiaddr import Multiaddr

from p2pnode.errors import Disconnected
from p2pnode.net.connection import noise_of
from p2pnode.net.host import Libp2pNetwork
from p2pnode.ports import Bytes, PeerId, Stream

from .contract import MIB, parked_handler
from .exchange import PROTOCOL
from .libp2p_peers import LOOPBACK, full_address, key, peer, until

THERE = key(2).peer


@dataclass
class LibraryStream:
    """A stream of the library's, as a `ports.Stream`."""

    stream: INetStream
    peer: PeerId

    async def send(self, data: Bytes) -> None:
        for start in range(0, len(data), MIB):
            try:
                await self.stream.write(bytes(data[start : start + MIB]))
            except StreamError as error:
                raise Disconnected(repr(error)) from error

    async def receive_into(self, view: memoryview) -> None:
        while view:
            try:
                data = await self.stream.read(len(view))
            except StreamError as error:
                raise Disconnected(repr(error)) from error
            view[: len(data)] = data
            view = view[len(data) :]

    async def close(self) -> None:
        await self.stream.close()

    async def reset(self) -> None:
        await self.stream.reset()


@dataclass
class Pair:
    """Our network, connected with the library's host."""

    ours: Libp2pNetwork
    host: IHost

    async def we_open(self) -> tuple[Stream, Stream]:
        """Both ends of a stream that we open, ours first."""
        streams, opened = trio.open_memory_channel[INetStream](1)
        self.host.set_stream_handler(TProtocol(PROTOCOL), streams.send)
        return await self.ours.open(THERE, PROTOCOL), LibraryStream(await opened.receive(), self.ours.me)

    async def they_open(self) -> tuple[Stream, Stream]:
        """Both ends of a stream that the library opens, ours first."""
        accept, accepted = parked_handler()
        self.ours.serve(PROTOCOL, accept)
        other = await self.open_there(PROTOCOL)
        return await accepted.receive(), other

    async def open_there(self, protocol: str) -> LibraryStream:
        stream = await self.host.new_stream(ID.from_string(self.ours.me), [TProtocol(protocol)])
        return LibraryStream(stream, self.ours.me)


Connect = Callable[[], AbstractAsyncContextManager[Pair]]
Open = Callable[[Pair], Awaitable[tuple[Stream, Stream]]]


@asynccontextmanager
async def strangers() -> AsyncIterator[Pair]:
    """Not connected yet."""
    host = new_host(key_pair=create_new_key_pair(key(2).seed), sec_opt={NOISE: noise_of(key(2).seed)})
    async with peer(1) as ours, host.run(listen_addrs=[Multiaddr(LOOPBACK)]):
        yield Pair(ours, host)
        await host.close()


@asynccontextmanager
async def we_dial() -> AsyncIterator[Pair]:
    async with strangers() as pair:
        await pair.ours.connect(str(pair.host.get_addrs()[0]))
        await until(lambda: bool(pair.host.get_connected_peers()))
        yield pair


@asynccontextmanager
async def they_dial() -> AsyncIterator[Pair]:
    async with strangers() as pair:
        await pair.host.connect(info_from_p2p_addr(Multiaddr(full_address(pair.ours))))
        yield pair
