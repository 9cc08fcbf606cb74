"""Nodes with networks of their own: cables pulled and plugged in again, under whole processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2pnode.cli.demo import make_manifest
from p2pnode.cluster import LocalCluster, LocalNode, SyncNode
from p2pnode.cluster.wiring import cut
from p2pnode.config import Config, Start
from p2pnode.errors import UserError
from p2pnode.events import Event, ExchangeCompleted, PeerAlive, PeerLost, Settled
from p2pnode.identity.manifest import Manifest, TaskSpec
from p2pnode.ports import PeerId

ROOT = Path(__file__).parents[1]
PATIENCE = 90.0
"""Seconds for anything that must come: nodes that have lost each other may look again after 60 s only."""

ENDLESS = 1_000_000

QUICK = Config(start=Start(peers=3), hello=1.0)
"""Notices soon who has fallen silent."""

SWITCH = """
import socket, sys
from p2pnode.errors import UserError
from p2pnode.switch import Switch
try:
    switch = Switch({"a": "10.0.0.1", "b": "10.0.0.2"})
except UserError as error:
    sys.exit(str(error))
"""
"""The beginning of a program; a socket stays in the network in which it was made."""


@pytest.fixture(scope="session")
def _separate() -> None:
    """Skips, with the reason, where the system allows no networks to nodes."""
    done = run(SWITCH)
    if done.returncode == 1 and "Traceback" not in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


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


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def manifest(rounds: int = ENDLESS) -> Manifest:
    made = make_manifest("digits", 0, rounds)
    return replace(made, task=TaskSpec("digits", {"hidden": 8}))


def view(node: LocalNode | SyncNode) -> set[PeerId]:
    """Whom `node` holds to be alive, if it was never restarted."""
    peers = set[PeerId]()
    for stamped in node.events():
        match stamped.event:
            case PeerAlive(peer=peer):
                peers.add(peer)
            case PeerLost(peer=peer):
                peers.discard(peer)
    return peers


def partners(node: LocalNode, since: int) -> set[PeerId]:
    """With whom `node` has averaged after its first `since` events."""
    events: list[Event] = [stamped.event for stamped in node.events()[since:]]
    return {event.peer for event in events if isinstance(event, ExchangeCompleted)}


def nothing_left(nodes: Sequence[LocalNode], temporary: Path) -> bool:
    return not any(Path(f"/proc/{node.pid}").exists() for node in nodes) and not list(temporary.iterdir())


def among_themselves(nodes: Sequence[LocalNode | SyncNode]) -> bool:
    """Whether each of `nodes` sees the others, and nobody else."""
    peers = {node.peer for node in nodes}
    return all(view(node) == peers - {node.peer} for node in nodes)


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():  # noqa: ASYNC110 - of what no event tells
            await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("groups", "parts"),
    [
        ([], [[0, 1, 2, 3]]),
        ([[2]], [[2], [0, 1, 3]]),
        ([[3, 0], range(1, 3)], [[3, 0], [1, 2]]),
        ([range(4)], [[0, 1, 2, 3]]),
    ],
)
def test_nodes_in_no_group_are_one_more(groups: list[list[int]], parts: list[list[int]]) -> None:
    assert cut(groups, 4) == parts


@pytest.mark.parametrize(
    ("separate", "groups", "words"),
    [
        (True, [[0], [4]], "^there is no node with index 4: they go from 0 to 3$"),
        (True, [[-1]], "^there is no node with index -1"),
        (True, [[0, 1], [1, 2]], "^index 1 is named twice: a node is in one group only$"),
        (False, [[0, 1], [2, 3]], "^all nodes share one network: make the cluster with separate=True"),
    ],
)
async def test_groups_that_cannot_be_are_one_clear_line(
    separate: bool, groups: list[list[int]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        await LocalCluster(manifest(), nodes=4, separate=separate).partition(*groups)


async def test_nodes_that_share_a_network_are_not_throttled() -> None:
    with pytest.raises(UserError, match=r"^nodes share one network: make the cluster with separate=True"):
        await LocalCluster(manifest(), nodes=2).throttle(0, 1_000_000)


@pytest.mark.slow
@pytest.mark.usefixtures("_separate")
def test_what_is_sent_while_cables_are_pulled_is_lost_without_a_word_and_sent_again() -> None:
    program = """
