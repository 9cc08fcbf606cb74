"""`p2pnode cluster`: a whole swarm from the shell; swarms with a task in a file, from a script too."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.cli.main import main
from p2pnode.cli.manifest import make_manifest
from p2pnode.cluster import LocalCluster
from p2pnode.errors import UserError
from p2pnode.events import Settled
from p2pnode.identity.manifest import Manifest
from p2pnode.learning import own
from tests.cli.run import PATIENCE, Program
from tests.learning.tasks_in_files import write

Start = Callable[..., Program]


@pytest.mark.slow
def test_the_last_line_of_stdout_is_the_report(start: Start, tmp_path: Path) -> None:
    assert start("swarm", "create", tmp_path / "s.toml", "--rounds", 10).code() == 0
    words = ("--nodes", 3, "--uneven", 0.3, "--folder", tmp_path / "kept", "--json")
    cluster = start("cluster", tmp_path / "s.toml", *words)
    assert cluster.code() == 0, cluster.errors
    report = json.loads(cluster.output.splitlines()[-1])
    assert report["nodes"] == 3
    assert report["rounds"] == [10, 10, 10]
    assert report["exchanges"]["completed"] > 0
    assert 0 < report["seconds"]["ready"] <= report["seconds"]["total"]
    assert "3 nodes  round 10/10" in cluster.errors
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["node-1", "node-2", "node-3"]


@pytest.mark.slow
def test_an_interrupted_cluster_ends_its_nodes_in_good_order(start: Start, tmp_path: Path) -> None:
    assert start("swarm", "create", tmp_path / "s.toml", "--rounds", 100_000).code() == 0
    cluster = start("cluster", tmp_path / "s.toml", "-n", 2, "--folder", tmp_path / "kept")
    logs = [tmp_path / "kept" / f"node-{index}" / "events.jsonl" for index in (1, 2)]
    cluster.wait_for(lambda: all(log.exists() and "RoundFinished" in log.read_text() for log in logs))
    cluster.send(signal.SIGINT)
    assert cluster.code() == 128 + signal.SIGINT
    assert "Traceback" not in cluster.errors
    assert all('"event":"Stopped","reason":"signal"' in log.read_text() for log in logs)


@pytest.mark.slow
def test_what_the_nodes_cannot_do_is_one_line(start: Start, tmp_path: Path) -> None:
    create = start("swarm", "create", tmp_path / "s.toml", "--task", "breast-cancer")
    assert create.code() == 0
    cluster = start("cluster", tmp_path / "s.toml", "-n", 24)
    assert cluster.code() == 2
    assert "Traceback" not in cluster.errors
    last = cluster.errors.splitlines()[-1]
    assert last.startswith("p2pnode: node ")
    assert "cannot give 24 nodes 20 each: ask for fewer nodes" in last


@pytest.mark.slow
def test_the_nodes_of_a_cluster_run_the_file_that_a_person_agreed_to(start: Start, tmp_path: Path) -> None:
    file = write(tmp_path)
    assert start("swarm", "create", tmp_path / "s.toml", "--task", file, "--rounds", 5).code() == 0
    words = ("cluster", tmp_path / "s.toml", "-n", 2)
    alone = start(*words, name="alone")
    assert alone.code() == 2
    assert "this swarm's task is in a file mymodel.py (sha256 " in alone.errors.splitlines()[-1]
    unasked = start(*words, "--task", file, name="unasked")
    assert unasked.code() == 2
    assert unasked.errors.endswith("look into it, then add --yes\n")
    cluster = start(*words, "--task", file, "--yes", "--json", name="agreed")
    assert cluster.code() == 0, cluster.errors
    assert json.loads(cluster.output)["rounds"] == [5, 5]
    assert len((tmp_path / "p2pnode" / "accepted").read_text().split()) == 1


def of_file(file: str, rounds: int = 5) -> tuple[own.Own, Manifest]:
    """What is in a task's file, and a swarm for it."""
    loaded = own.run(own.read(file))
    return loaded, make_manifest("ours", loaded, {"rounds": rounds, "seed": 0})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_script_names_the_file_that_its_nodes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("p2pnode.forkserver.method", lambda _environment: method)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded, manifest = of_file(write(tmp_path))
    task: own.Own | str = loaded if method == "spawn" else str(loaded.source.path)
    with LocalCluster(manifest, 2, task=task).sync(live=False) as cluster:
        cluster.wait_for(event=Settled, timeout=PATIENCE)
        assert cluster.wait_end() == {"node 1": 0, "node 2": 0}
    assert {row["round"] for row in cluster.records()} == {1, 2, 3, 4, 5}


def test_another_file_is_refused_before_any_node_starts(tmp_path: Path) -> None:
    file = write(tmp_path)
    _, manifest = of_file(file)
    write(tmp_path, "lines", "others")
    with pytest.raises(UserError, match=", the file of this swarm's task "):
        LocalCluster(manifest, 2, task=file)


def test_a_manifest_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("sys.argv", ["p2pnode", "cluster", str(tmp_path / "none.toml")])
    with pytest.raises(SystemExit) as exited:
        main()
    signal.signal(signal.SIGINT, interrupt)
    assert exited.value.code == 2
    assert "none.toml: No such file" in capsys.readouterr().err
