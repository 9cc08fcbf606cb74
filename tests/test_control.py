"""Asking a node over its socket: what is said, what is refused, and what clients cannot do to it."""

import json
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from p2pnode import events
from p2pnode.errors import UserError
from p2pnode.observe import control, control_server
from p2pnode.observe.control import SOCKET, ask, encode, running, watch
from p2pnode.observe.control_server import MAX_CLIENTS, MAX_REQUEST, MAX_WAITING, serve_control
from p2pnode.observe.stream import EventStream, Stamped

T = TypeVar("T")

WALL = 1_800_000_000.0
RESUMED = events.Resumed(3)
STOPPED = events.Stopped("command", 10, 20)


async def blocking(function: Callable[[], T]) -> T:
    """Call the client's side, which blocks, while the server's runs."""
    return await trio.to_thread.run_sync(function)


async def status() -> Mapping[str, Any]:
    return {"round": 3, "loss": float("nan"), "addresses": ("/memory/a",)}


async def fail() -> Mapping[str, Any]:
    raise UserError("the disk is full:\nmake room")


COMMANDS = {"status": status, "fail": fail}


class Serving:
    """A served folder."""

    def __init__(self, folder: Path, stream: EventStream) -> None:
        self.folder = folder
        self.stream = stream

    async def ask(self, command: str) -> dict[str, Any]:
        return await blocking(lambda: ask(self.folder, command))

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(self.folder / SOCKET)

    async def say(self, words: bytes) -> dict[str, Any]:
        """What is replied to some bytes after which nothing more comes."""
        async with await self.connect() as stream:
            await stream.send_all(words)
            await stream.send_eof()
            return await line(stream)

    async def watch(self) -> trio.SocketStream:
        """A watcher that has been taken in."""
        stream = await self.connect()
        await stream.send_all(encode({"do": "watch"}))
        assert await line(stream) == {"ok": True}
        return stream

    @property
    def watchers(self) -> int:
        return len(self.stream._subscribers)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serving]:
    stream = EventStream(lambda: WALL)
    async with serve_control(folder, COMMANDS, stream):
        yield Serving(folder, stream)


async def line(stream: trio.SocketStream) -> dict[str, Any]:
    """One line, read byte by byte so that the next is left where it is."""
    received = b""
    with trio.fail_after(30):
        while not received.endswith(b"\n"):
            byte = await stream.receive_some(1)
            assert byte, f"it ended after {received!r}"
            received += byte
    content: dict[str, Any] = json.loads(received)
    return content


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - what the kernel does sets no event
            await trio.sleep(0.005)


# --- one question, one answer ---


async def test_a_command_is_answered_in_strict_json(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        reply = await served.ask("status")
    assert reply == {"ok": True, "round": 3, "loss": "nan", "addresses": ["/memory/a"]}


async def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(UserError, match="the disk is full: make room"):
            await served.ask("fail")


async def test_an_unknown_command_is_answered_with_those_there_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(UserError, match="unknown command 'dance': this node knows status, fail, watch"):
            await served.ask("dance")


async def test_without_events_there_is_nothing_to_watch(tmp_path: Path) -> None:
    async with serve_control(tmp_path, COMMANDS, None):
        with pytest.raises(UserError, match=r"unknown command 'watch': this node knows status, fail$"):
            await blocking(lambda: watch(tmp_path))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (b"", "not one line of JSON"),
        (b'{"do": "status"}', "not one line of JSON"),  # cut off
        (b"status\n", "not one line of JSON"),
        (b"\xff\xfe\n", "not one line of JSON"),
        (b"[" * MAX_REQUEST + b"\n", "not one line of JSON"),
        (b"null\n", "not one line of JSON"),
        (b'{"do": 1}\n', "not one line of JSON"),
        (b'{"do": "status", "then": "stop"}\n', "not one line of JSON"),
        (b'{"do": "' + b"x" * MAX_REQUEST + b'"}\n', "longer than 4096 bytes"),
        (b"x" * 2 * MAX_REQUEST, "longer than 4096 bytes"),
    ],
)
async def test_a_malformed_or_oversized_request_is_refused_and_the_next_one_answered(
    words: bytes, error: str, tmp_path: Path
) -> None:
    async with serving(tmp_path) as served:
        reply = await served.say(words)
        assert reply["ok"] is False
        assert error in reply["error"]
        assert (await served.ask("status"))["ok"] is True


async def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "PATIENCE", 0.05)
    async with serving(tmp_path) as served, await served.connect() as silent:
        assert "no request came" in (await line(silent))["error"]
        assert await silent.receive_some(1) == b""


async def test_a_client_that_hangs_up_at_any_moment_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for words in (b"", b'{"do"', encode({"do": "status"}), encode({"do": "watch"})):
            stream = await served.connect()
            await stream.send_all(words)
            await stream.aclose()
        assert (await served.ask("status"))["ok"] is True
        await until(lambda: served.watchers == 0)


async def test_more_clients_than_there_is_room_for_are_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        watchers = [await served.watch() for _ in range(MAX_CLIENTS)]
        with pytest.raises(UserError, match="64 others ask or watch this node now"):
            await served.ask("status")
        await watchers.pop().aclose()
        await until(lambda: served.watchers < MAX_CLIENTS)
        assert (await served.ask("status"))["ok"] is True
        for stream in watchers:
            await stream.aclose()


