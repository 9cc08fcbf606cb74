"""The library's own path: its host, its Noise, its yamux, none of it replaced."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from multiaddr import Multiaddr

from p2pnode.bench.transfer import Accept, Path, Pipe
from p2pnode.identity.keys import Key
from p2pnode.net.connection import noise_of
from p2pnode.ports import Bytes

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
PROTOCOL = TProtocol("/p2pnode/bench/1")


class LibraryPipe:
    """A stream of the library. What it gives is taken as it comes: no copy of ours is counted."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def send(self, data: Bytes) -> None:
        await self._stream.write(bytes(data))

    async def take(self, most: int) -> Bytes:
        return await self._stream.read(most)


def _host() -> IHost:
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    seed = Key.generate().seed
    return new_host(key_pair=create_new_key_pair(seed), sec_opt={NOISE: noise_of(seed)})


@asynccontextmanager
async def listen() -> AsyncIterator[tuple[str, Accept]]:
    """Be a host that is dialled."""
    arrive, arrived = trio.open_memory_channel[Pipe](0)

    async def accept(stream: INetStream) -> None:
        await arrive.send(LibraryPipe(stream))
        await trio.sleep_forever()

    host = _host()
    host.set_stream_handler(PROTOCOL, accept)
    async with host.run(listen_addrs=[LOOPBACK]):
        yield str(host.get_addrs()[0]), arrived.receive
        await host.close()


@asynccontextmanager
async def dial(address: str, count: int) -> AsyncIterator[Sequence[Pipe]]:
    """Be a host that dials."""
    host = _host()
    async with host.run(listen_addrs=[]):
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        yield [LibraryPipe(await host.new_stream(info.peer_id, [PROTOCOL])) for _ in range(count)]
        await host.close()


PATH = Path(listen, dial)
