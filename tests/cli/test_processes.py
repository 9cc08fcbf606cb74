"""A swarm of processes needs no server, outlives any of them, and takes in newcomers."""

import shutil
import signal
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from p2pnode.events import (
    CaughtUp,
    Checkpointed,
    ExchangeCompleted,
    NodeReady,
    PeerAlive,
    PeerLost,
    Restored,
    RoundFinished,
    Stopped,
)
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.ports import PeerId
from tests.cli.run import LOOPBACK, Program

Start = Callable[..., Program]

pytestmark = pytest.mark.slow

EXCHANGES = 5
"""That each node makes before something counts as going on."""


def create(start: Start, tmp_path: Path) -> Path:
    """A swarm that ends when it is told to, with rounds long enough to watch."""
    file = tmp_path / "s.toml"
    assert start("swarm", "create", file, "--rounds", 1_000_000, "--steps", 1000, "--seed", 1).code() == 0
    return file


def join(start: Start, swarm: object, number: int, *words: object, name: str = "") -> Program:
    """Start member `number`; it knows nobody but whom `words` tell it of."""
    own = ("--data-dir", "data", "--listen", LOOPBACK, "--no-mdns", "--shard", f"{number}/5")
    return start("join", swarm, *own, *words, name=name or f"node-{number}")


def bootstrap(start: Start) -> tuple[Program, str]:
    """A bootstrap node and its address."""
    program = start("bootstrap", "--listen", LOOPBACK, "--data-dir", "data", name="bootstrap")
    program.wait_for(lambda: program.output.endswith("\n"))
    return program, program.output.splitlines()[0]


def go_on(nodes: Iterable[Program], since: float) -> None:
    """Wait until each node has made some exchanges since a moment, with several peers if there are."""
    nodes = list(nodes)
    for node in nodes:
        wait_for_exchanges(node, since, EXCHANGES, peers=2 if len(nodes) > 2 else 1)


def wait_for_exchanges(node: Program, since: float, count: int, peers: int) -> None:
    node.wait_for(lambda: len(partners(node, since)) >= count and len(set(partners(node, since))) >= peers)


def wait_for_exchange_with(node: Program, peer: PeerId, since: float) -> None:
    node.wait_for(lambda: peer in partners(node, since))


def wait_for_loss_of(node: Program, peer: PeerId) -> None:
    node.wait_for(lambda: any(lost.peer == peer for _, lost in node.events(PeerLost)))


def partners(node: Program, since: float) -> list[PeerId]:
    """With whom `node` made an exchange since a moment, one after the other."""
    return [event.peer for when, event in node.events(ExchangeCompleted) if when > since]


def all_end_well(programs: Iterable[Program]) -> None:
    programs = list(programs)
    for program in programs:
        program.send(signal.SIGTERM)
    for program in programs:
        assert program.code() == 0, program.errors
        assert "Traceback" not in program.errors
        assert [event.reason for _, event in program.events(Stopped)] == ["signal"]


def now(node: Program) -> float:
    """The time of the node's last event."""
    return node.history()[-1].time


@pytest.mark.fault("every bootstrap down for good")
def test_a_swarm_outlives_its_bootstrap_node_and_takes_in_newcomers(start: Start, tmp_path: Path) -> None:
    swarm = create(start, tmp_path)
    entry, address = bootstrap(start)
    nodes = [join(start, swarm, number, "--peer", address) for number in (1, 2, 3)]
    go_on(nodes, 0.0)
    entry.send(signal.SIGKILL)
    assert entry.code() == -signal.SIGKILL
    go_on(nodes, max(map(now, nodes)))

    linked = start("swarm", "link", swarm, "--peer", nodes[1].address)
    assert linked.code() == 0
    newcomer = join(start, linked.output.strip(), 5)
    newcomer.wait_for(lambda: newcomer.events(CaughtUp))
    assert newcomer.events(CaughtUp)[0][1].round > 1
    assert newcomer.wait_ready().swarm == nodes[0].wait_ready().swarm
    go_on([*nodes, newcomer], newcomer.began)
    assert {event.peer for _, event in newcomer.events(PeerAlive)} == {
        node.wait_ready().peer for node in nodes
    }
    all_end_well([*nodes, newcomer])


