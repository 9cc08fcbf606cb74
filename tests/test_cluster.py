"""Clusters on this machine: whole processes, steered and watched, and nothing left of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
import trio

from p2pnode.cli.demo import make_manifest
from p2pnode.cluster import LocalCluster, LocalNode, NodeEnded
from p2pnode.config import Config, Start
from p2pnode.errors import UserError
from p2pnode.events import NodeReady, Paused, Restored, Resumed, RoundFinished, Settled
from p2pnode.identity.manifest import Manifest, TaskSpec, write_manifest
from p2pnode.learning import registry
from p2pnode.learning.data import holdout, take
from p2pnode.world import Rows

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
"""Seconds for anything that must come: many times what it takes on two cores that are busy."""

ENDLESS = 1_000_000


@pytest.fixture(autouse=True)
def temporary(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where clusters make their folders. Compiled programs are kept for all tests."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    return folder


def manifest(rounds: int = ENDLESS) -> Manifest:
    made = make_manifest("digits", 0, rounds)
    return replace(made, task=TaskSpec("digits", {"hidden": 8}))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def entries(folder: Path | str) -> int:
    return len(list(Path(folder).iterdir()))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def listens(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.split("/")[4]))) == 0


def check_nothing_left(nodes: list[LocalNode], addresses: list[str], temporary: Path) -> None:
    assert len(addresses) == len(nodes)
    assert not any(map(listens, addresses))
    assert not any(alive(node.pid) for node in nodes if node.pid is not None)
    assert not list(temporary.iterdir())


async def test_a_killed_node_is_noticed_and_is_the_same_peer_after_a_restart(temporary: Path) -> None:
    descriptors = entries("/proc/self/fd")
    async with LocalCluster(manifest(), nodes=3) as cluster:
        await cluster.wait_for(round=2, timeout=PATIENCE)
        peers = [node.peer for node in cluster]
        assert len(set(peers)) == 3
        await cluster[1].kill()
        assert cluster.running == [cluster[0], cluster[2]]
        assert cluster[1].exit_code == -signal.SIGKILL
        with pytest.raises(NodeEnded, match=r"^node 2 was killed \(SIGKILL\); it was in round \d+, not at"):
            await cluster.wait_for(round=ENDLESS)
        await cluster.wait_for(round=cluster[0].tally.round + 2, nodes=cluster.running, timeout=PATIENCE)
        await cluster[1].restart()
        await cluster[1].wait_for(round=1, timeout=PATIENCE)
        assert [node.peer for node in cluster] == peers
        assert len(cluster[1].events(NodeReady)) == 2
        assert {row["node"] for row in cluster.records()} == {"node 1", "node 2", "node 3"}
        nodes, addresses = list(cluster), [node.addresses[0] for node in cluster]
    assert [node.exit_code for node in nodes] == [0, 0, 0]  # in good order
    check_nothing_left(nodes, addresses, temporary)
    assert entries("/proc/self/fd") == descriptors


async def test_an_exception_in_the_block_leaves_as_it_came_and_nothing_behind(temporary: Path) -> None:
    cluster, addresses = LocalCluster(manifest(), nodes=2), list[str]()

    async def fail() -> None:
        async with cluster:
            addresses.extend(node.addresses[0] for node in cluster)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    check_nothing_left(list(cluster), addresses, temporary)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nodes": 0}, "0 nodes: at least one"),
        ({"nodes": 3, "data": [Path("a.npz")]}, "data for 1 nodes, not 3"),
        ({"data": [Path("a.npz")], "uneven": 0.3}, "uneven deals out the task's own data"),
        ({"nodes": 3, "config": [Config()]}, "1 configs for 3 nodes"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_starts(
    given: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        LocalCluster(manifest(), **given)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_node_that_cannot_have_its_data_says_so_at_the_start(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(NodeEnded, match=r"node 2 gave up: cannot read .*none\.npz: No such file"):
        async with LocalCluster(manifest(), data=[rows(0), tmp_path / "none.npz"]):
            pass
    assert not entries(temporary)


def rows(index: int) -> Rows:
    pool, test = registry.TASKS["digits"].build(hidden=8).load()
    train, own = holdout(take(pool, np.arange(index, len(pool.y), 4)), 0.1, 0)
    return Rows(train, {"holdout": own, "test": test})


@pytest.mark.slow
async def test_a_clock_is_wrong_from_the_next_start_on_and_a_frozen_node_ends_in_good_order() -> None:
    async with LocalCluster(manifest(), nodes=2) as cluster:
        nodes = list(cluster)
        nodes[1].skew = -300.0
        await nodes[1].restart()
        first, second = nodes[1].events(NodeReady)
        assert second.time < first.time
        await nodes[1].wait_for(event=RoundFinished, timeout=PATIENCE)
        await nodes[1].freeze()
    assert [node.exit_code for node in nodes] == [0, 0]


@pytest.mark.slow
async def test_nodes_learn_from_rows_and_files_of_their_own(tmp_path: Path) -> None:
    for index in (1, 2):
        np.savez(tmp_path / f"{index}.npz", x=rows(index).train.x, y=rows(index).train.y)
    async with LocalCluster(manifest(30), data=[rows(0), tmp_path / "1.npz", tmp_path / "2.npz"]) as cluster:
        await cluster.wait_for(event=Settled, timeout=PATIENCE)
        assert await cluster.wait_end() == {"node 1": 0, "node 2": 0, "node 3": 0}
    assert min(node.accuracy for node in cluster) > 0.8
    assert [len(node.events(RoundFinished)) for node in cluster] == [30, 30, 30]
    last = cluster.records()[-1]
    assert last["round"] == last["rounds"] == 30
    assert last["test_accuracy"] > 0.5


@pytest.mark.slow
async def test_a_paused_node_rests_until_it_is_resumed() -> None:
    async with LocalCluster(manifest(), nodes=2) as cluster:
        await cluster.wait_for(round=2, timeout=PATIENCE)
        await cluster[1].pause()
        await cluster[1].wait_for(event=Paused, timeout=PATIENCE)
        await cluster[0].wait_for(round=cluster[1].tally.round + 10, timeout=PATIENCE)
        [paused] = cluster[1].events(Paused)
        await cluster[1].resume()
        await cluster[1].wait_for(event=Resumed, timeout=PATIENCE)
        [resumed] = cluster[1].events(Resumed)
        rounds = [one for one in cluster[1].events(RoundFinished) if paused.time < one.time < resumed.time]
        assert len(rounds) <= 1  # the one under way
        await cluster[1].wait_for(round=cluster[1].tally.round + 2, timeout=PATIENCE)


@pytest.mark.slow
async def test_a_kept_folder_is_gone_on_from_and_a_timeout_names_who_is_late(tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    async def run() -> LocalCluster:
        async with LocalCluster(manifest(), nodes=2, folder=folder) as cluster:
            await cluster.wait_for(round=cluster[0].tally.round + 3, timeout=PATIENCE)
            late = r"after 0.1 s: node 1 \(round \d+\), node 2 \(round \d+\)$"
            with pytest.raises(TimeoutError, match=late):
                await cluster.wait_for(round=ENDLESS, timeout=0.1)
            for waits in (cluster.wait_for, cluster[0].wait_for):
                with pytest.raises(
                    UserError, match=r"^no node comes to round 1000001: the manifest ends with"
                ):
                    await waits(round=ENDLESS + 1)
        return cluster

    assert not any(node.events(Restored) for node in await run())
    assert all(node.events(Restored) for node in await run())
    assert sorted(path.name for path in folder.iterdir()) == ["node-1", "node-2"]


@pytest.mark.slow
async def test_nodes_do_not_outlive_the_process_that_starts_them(temporary: Path) -> None:
    cluster, addresses = LocalCluster(manifest(), nodes=2), list[str]()
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="has died"), flatten_subgroups=True):
        async with cluster:
            addresses.extend(node.addresses[0] for node in cluster)
            os.kill(parent(cluster[0].pid or 0), signal.SIGKILL)
            await trio.sleep(PATIENCE)
    assert [node.exit_code for node in cluster] == [-signal.SIGKILL] * 2
    await gone(lambda: any(alive(node.pid or 0) for node in cluster))
    check_nothing_left(list(cluster), addresses, temporary)


async def gone(what: Callable[[], object]) -> None:
    """Wait until there is none of it any more."""
    with trio.fail_after(PATIENCE):
        while what():  # noqa: ASYNC110 - the kernel sets no event
            await trio.sleep(0.05)


@pytest.mark.slow
def test_nothing_outlives_a_script_that_is_killed(tmp_path: Path, temporary: Path) -> None:
    write_manifest(tmp_path / "digits.toml", manifest())
    program = """
