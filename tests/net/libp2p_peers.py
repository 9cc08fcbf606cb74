"""Peers for the tests of the libp2p network, all on the loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from p2pnode.identity.keys import Key
from p2pnode.net.addresses import parse_address
from p2pnode.net.host import Libp2pNetwork, open_network

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def key(number: int) -> Key:
    return Key(number.to_bytes(32, "big"))


def peer(number: int, listen: str = LOOPBACK) -> AbstractAsyncContextManager[Libp2pNetwork]:
    return open_network(key(number), [listen])


@asynccontextmanager
async def two_peers() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """Two networks; the first has dialled the second."""
    async with peer(1) as near, peer(2) as far:
        await near.connect(full_address(far))
        yield near, far


def full_address(network: Libp2pNetwork) -> str:
    return f"{network.addresses[0]}/p2p/{network.me}"


async def dial_raw(network: Libp2pNetwork) -> trio.SocketStream:
    """Reach a network as any TCP client may."""
    place = parse_address(network.addresses[0])
    return await trio.open_tcp_stream(place.host, place.port)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # what is waited for happens inside the library
            await trio.sleep(0.005)
