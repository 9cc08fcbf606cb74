"""Asking a running node, and telling it: one Unix socket in its data directory.

A client connects, writes one line, `{"do": "status"}`, and reads one line, `{"ok": true, ...}` or
`{"ok": false, "error": "<one line>"}`. The reply to `watch` is followed by the node's events, one a
line, until the client hangs up or the node ends. Lines are JSON (https://jsonlines.org). Who may
connect is a matter of the file's mode: the owner alone.

Here is the client's end, plain blocking calls for commands and scripts; `control_server` is the node's.
"""

import json
import os
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from p2pnode.errors import UserError
from p2pnode.observe.stream import Stamped, from_json, plain

SOCKET = "control.sock"

MAX_REPLY = 1 << 20
"""Bytes; what a node says of 64 peers with eight addresses each has a tenth of it."""

PATIENCE = 10.0
"""Seconds that a client has for its request, and a node for its reply."""

LONGEST_NAME = 100
"""Bytes of a socket's name: an address has room for 108 on Linux and 104 elsewhere, unix(7)."""


def ask(data_dir: Path, command: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """What the node that keeps its files in `data_dir` replies to `command`. Blocks.

    Args:
        data_dir: the node's.
        command: `status`, say.
        seconds: to wait for the reply.

    Raises:
        UserError: no node runs there, or it does not answer, or says that it cannot.
    """
    with _calling(data_dir, command, seconds) as (_, lines):
        return _read_reply(data_dir, lines)


def watch(data_dir: Path) -> Generator[Stamped, None, None]:
    """The events from now on of the node that keeps its files in `data_dir`, until it ends.

    They are kept from this call on; the iterator blocks. Closing it hangs up.

    Raises:
        UserError: here or from the iterator, as for `ask`.
    """
    stack = ExitStack()
    with stack:
        connection, lines = stack.enter_context(_calling(data_dir, "watch", PATIENCE))
        _read_reply(data_dir, lines)
        connection.settimeout(None)  # events come when they come
        kept = stack.pop_all()
    return _events(data_dir, lines, kept)


def running(folder: Path) -> Sequence[Path]:
    """The data directories in `folder` whose nodes run."""

    def answers(data_dir: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, socket_name(data_dir) as name:
            connection.settimeout(PATIENCE)
            return connection.connect_ex(name) == 0

    return [path.parent for path in sorted(folder.glob(f"*/{SOCKET}")) if answers(path.parent)]


@contextmanager
def socket_name(folder: Path) -> Iterator[str]:
    """The name of the socket in `folder`, short enough for a socket's address."""
    name = str(folder / SOCKET)
    if len(os.fsencode(name)) <= LONGEST_NAME:
        yield name
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"  # the same file: Linux has this for every open folder
    finally:
        os.close(descriptor)


def encode(content: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(plain(content), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _events(data_dir: Path, lines: BinaryIO, kept: ExitStack) -> Generator[Stamped, None, None]:
    with kept:
        while line := lines.readline(MAX_REPLY):
            content = _parse(data_dir, line)
            if content.get("ok") is False:
                raise UserError(str(content.get("error")))
            try:
                yield from_json(content)
            except ValueError as error:
                raise UserError(f"the node in {data_dir} is of another version: {error}") from error


@contextmanager
def _calling(data_dir: Path, command: str, seconds: float) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection on which `command` was asked for, and what comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            with socket_name(data_dir) as name:
                connection.connect(name)
            connection.sendall(encode({"do": command}))
            with connection.makefile("rb") as lines:
                yield connection, lines
        except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
            raise UserError(f"no node runs in {data_dir}") from error
        except (TimeoutError, BlockingIOError) as error:
            raise UserError(
                f"the node in {data_dir} does not answer: perhaps it is stopped or very busy"
            ) from error
        except OSError as error:
            raise UserError(f"cannot ask the node in {data_dir}: {error.strerror}") from error


def _read_reply(data_dir: Path, lines: BinaryIO) -> dict[str, Any]:
    line = lines.readline(MAX_REPLY)
    if not line:
        raise UserError(f"the node in {data_dir} ended before it answered")
    reply = _parse(data_dir, line)
    if reply.get("ok") is not True:
        raise UserError(str(reply.get("error")))
    return reply


def _parse(data_dir: Path, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None  # cut off, or from something else
    if not isinstance(content, dict):
        raise UserError(f"what answers in {data_dir} is no node of this version")
    return content
