"""Steering a node that runs in a process of its own, by the commands that a person types."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnode.events import Checkpointed, ExchangeCompleted, Paused, PeerLost, RoundFinished, Stopped
from p2pnode.observe.stream import from_json
from p2pnode.storage.directory import default_data_dir
from tests.cli.run import LOOPBACK, Program

Start = Callable[..., Program]

pytestmark = pytest.mark.slow


def said(start: Start, *words: object) -> str:
    """What a command that succeeds prints."""
    program = start(*words)
    assert program.code() == 0, program.errors
    return program.output


def asked(start: Start, *words: object) -> dict[str, Any]:
    """The object that a command prints last."""
    content: dict[str, Any] = json.loads(said(start, *words, "--json").splitlines()[-1])
    return content


def complaint(start: Start, *words: object) -> str:
    program = start(*words)
    assert program.code() == 2
    assert not program.output
    return program.errors


def pair(start: Start, tmp_path: Path) -> tuple[Path, Program, Program]:
    """A swarm that ends when it is told to, and two nodes that have averaged."""
    swarm = tmp_path / "s.toml"
    said(start, "swarm", "create", swarm, "--rounds", 1_000_000, "--steps", 200)
    own = ("--listen", LOOPBACK, "--no-mdns", "--data-dir", "data")
    first = start("join", swarm, *own, "--shard", "1/2", name="first")
    second = start("join", swarm, *own, "--shard", "2/2", "--peer", first.address, name="second")
    for node in (first, second):
        node.wait_for(lambda node=node: node.events(ExchangeCompleted))  # type: ignore[misc]
    return swarm, first, second


def test_a_running_node_is_asked_paused_saved_and_stopped(start: Start, tmp_path: Path) -> None:
    _, first, second = pair(start, tmp_path)
    here = ("--data-dir", first.data)
    ids = [node.wait_ready().peer for node in (first, second)]

    status = asked(start, "status", *here)
    assert (status["peer"], status["pid"], status["stage"]) == (ids[0], first.popen.pid, "training")
    assert status["round"] > 0 and status["peers"] == 1 and status["exchanges"]["completed"] > 0
    assert status["metrics"]["test_accuracy"] > 0.1
    assert ids[0] in said(start, "status", *here)

    (member,) = asked(start, "peers", *here)["peers"]
    assert (member["peer"], member["stage"], member["faults"]) == (ids[1], "training", 0)
    assert ids[1] in said(start, "peers", *here)

    asked(start, "pause", *here)
    paused = asked(start, "status", *here)
    assert paused["paused"] and first.events(Paused)
    since = second.events(RoundFinished)[-1][1].round
    second.wait_for(lambda: second.events(RoundFinished)[-1][1].round > since + 20)
    again = asked(start, "status", *here)
    assert again["round"] <= paused["round"] + 1 and again["peers"] == 1
    assert not second.events(PeerLost)
    saved = asked(start, "checkpoint", *here)
    assert saved["round"] == again["round"]
    assert Path(first.data, saved["path"]).name == Path(first.events(Checkpointed)[-1][1].path).name

    watching = start("watch", *here, "--json")
    glancing = start("watch", *here)
    asked(start, "resume", *here)
    watching.wait_for(lambda: watching.output.count("\n") > 5)
    glancing.wait_for(lambda: glancing.output)
    glancing.send(signal.SIGINT)
    assert glancing.code() == 0 and not glancing.errors
    assert "1 node  round" in glancing.output

    stopped = asked(start, "stop", *here)
    assert stopped["pid"] == first.popen.pid
    assert first.popen.poll() == 0, first.errors
    assert watching.code() == 0, watching.errors
    seen = [from_json(json.loads(line)).event for line in watching.output.splitlines()]
    assert seen[-1] == first.events(Stopped)[0][1]
    assert first.events(Stopped)[0][1].reason == "command"
    assert not (first.data / "control.sock").exists()
    second.wait_for(lambda: second.events(PeerLost))
    assert second.events(PeerLost)[0][1].reason == "goodbye"

    assert "no node runs in" in complaint(start, "status", *here)
    second.send(signal.SIGKILL)
    second.code()
    assert (second.data / "control.sock").is_socket()
    assert "no node runs in" in complaint(start, "stop", "--data-dir", second.data)


def test_a_node_is_found_by_its_swarm_or_by_being_the_only_one(start: Start, tmp_path: Path) -> None:
    swarm = tmp_path / "s.toml"
    said(start, "swarm", "create", swarm, "--rounds", 1_000_000)
    link = said(start, "swarm", "link", swarm).strip()
    assert "no node runs in" in complaint(start, "status")
    entry = start("bootstrap", "--listen", LOOPBACK)
    entry.wait_for(lambda: entry.output.endswith("\n"))
    entry.wait_for(lambda: any(tmp_path.rglob("control.sock")))
    assert asked(start, "status")["stage"] == "bootstrap"
    assert "this node knows status, stop" in complaint(start, "pause")

    node = start("join", swarm, "--listen", LOOPBACK, "--no-mdns", "--shard", "1/2", "--wait", 1000)
    node.wait_for(lambda: len(list(tmp_path.rglob("control.sock"))) == 2)
    assert "several nodes run, say which by --data-dir: " in complaint(start, "status")
    status = asked(start, "status", swarm)
    for words in (link, status["swarm"], status["swarm"][:12]):
        assert asked(start, "status", words)["peer"] == status["peer"]
    assert Path(status["data_dir"]).name == default_data_dir(status["swarm"][:12]).name
    assert "not by both" in complaint(start, "status", swarm, "--data-dir", status["data_dir"])
    assert "cannot read" in complaint(start, "status", "none.toml")

    said(start, "stop", swarm)
    assert node.popen.poll() == 0
    said(start, "stop")
    assert entry.popen.poll() == 0


def test_a_node_in_a_deep_folder_is_asked_like_any_other(start: Start, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    entry = start("bootstrap", "--listen", LOOPBACK, "--data-dir", deep)
    entry.wait_for((deep / "control.sock").exists)
    assert asked(start, "status", "--data-dir", deep)["pid"] == entry.popen.pid
    said(start, "stop", "--data-dir", deep)
    assert entry.popen.poll() == 0