def check_gaps(node: Program, since: float) -> None:
    """Since a moment `node` has waited for one deadline at most, and gone on at its usual pace.

    The pace is taken to be a second a round, or the slowest round before: the machine may be busy.
    """
    gaps = list(pairwise(when for when, _ in node.events(RoundFinished)))
    usual = max(later - earlier for earlier, later in gaps if later <= since)
    longest = max(later - earlier for earlier, later in gaps if later > since)
    assert longest <= Deadlines().first(2 * 10_000) + 2 * max(usual, 1.0)


@pytest.mark.fault("kill -9 of a process; return with the same key and another port")
def test_nobody_waits_for_the_dead_who_may_come_back(start: Start, tmp_path: Path) -> None:
    swarm = create(start, tmp_path)
    first = join(start, swarm, 1)
    survivors = [first, *(join(start, swarm, number, "--peer", first.address) for number in (2, 3))]
    victim = join(start, swarm, 4, "--peer", first.address, "--save-every", 1)
    go_on([*survivors, victim], victim.began)
    victim.wait_for(lambda: len(victim.events(Checkpointed)) > 1)
    victim.send(signal.SIGKILL)
    assert victim.code() == -signal.SIGKILL
    peer, died = victim.wait_ready().peer, now(victim)
    go_on(survivors, died)
    for node in survivors:
        check_gaps(node, died)

    saved = max(event.round for _, event in victim.events(Checkpointed))
    back = join(start, swarm, 4, "--peer", first.address, name="node-4")
    assert back.wait_ready().peer == peer
    assert back.events(Restored)[0][1].round >= saved
    go_on([back], back.began)
    for node in survivors:
        wait_for_exchange_with(node, peer, back.began)
    all_end_well([*survivors, back])


@pytest.mark.fault("freeze of a process")
def test_a_frozen_process_holds_up_nobody_for_longer_than_a_deadline(start: Start, tmp_path: Path) -> None:
    swarm = create(start, tmp_path)
    first = join(start, swarm, 1)
    awake = [first, join(start, swarm, 2, "--peer", first.address)]
    frozen = join(start, swarm, 3, "--peer", first.address)
    go_on([*awake, frozen], frozen.began)
    frozen.send(signal.SIGSTOP)
    peer, since = frozen.wait_ready().peer, now(frozen)
    for node in awake:
        wait_for_loss_of(node, peer)
    go_on(awake, max(map(now, awake)))
    for node in awake:
        check_gaps(node, since)

    thawed = time.time()
    frozen.send(signal.SIGCONT)
    go_on([frozen], thawed)
    all_end_well([*awake, frozen])


@pytest.mark.fault("two processes with one key")
def test_of_two_processes_with_one_key_the_earlier_stops(start: Start, tmp_path: Path) -> None:
    swarm = create(start, tmp_path)
    other = join(start, swarm, 1)
    earlier = join(start, swarm, 2, "--quiet", "--peer", other.address)
    go_on([earlier], earlier.began)
    copy = tmp_path / "node-3" / "data"
    copy.mkdir(parents=True)
    shutil.copy2(earlier.data / "identity.key", copy)
    later = join(start, swarm, 3, "--peer", other.address)
    assert earlier.code() == 2
    assert earlier.errors == (
        "p2pnode: another node has been started with this node's key, so this one stops; "
        "give each node a --data-dir of its own\n"
    )
    assert later.events(NodeReady)[0][1].peer == earlier.events(NodeReady)[0][1].peer
    go_on([other, later], now(earlier))
    all_end_well([other, later])
