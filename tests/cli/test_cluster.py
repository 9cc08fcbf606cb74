"""`p2pnode cluster`: a whole swarm from the shell."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.cli.main import main
from tests.cli.run import Program

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