# --- watching ---


async def test_two_watchers_see_every_event_from_then_on_to_the_last(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.stream.publish(events.Paused(2))  # before they came
        watchers = [await blocking(lambda: watch(tmp_path)) for _ in range(2)]
        served.stream.publish(RESUMED)
        assert (await served.ask("status"))["ok"] is True
        served.stream.publish(STOPPED)  # just before the node ends
    for watcher in watchers:
        assert await blocking(lambda seen=watcher: list(seen)) == [  # type: ignore[misc]
            Stamped(WALL, RESUMED),
            Stamped(WALL, STOPPED),
        ]


async def test_a_watcher_that_closes_hangs_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with closing(await blocking(lambda: watch(tmp_path))) as watcher:
            assert served.watchers == 1
            served.stream.publish(RESUMED)
            assert (await blocking(lambda: next(watcher))).event == RESUMED
        await until(lambda: served.watchers == 0)


async def test_a_slow_watcher_is_let_go_with_a_line_after_what_waited_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, await served.watch() as stream:
        long = events.NotSaved("x" * 1000)
        published = 0
        while served.watchers:  # until the socket's buffers and the queue are full
            served.stream.publish(long)
            published += 1
            await trio.lowlevel.checkpoint()
        assert MAX_WAITING < published < 10 * MAX_WAITING
        assert (await served.ask("status"))["ok"] is True
        lines = b""
        while received := await stream.receive_some(1 << 16):
            lines += received
        *told, last = map(json.loads, lines.splitlines())
        assert MAX_WAITING < len(told) < published
        assert {one["event"] for one in told} == {"NotSaved"}
        assert "read too slowly" in last["error"]


async def test_a_watcher_that_reads_nothing_more_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "PATIENCE", 0.05)
    async with serving(tmp_path) as served, await served.watch():
        others = trio.lowlevel.current_statistics().tasks_living
        while served.watchers:
            served.stream.publish(events.NotSaved("x" * 1000))
            await trio.lowlevel.checkpoint()
        await until(lambda: trio.lowlevel.current_statistics().tasks_living < others)


async def test_a_watcher_that_reads_too_slowly_is_told_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "MAX_WAITING", 1)
    async with serving(tmp_path) as served:
        watcher = await blocking(lambda: watch(tmp_path))
        for _ in range(3):
            served.stream.publish(RESUMED)
        with pytest.raises(UserError, match="read too slowly"):
            await blocking(lambda: list(watcher))


# --- the socket ---


async def test_the_socket_is_the_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    async with serving(tmp_path):
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert await blocking(lambda: list(tmp_path.iterdir())) == []


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with pytest.raises(UserError, match="no node runs in"):
        ask(tmp_path, "status")
    async with serving(tmp_path) as served:
        assert (await served.ask("status"))["ok"] is True


async def test_a_deep_folder_is_served_like_any_other(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    async with serving(deep) as served:
        assert (deep / SOCKET).is_socket()
        assert (await served.ask("status"))["ok"] is True
        assert await blocking(lambda: running(deep.parent)) == [deep]
    assert await blocking(lambda: list(deep.iterdir())) == []


async def test_only_folders_with_a_running_node_are_found(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "dead", "empty")]
    for folder in folders:
        folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead" / SOCKET))
    async with serving(folders[0]), serving(folders[1]):
        assert await blocking(lambda: running(tmp_path)) == folders[:2]
    assert await blocking(lambda: running(tmp_path)) == []


async def test_a_node_goes_on_where_no_socket_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_control(tmp_path / "none", COMMANDS, None):
        assert "this node cannot be asked or steered" in caplog.text
    with pytest.raises(UserError, match="no node runs in"):
        ask(tmp_path / "none", "status")


async def test_what_ends_the_block_ends_the_clients(tmp_path: Path) -> None:
    with pytest.RaisesGroup(UserError, flatten_subgroups=True):
        async with serving(tmp_path) as served:
            stream = await served.watch()
            raise UserError("the data does not fit")
    assert await stream.receive_some(1) == b""
    await stream.aclose()


# --- clients and what is no node of this version ---


def test_a_process_that_hangs_is_not_waited_for_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / SOCKET))
        hanging.listen()
        with pytest.raises(UserError, match="does not answer"):
            ask(tmp_path, "status", seconds=0.05)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", "ended before it answered"),
        (b'{"ok": tr', "is no node of this version"),
        (b"[]\n", "is no node of this version"),
        (b'{"ok": true}\n{"time": 1.0, "event": "Danced"}\n', "of another version"),
    ],
)
async def test_a_strange_reply_is_a_line(reply: bytes, error: str, tmp_path: Path) -> None:
    async def strange(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(reply)
        await stream.aclose()

    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(tmp_path / SOCKET))
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, strange, [trio.SocketListener(listening)])
        with pytest.raises(UserError, match=error):
            await blocking(lambda: list(watch(tmp_path)))
        nursery.cancel_scope.cancel()


def test_the_longest_plain_name_fits_a_sockets_address(tmp_path: Path) -> None:
    folder = Path("/" + "x" * (control.LONGEST_NAME - len(SOCKET) - 2))
    with control.socket_name(folder) as name, socket.socket(socket.AF_UNIX) as one:
        assert len(name) == control.LONGEST_NAME
        assert one.connect_ex(name) != 0  # an answer of the system's, not "too long"