import sys
from p2pnode.cluster import LocalCluster
with LocalCluster(sys.argv[1], nodes=2).sync(live=False) as cluster:
    print(*[node.pid for node in cluster], flush=True)
    cluster.wait_end()
"""
    script = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "digits.toml")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    with script:
        assert script.stdout is not None
        pids = [int(word) for word in script.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        assert entries(temporary) == 1
        script.kill()
    trio.run(gone, lambda: any(map(alive, pids)) or entries(temporary))


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What came of a script that finds `digits.toml`."""
    write_manifest(folder / "digits.toml", manifest(400))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def in_the_docs(beginning: str) -> str:
    """The example of docs/CLUSTERS.md that begins so."""
    page = (ROOT / "docs" / "CLUSTERS.md").read_text()
    return beginning + page.partition(f"```python\n{beginning}")[2].partition("```")[0]


@pytest.mark.slow
def test_the_script_in_the_docs_runs(tmp_path: Path, temporary: Path) -> None:
    done = run_script(in_the_docs("from p2pnode.cluster import LocalCluster, NodeEnded\n"), tmp_path)
    first, ended, *rows = done.stdout.splitlines()
    assert first.startswith("node 4 was killed (SIGKILL)")
    assert first.endswith("not at round 30")
    assert ended == str({f"node {index}": 0 for index in range(1, 5)})
    assert len(rows) == 4
    assert "400/400" in done.stderr  # live progress
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_the_script_for_trio_in_the_docs_runs(tmp_path: Path, temporary: Path) -> None:
    block = in_the_docs('async with LocalCluster("digits.toml", nodes=8) as cluster:\n')
    body = indent(f"{block}    print(cluster[3].tally.round, len(cluster.running))\n", "    ")
    imports = "import trio\nfrom p2pnode.cluster import LocalCluster\n"
    program = f"{imports}async def main():\n{body}trio.run(main)"
    round, running = map(int, run_script(program, tmp_path).stdout.split())
    assert round < 400
    assert running == 8
    assert not list(temporary.iterdir())


