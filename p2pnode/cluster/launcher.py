"""The owner's end of the fork server: processes are asked for here, and their ends heard of."""

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import trio

from p2pnode import forkserver
from p2pnode.errors import UserError

BODY = "p2pnode.cluster.child:run"

_PROGRAM = "import sys; from p2pnode.forkserver import main; main(*sys.argv[1:])"


class Child(Protocol):
    """Who is told what becomes of a process."""

    def started(self, pid: int) -> None: ...

    def ended(self, code: int) -> None: ...


class Launcher:
    """Starts processes through a fork server. Made by `launcher`."""

    def __init__(self, server: trio.SocketStream) -> None:
        self._server = server
        self._children: dict[str, Child] = {}
        self._asking = trio.Lock()
        self._changing = trio.Lock()
        self._told, self._changes = trio.open_memory_channel[str](math.inf)
        self._closing = False

    async def start(self, name: str, child: Child, channel: socket.socket) -> None:
        """Ask for a process called `name` that talks through `channel`. `child` hears of it."""
        self._children[name] = child
        passed = channel.fileno().to_bytes(4, sys.byteorder)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
        async with self._asking:
            await self._server.socket.sendmsg([_line({"start": name})], ancillary)

    async def signal(self, name: str, number: int) -> None:
        """Send a signal to the process called `name`, unless it has ended."""
        if name in self._children:
            async with self._asking:
                await self._server.send_all(_line({"node": name, "signal": number}))

    async def plug(self, addresses: Mapping[str, str]) -> None:
        """Have the processes that will have these names started in networks of their own, joined by a switch.

        Raises:
            UserError: that is not possible on this system.
        """
        await self._change_network({"plug": addresses})

    async def connect(self, groups: Sequence[Sequence[str]]) -> None:
        """Let those of each group reach each other and nobody else, once they are plugged in."""
        await self._change_network({"connect": groups})

    async def throttle(self, name: str, rate: int | None) -> None:
        """Let so many bits a second to and from a process that is plugged in; None for no limit."""
        await self._change_network({"throttle": rate, "node": name})

    async def _change_network(self, request: Mapping[str, object]) -> None:
        with trio.CancelScope(shield=True):  # a matter of milliseconds, and no answer is left for the next
            async with self._changing:
                async with self._asking:
                    await self._server.send_all(_line(request))
                async for mistake in self._changes:
                    if mistake:
                        raise UserError(mistake)
                    return

    async def close(self) -> None:
        """Let the server end; it kills what still runs."""
        self._closing = True
        async with self._asking:
            await self._server.send_eof()

    async def listen(self) -> None:
        """Hand on what the server says, until it ends, whatever is cancelled.

        Raises:
            RuntimeError: it was not asked to end. Its children are dead, and know it.
        """
        with trio.CancelScope(shield=True):
            async for line in lines(self._server):
                match json.loads(line):
                    case {"started": name, "pid": pid}:
                        self._children[name].started(pid)
                    case {"ended": name, "code": code}:
                        self._children.pop(name).ended(code)
                    case {"network": mistake}:
                        self._told.send_nowait(mistake)
        self._told.close()
        for child in self._children.values():
            child.ended(-signal.SIGKILL)
        self._children.clear()
        if not self._closing:
            raise RuntimeError("the process that starts nodes has died; perhaps it said why on stderr")


class Server(NamedTuple):
    """A fork server: the owner's end of its socket, and what waits for its end once that is shut down."""

    socket: socket.socket
    wait: Callable[[], object]


@contextmanager
def prepared(stderr: IO[bytes] | None = None, folder: Path | None = None) -> Iterator[Server]:
    """A fork server for this block, in a new process, which imports what nodes need.

    Args:
        stderr: where it and its nodes write what they have to say.  [default: this process's]
        folder: removed in the end, also when this process is killed.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = (BODY, forkserver.method(os.environ), str(theirs.fileno()))
            modules = os.pathsep.join(path or "." for path in sys.path)  # where this process finds them
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                pass_fds=[theirs.fileno()],
                env={**forkserver.environment(os.environ), "PYTHONPATH": modules},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the owner, who ends the nodes in good order
            )
        if folder is not None:
            ours.sendall(_line({"remove": str(folder)}))
        yield from _until_left(Server(ours, process.wait))


@contextmanager
def forked() -> Iterator[Server]:
    """A fork server for this block, made of this process.

    That saves a second set of imports to a process that needs them itself. It must have one thread, and
    must have set `forkserver.environment` before it imported anything. Where there is no good fork it
    is `prepared`.
    """
    if forkserver.method(os.environ) != "fork":
        with prepared() as server:
            yield server
        return
    forkserver.load(BODY)
    assert forkserver.threads() == 1, "a process with threads must not be forked"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            context = multiprocessing.get_context("fork")
            process = context.Process(target=forkserver.detach, args=(theirs, BODY, ours))
            process.start()
        yield from _until_left(Server(ours, process.join))


def _until_left(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        with suppress(OSError):  # it has ended already
            server.socket.shutdown(socket.SHUT_WR)
        server.wait()


@asynccontextmanager
async def launcher(server: Server, folder: Path | None) -> AsyncIterator[Launcher]:
    """Talks with `server`, and ends it with the block. Nothing that it started outlives that.

    Args:
        server: of `prepared`.
        folder: removed in the end, also when this process is killed.
    """
    async with trio.SocketStream(trio.socket.from_stdlib_socket(server.socket.dup())) as stream:
        opened = Launcher(stream)
        if folder is not None:
            await stream.send_all(_line({"remove": str(folder)}))
        try:
            yield opened
        finally:
            with trio.CancelScope(shield=True):
                await opened.close()
                await trio.to_thread.run_sync(server.wait)


async def lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    """What comes through `stream`, cut at line ends; half a line at its end is dropped.

    Raises:
        trio.BrokenResourceError: the other end was killed before it had read everything.
    """
    rest = b""
    async for part in stream:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line


def _line(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"
