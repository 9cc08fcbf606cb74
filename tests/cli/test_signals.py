"""Being told to end: in good order, at whatever stage, and at once when told twice."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.events import Checkpointed, RoundFinished, Stopped
from p2pnode.identity.keys import load_key
from p2pnode.storage.checkpoint import load_checkpoint
from tests.cli.run import LOOPBACK, Program

Start = Callable[..., Program]

pytestmark = pytest.mark.slow


def create(start: Start, tmp_path: Path, rounds: int = 1_000_000) -> Path:
    """A swarm's manifest."""
    file = tmp_path / "s.toml"
    assert start("swarm", "create", file, "--rounds", rounds, "--steps", 200).code() == 0
    return file


def join(start: Start, swarm: Path, *words: object) -> Program:
    """A member that knows nobody but whom `words` tell it of."""
    own = ("--data-dir", "data", "--listen", LOOPBACK, "--no-mdns", "--shard", "1/2")
    return start("join", swarm, *own, *words)


def check_files(node: Program, saved: bool) -> None:
    """Nothing half-written is left, and what was saved last can be read."""
    assert not [path for path in node.data.rglob("*") if path.name.endswith(".tmp")]
    assert (node.data / "events.jsonl").read_bytes().endswith(b"\n")
    checkpoint = load_checkpoint(node.data / "checkpoints")
    if checkpoint is None:
        assert not saved
    else:
        last = Path(node.events(Checkpointed)[-1][1].path)
        assert checkpoint.path == node.data / last.relative_to("data")


def ends_in_good_order(node: Program, number: signal.Signals, saved: bool = True) -> None:
    node.send(number)
    assert node.code() == 0, node.errors
    assert "Traceback" not in node.errors
    assert [event.reason for _, event in node.events(Stopped)] == ["signal"]
    check_files(node, saved)


def test_a_node_that_builds_its_model_ends_in_good_order(start: Start, tmp_path: Path) -> None:
    node = join(start, create(start, tmp_path))
    node.wait_for((node.data / "manifest.toml").exists)
    ends_in_good_order(node, signal.SIGTERM, saved=False)


def test_a_node_that_waits_for_peers_ends_in_good_order(start: Start, tmp_path: Path) -> None:
    node = join(start, create(start, tmp_path), "--wait", 1000)
    node.wait_ready()
    ends_in_good_order(node, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_trains_ends_in_good_order(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    node = join(start, create(start, tmp_path), "--wait", 0)
    node.wait_for(lambda: len(node.events(RoundFinished)) > 2)
    ends_in_good_order(node, number)


def test_a_node_that_waits_for_others_to_finish_ends_in_good_order(start: Start, tmp_path: Path) -> None:
    swarm = create(start, tmp_path, rounds=3)
    other = join(start, swarm, "--wait-peers", 2, "--wait", 1000)  # never begins
    node = join(start, swarm, "--peer", other.address)
    node.wait_for(lambda: len(node.events(RoundFinished)) == 3)
    ends_in_good_order(node, signal.SIGTERM)
    ends_in_good_order(other, signal.SIGTERM)


def test_a_second_signal_ends_a_node_at_once(start: Start, tmp_path: Path) -> None:
    node = join(start, create(start, tmp_path), "--wait", 0)
    node.wait_for(lambda: node.events(RoundFinished))
    node.send(signal.SIGTERM)
    node.send(signal.SIGINT)  # another one: two of a kind in one moment are one to the kernel
    assert node.code() in (-signal.SIGINT, -signal.SIGTERM)
    assert "Traceback" not in node.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bootstrap_node_ends_when_told_to(start: Start, number: signal.Signals) -> None:
    node = start("bootstrap", "--listen", LOOPBACK, "--data-dir", "data")
    node.wait_for(lambda: node.output.endswith("\n"))
    node.send(number)
    assert node.code() == 0
    assert not node.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_there_is_a_node_a_signal_ends_the_process_in_good_order(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    node = join(start, create(start, tmp_path))
    node.wait_for(node.data.exists)
    node.send(number)
    assert node.code() == 0
    assert "Traceback" not in node.errors
    key = node.data / "identity.key"  # whole, or not there; what was begun beside it goes at the next start
    assert not key.exists() or load_key(key).peer
