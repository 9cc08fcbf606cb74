"""Connections of which only one end knows that they are over, and those that fell silent."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from p2pnode.net.addresses import format_address, parse_address
from p2pnode.ports import PeerAddress
from tests.net.contract import PROTOCOL, ask_echo, echo
from tests.net.libp2p_peers import peer


class Proxy:
    """Passes TCP connections on, until it is frozen: then nothing comes through, and nothing is closed.

    Attributes:
        address: where it listens.
    """

    def __init__(self, address: str, behind: tuple[str, int]) -> None:
        self.address = address
        self._behind = behind
        self._through = trio.Event()
        self._through.set()
        self._streams: list[trio.SocketStream] = []

    def freeze(self) -> None:
        self._through = trio.Event()

    def reset_far_ends(self) -> None:
        """Let the end behind the proxy lose all connections; nobody tells the other."""
        self.freeze()
        for stream in self._streams:
            with suppress(OSError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
            stream.socket.close()

    async def serve(self, near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream(*self._behind) as far, trio.open_nursery() as nursery:
            self._streams.append(far)
            nursery.start_soon(self._pass, near, far)
            nursery.start_soon(self._pass, far, near)

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await self._through.wait()
                await sink.send_all(data)
        await trio.sleep_forever()  # nothing is passed on of an end, either


@asynccontextmanager
async def proxy(address: str) -> AsyncIterator[Proxy]:
    """In front of the multiaddr `address`."""
    place = parse_address(address)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        own = format_address("127.0.0.1", listener.socket.getsockname()[1])
        made = Proxy(own, (place.host, place.port))
        nursery.start_soon(trio.serve_listeners, made.serve, [listener])
        yield made
        nursery.cancel_scope.cancel()


@pytest.mark.fault("half-open TCP")
@pytest.mark.parametrize("how", ["freeze", "reset_far_ends"])
@pytest.mark.parametrize("seed", range(5))
async def test_a_connection_on_which_nothing_comes_is_replaced(how: str, seed: int) -> None:
    async with peer(2 * seed + 1) as near, peer(2 * seed + 2) as far, proxy(far.addresses[0]) as between:
        far.serve(PROTOCOL, echo)
        near.learn(PeerAddress(far.me, (between.address,)))
        assert await ask_echo(await near.open(far.me, PROTOCOL), b"before") == b"before"
        getattr(between, how)()
        with trio.move_on_after(0.2) as waited:  # as by a deadline that was learned
            await near.open(far.me, PROTOCOL)
        assert waited.cancelled_caught
        near.learn(PeerAddress(far.me, far.addresses))
        with trio.fail_after(5):
            assert await ask_echo(await near.open(far.me, PROTOCOL), b"after") == b"after"
