"""Sockets that wait for others to dial."""

import errno
from collections.abc import Sequence

import trio

from p2pnode.errors import UserError
from p2pnode.net.addresses import parse_address


async def bind(addresses: Sequence[str]) -> list[trio.SocketListener]:
    """Listen on every one of these multiaddrs, or on none.

    The library sets SO_REUSEPORT, under which two nodes share a port and its connections at random.

    Raises:
        UserError: one of them cannot be used.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            listeners += await _bind(address)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _bind(address: str) -> Sequence[trio.SocketListener]:
    try:
        place = parse_address(address)
        return await trio.open_tcp_listeners(place.port, host=place.host)
    except ValueError as error:
        raise UserError(f"cannot listen on {address}: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"cannot listen on {address}: the port is taken, choose another") from error
        raise UserError(f"cannot listen on {address}: {error.strerror or error}") from error