@pytest.mark.slow
async def test_sixteen_nodes_meet_learn_and_settle() -> None:
    async with LocalCluster(make_manifest("digits", 0, 20), nodes=16) as cluster:
        codes = await cluster.wait_end()
    assert codes == {f"node {index}": 0 for index in range(1, 17)}
    assert min(node.accuracy for node in cluster) > 0.9


SOAK = {"P2PNODE_SOAK_NODES": "4", "P2PNODE_SOAK_SECONDS": "15"}
ACTIONS = ("kill", "stop", "restart", "pause", "resume")


@pytest.mark.slow
async def test_what_is_known_is_right_after_random_kills_pauses_and_restarts(temporary: Path) -> None:
    """With `-s` it says how many. Longer than two minutes it needs `-o faulthandler_timeout=…` too."""
    nodes, seconds = (int(os.environ.get(name, usual)) for name, usual in SOAK.items())
    random, began, done = np.random.default_rng(0), time.monotonic(), Counter[str]()
    descriptors = entries("/proc/self/fd")
    async with LocalCluster(manifest(), nodes=nodes, config=Config(start=Start(1, 5.0))) as cluster:
        while time.monotonic() - began < seconds:
            node, action = cluster[int(random.integers(nodes))], str(random.choice(ACTIONS))
            if node.running or action == "restart":
                await getattr(node, action)()
                done[action] += 1
            assert [one.running for one in cluster] == [alive(one.pid or 0) for one in cluster]
        for node in cluster:
            await node.restart()
        await cluster.wait_for(round=1, timeout=PATIENCE)
        assert all(node.tally.peer == node.peer for node in cluster)
        assert len(processes(temporary)) == nodes + 1  # one starts the others
        addresses = [node.addresses[0] for node in cluster]
    check_nothing_left(list(cluster), addresses, temporary)
    left = processes(temporary), unix_sockets(temporary), entries("/proc/self/fd") - descriptors
    starts = len(cluster.events(NodeReady))
    print(f"\n{nodes} nodes, {seconds} s: {dict(done)}, {starts} starts, left: {left}")  # noqa: T201
    assert left == ([], [], 0)


def processes(temporary: Path) -> list[int]:
    """Those that were started with this folder for temporary files, whoever their parent is now."""

    def environment(process: Path) -> bytes:
        with suppress(OSError):  # it has ended, or is not ours
            return (process / "environ").read_bytes()
        return b""

    setting = f"TMPDIR={temporary}".encode()
    all_there = (path for path in Path("/proc").iterdir() if path.name.isdigit())
    return [int(path.name) for path in all_there if setting in environment(path).split(b"\0")]


def unix_sockets(temporary: Path) -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if str(temporary) in line]
