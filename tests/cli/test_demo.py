"""`p2pnode demo`: what it reports, and that it leaves nothing behind."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.run import Program
from tests.learning.tasks_in_files import write

Start = Callable[..., Program]

pytestmark = pytest.mark.slow


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, the oldest first."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return sorted(found)


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def started(start: Start, temporary: Path, *words: object) -> tuple[Program, list[int]]:
    """A demo of three nodes in the middle of its rounds, and their processes."""
    temporary.mkdir()
    demo = start("demo", "--nodes", 3, *words)
    logs = "p2pnode-*/node-*/events.jsonl"
    demo.wait_for(
        lambda: len([log for log in temporary.glob(logs) if log.read_text().count("RoundFinished") > 3]) == 3
    )
    [server] = children(demo.popen.pid)
    found = children(server)
    assert len(found) == 3
    return demo, found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo keeps its nodes' files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_the_last_line_of_stdout_is_the_report(start: Start) -> None:
    demo = start("demo", "--json", "--nodes", 2, "--rounds", 5)
    assert demo.code() == 0, demo.errors
    assert "Traceback" not in demo.errors
    report = json.loads(demo.output.splitlines()[-1])
    assert report["nodes"] == 2
    assert report["task"] == "digits"
    assert report["seed"] == 0
    assert report["rounds"] == [5, 5]
    assert report["seconds"].keys() >= {"ready", "target", "total"}
    assert 0 < report["seconds"]["ready"] <= report["seconds"]["total"]
    assert report["cpu_seconds"] > 0
    accuracy = report["accuracy"]
    assert accuracy.keys() >= {"mean", "min", "settled_min", "alone_mean", "pooled"}
    assert accuracy["settled_min"] > accuracy["alone_mean"]
    assert report["bytes_sent"] > 0
    assert report["exchanges"].keys() >= {"completed", "declined", "aborted", "unsettled"}
    assert report["exchanges"]["completed"] > 0


def test_the_demo_shows_a_task_of_ones_own_too(start: Start, tmp_path: Path) -> None:
    guess = "jnp.argmax(scores(params, batch.x), axis=1)"
    loss, accuracy = '"loss": entropy(params, batch)', f'"accuracy": jnp.mean({guess} == batch.y)'
    task = write(tmp_path, loss, f"{loss}, {accuracy}")
    demo = start("demo", "--json", "--nodes", 2, "--rounds", 5, "--task", task, "--yes")
    assert demo.code() == 0, demo.errors
    report = json.loads(demo.output.splitlines()[-1])
    assert report["task"] == "lines"
    assert report["rounds"] == [5, 5]
    assert 0 < report["accuracy"]["pooled"] <= 1


def test_a_task_of_ones_own_without_accuracy_is_not_for_the_demo(start: Start, tmp_path: Path) -> None:
    demo = start("demo", "--task", write(tmp_path), "--yes")
    assert demo.code() == 2
    assert demo.errors.endswith("the demo compares accuracies: let metrics return an `accuracy` too\n")


def test_an_interrupted_demo_leaves_nothing_behind(start: Start, temporary: Path) -> None:
    demo, nodes = started(start, temporary, "--rounds", 100_000)
    demo.send(signal.SIGINT)
    assert demo.code() == 128 + signal.SIGINT
    assert not any(map(running, nodes))
    assert not list(temporary.iterdir())
    assert "Traceback" not in demo.errors


def test_a_terminated_demo_leaves_nothing_behind_even_when_a_node_is_frozen(
    start: Start, temporary: Path
) -> None:
    demo, nodes = started(start, temporary, "--rounds", 100_000)
    os.kill(nodes[1], signal.SIGSTOP)
    demo.send(signal.SIGTERM)
    assert demo.code() == 128 + signal.SIGTERM
    assert not any(map(running, nodes))
    assert not list(temporary.iterdir())


def test_the_other_nodes_of_a_demo_go_on_when_one_is_killed(start: Start, temporary: Path) -> None:
    demo, nodes = started(start, temporary, "--rounds", 200)
    os.kill(nodes[1], signal.SIGKILL)
    assert demo.code() == 1
    assert demo.errors.splitlines()[-1] == "p2pnode: node 2 failed"
    assert "Traceback" not in demo.errors
    assert not any(map(running, nodes))
    assert not list(temporary.iterdir())
