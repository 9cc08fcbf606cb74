"""The path of a large exchange: two networks as nodes have them, and direct connections between them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from p2pnode.bench.ours import LOOPBACK, PROTOCOL, StreamPipe
from p2pnode.bench.transfer import BLOCKS, Accept, Path, Pipe
from p2pnode.identity.keys import Key
from p2pnode.net.bulk_keys import INVITATION
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.net.multistream import receive
from p2pnode.ports import Stream


async def direct(network: Libp2pNetwork, stream: Stream) -> Pipe:
    """Go from a stream to a direct connection."""
    mine = network.invitation(stream)
    await stream.send(mine)
    found = await network.direct(stream, mine, await receive(stream, INVITATION), b"bench")
    assert found is not None, "no direct connection came about"
    return StreamPipe(found, BLOCKS)


@asynccontextmanager
async def listen() -> AsyncIterator[tuple[str, Accept]]:
    """Be a node that is dialled."""
    arrive, arrived = trio.open_memory_channel[Pipe](0)

    async def accept(stream: Stream) -> None:
        await arrive.send(await direct(network, stream))
        await trio.sleep_forever()

    async with open_network(Key.generate(), [LOOPBACK]) as network:
        network.serve(PROTOCOL, accept)
        yield f"{network.addresses[0]}/p2p/{network.me}", arrived.receive


@asynccontextmanager
async def dial(address: str, count: int) -> AsyncIterator[Sequence[Pipe]]:
    """Be a node that dials."""
    async with open_network(Key.generate(), [LOOPBACK]) as network:
        peer = await network.connect(address)
        yield [await direct(network, await network.open(peer, PROTOCOL)) for _ in range(count)]


PATH = Path(listen, dial)
