"""The node's end of its control socket: see `control` for what is said there.

Whatever clients do, it costs the node little: what they send, how many they are, how long they take
and what waits for them is bounded.
"""

import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pnode.errors import UserError
from p2pnode.events import Stopped
from p2pnode.observe.control import PATIENCE, SOCKET, encode, socket_name
from p2pnode.observe.stream import EventStream, Stamped, to_json

MAX_REQUEST = 4096
"""Bytes; a command has some tens."""

MAX_CLIENTS = 64
"""At one time: watchers mostly, since everybody else is answered at once."""

MAX_WAITING = 1000
"""Events kept for a watcher that reads slowly: some minutes of a busy node, some 300 kB."""

LAST_WORDS = 1.0
"""Seconds that clients have, when the node ends, to read what is left for them."""

Command = Callable[[], Awaitable[Mapping[str, Any]]]
"""Does one thing and returns what is to be said of it. Raises UserError when it cannot be done."""

_log = logging.getLogger("p2pnode.control")


@asynccontextmanager
async def serve_control(
    folder: Path, commands: Mapping[str, Command], events: EventStream | None
) -> AsyncIterator[None]:
    """Answer clients while the block runs, and let watchers see its end.

    Where no socket can be made, that is logged and the block runs without.

    Args:
        folder: the node's data directory. The caller owns it: a socket found there is a dead process's.
        commands: what can be asked for, by name.
        events: for `watch`; None refuses it.
    """
    try:
        listener = _listen(folder)
    except OSError as error:
        _log.warning("this node cannot be asked or steered: no socket in %s: %s", folder, error.strerror)
        yield
        return
    try:
        async with trio.open_nursery() as clients, trio.open_nursery() as door:
            door.start_soon(
                partial(
                    trio.serve_listeners,
                    partial(_serve, commands, events, clients),
                    [listener],
                    handler_nursery=clients,
                )
            )
            yield
            clients.cancel_scope.deadline = trio.current_time() + LAST_WORDS
            door.cancel_scope.cancel()
    finally:
        with suppress(OSError):  # whoever owns the folder next replaces it
            (folder / SOCKET).unlink()


def _listen(folder: Path) -> trio.SocketListener:
    """A socket that only the owner can connect to: until `listen` nobody can, and then it has its mode."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    plain_socket = socket.socket(socket.AF_UNIX)
    try:
        with socket_name(folder) as name:
            plain_socket.bind(name)
        path.chmod(0o600)
        plain_socket.listen(MAX_CLIENTS)
    except OSError:
        plain_socket.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(plain_socket))


async def _serve(
    commands: Mapping[str, Command],
    events: EventStream | None,
    clients: trio.Nursery,
    client: trio.SocketStream,
) -> None:
    """One client: one request and its reply."""
    try:
        if len(clients.child_tasks) > MAX_CLIENTS:
            raise UserError(f"{MAX_CLIENTS} others ask or watch this node now: let some of them end")
        command = await _receive_request(client)
        if command == "watch" and events is not None:
            await _tell(client, events)
            return
        if command not in commands:
            known = ", ".join([*commands, *(["watch"] if events else [])])
            raise UserError(f"unknown command {command[:40]!r}: this node knows {known}")
        reply = {"ok": True, **await commands[command]()}
    except UserError as error:
        reply = _refusal(str(error))
    with trio.move_on_after(PATIENCE):
        await _send(client, reply)


async def _receive_request(client: trio.SocketStream) -> str:
    """The command that a client asks for.

    Raises:
        UserError: it asks for nothing, for too long or in a wrong way.
    """
    received = b""
    with trio.move_on_after(PATIENCE) as scope:
        while b"\n" not in received and len(received) <= MAX_REQUEST:
            arrived = await _receive(client)
            if not arrived:
                break
            received += arrived
    if scope.cancelled_caught:
        raise UserError(f"no request came within {PATIENCE:g} s")
    line, end, _ = received.partition(b"\n")
    if len(line) > MAX_REQUEST:
        raise UserError(f"the request is longer than {MAX_REQUEST} bytes")
    try:
        request = json.loads(line) if end else None
    except (ValueError, RecursionError):
        request = None
    match request:
        case {"do": str(command), **rest} if not rest:
            return command
    raise UserError('the request is not one line of JSON like {"do": "status"}')


async def _tell(client: trio.SocketStream, events: EventStream) -> None:
    """Send a client every event from now on, until it hangs up, reads too slowly, or the node ends."""
    waiting, queue = trio.open_memory_channel[Stamped](MAX_WAITING)
    async with trio.open_nursery() as nursery:
        with ExitStack() as subscription:

            def take(stamped: Stamped) -> None:
                try:
                    waiting.send_nowait(stamped)
                except trio.WouldBlock:  # it is sent what waits, if it reads that soon, and then let go
                    subscription.close()
                    waiting.close()
                    nursery.cancel_scope.deadline = trio.current_time() + PATIENCE

            subscription.callback(events.subscribe(take))
            nursery.start_soon(_await_end, client, nursery.cancel_scope)
            await _send(client, {"ok": True})
            async for stamped in queue:
                await _send(client, to_json(stamped))
                if isinstance(stamped.event, Stopped):
                    break
            else:
                await _send(client, _refusal("this watcher read too slowly, so it was let go: watch again"))
        nursery.cancel_scope.cancel()


async def _await_end(client: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel when the client hangs up. Whatever else it says is not listened to."""
    while await _receive(client):
        pass
    scope.cancel()


async def _receive(client: trio.SocketStream) -> bytes:
    """Some bytes; none when the client has hung up, in whatever way."""
    try:
        return bytes(await client.receive_some(MAX_REQUEST))
    except trio.BrokenResourceError:
        return b""


async def _send(client: trio.SocketStream, reply: Mapping[str, Any]) -> None:
    """Send one line. To whom has hung up there is nothing to say."""
    with suppress(trio.BrokenResourceError):
        await client.send_all(encode(reply))


def _refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": " ".join(error.split())}