with switch.within("a"):
    listener = socket.create_server(("10.0.0.1", 4001))
with switch.within("b"):
    talker = socket.create_connection(("10.0.0.1", 4001), timeout=10)
    stranger = socket.socket()
hearer, _ = listener.accept()
switch.connect([["a"], ["b"]])
talker.sendall(b"!")
for silent in (lambda: hearer.recv(1), lambda: stranger.connect(("10.0.0.1", 4001))):
    hearer.settimeout(0.5), stranger.settimeout(0.5)
    try:
        silent()
    except TimeoutError:
        print("silence")
switch.connect([["a", "b"]])
hearer.settimeout(10)
print(hearer.recv(1))
"""
    done = run(SWITCH + program)
    assert done.stdout.split() == ["silence", "silence", "b'!'"], done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_separate")
def test_a_system_that_allows_no_networks_is_one_clear_line_and_leaves_nothing(temporary: Path) -> None:
    done = run("""
import os
from pathlib import Path
from p2pnode.switch import NEWUSER, call
user = os.geteuid()
call("unshare", NEWUSER)  # while there is one thread
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/sys/user/max_net_namespaces").write_text("0")  # in there
from p2pnode.cli.demo import make_manifest
from p2pnode.cluster import LocalCluster
from p2pnode.errors import UserError
try:
    with LocalCluster(make_manifest("digits", 0, 1), nodes=2, separate=True).sync(live=False):
        print("open")
except UserError as error:
    print(error)
""")
    [line] = done.stdout.splitlines()
    assert line.startswith("nodes may not have networks of their own here ("), done.stderr
    assert not list(temporary.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("_separate")
async def test_each_side_of_a_cut_goes_on_and_a_restarted_node_stays_on_its_side(temporary: Path) -> None:
    interfaces = socket.if_nameindex()
    async with LocalCluster(manifest(), nodes=4, config=QUICK, separate=True) as cluster:
        nodes = list(cluster)
        await cluster.wait_for(round=2, timeout=PATIENCE)
        await cluster.partition([0, 1], [2, 3])
        sides = [nodes[:2], nodes[2:]]
        await until(lambda: all(map(among_themselves, sides)))
        for node, other in ((nodes[0], nodes[1]), (nodes[3], nodes[2])):
            seen = len(node.events())
            await node.wait_for(round=node.tally.round + 3, timeout=PATIENCE)
            await until(lambda: partners(node, seen))  # noqa: B023 - awaited at once
            assert partners(node, seen) == {other.peer}

        peer, addresses = nodes[3].peer, nodes[3].addresses
        await nodes[3].kill()
        await nodes[3].restart()
        assert (nodes[3].peer, nodes[3].addresses) == (peer, addresses)
        await nodes[3].wait_for(round=1, timeout=PATIENCE)
        await nodes[3].wait_for(event=PeerAlive, timeout=PATIENCE)
        assert {one.event.peer for one in nodes[3].recent() if isinstance(one.event, PeerAlive)} == {
            nodes[2].peer
        }
        assert socket.if_nameindex() == interfaces
    assert [node.exit_code for node in nodes] == [0, 0, 0, 0]
    assert nothing_left(nodes, temporary)
    assert socket.if_nameindex() == interfaces


@pytest.mark.slow
@pytest.mark.usefixtures("_separate")
@pytest.mark.fault("cut of real networks, heal")
def test_a_swarm_that_was_cut_meets_again_and_settles_as_one() -> None:
    with LocalCluster(manifest(100), nodes=4, config=QUICK, separate=True).sync(live=False) as cluster:
        nodes = list(cluster)
        for node in nodes:
            node.pause()  # so that the rounds last until they meet again
        trio.run(until, lambda: among_themselves(nodes))
        cluster.partition([1, 3])  # and the others
        trio.run(until, lambda: among_themselves(nodes[1::2]) and among_themselves(nodes[0::2]))
        cluster.heal()
        trio.run(until, lambda: among_themselves(nodes))
        for node in nodes:
            node.resume()
        assert set(cluster.wait_end().values()) == {0}
    settled = [stamped.event for _, stamped in cluster.events(Settled)]
    assert [event.counted for event in settled if isinstance(event, Settled)] == [4] * 4
