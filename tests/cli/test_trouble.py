"""What goes wrong with the machine under a running node: it is said in a line, and training goes on."""

import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2pnode.events import Alone, Checkpointed, ExchangeCompleted, InCompany, RoundFinished
from p2pnode.machine import DAY
from tests.cli.run import LOOPBACK, Program

Start = Callable[..., Program]

pytestmark = pytest.mark.slow


@pytest.fixture
def swarm(start: Start, tmp_path: Path) -> Path:
    """A swarm that ends when it is told to."""
    file = tmp_path / "s.toml"
    assert start("swarm", "create", file, "--rounds", 1_000_000, "--steps", 1000).code() == 0
    return file


def join(start: Start, swarm: Path, number: int, *words: object, name: str = "") -> Program:
    own = ("--data-dir", "data", "--listen", LOOPBACK, "--no-mdns", "--shard", f"{number}/3", "--wait", 0)
    return start("join", swarm, *own, *words, name=name or f"node-{number}")


def round_of(node: Program) -> int:
    return max((event.round for _, event in node.events(RoundFinished)), default=0)


def goes_on(node: Program, rounds: int = 3) -> None:
    reached = round_of(node) + rounds
    node.wait_for(lambda: round_of(node) >= reached)


def ends_well(*nodes: Program) -> None:
    for node in nodes:
        node.send(signal.SIGTERM)
    for node in nodes:
        assert node.code() == 0, node.errors
        assert "Traceback" not in node.errors


def test_a_node_trains_on_without_peers_and_says_so(start: Start, swarm: Path) -> None:
    node = join(start, swarm, 1, "--log", "human")
    node.wait_for(lambda: node.events(Alone))
    goes_on(node)
    other = join(start, swarm, 2, "--peer", node.address)
    node.wait_for(lambda: node.events(InCompany))
    ends_well(other)
    node.wait_for(lambda: len(node.events(Alone)) == 2)
    goes_on(node)
    ends_well(node)
    assert node.errors.count("no peer answers: training goes on alone\n") == 2
    assert node.errors.count("no longer alone: 1 peer\n") == 1


def test_a_full_disk_costs_checkpoints_and_events_only(start: Start, swarm: Path) -> None:
    node = join(start, swarm, 1, "--quiet", "--save-every", 0.2, "--log", "human")
    node.wait_for(lambda: len(node.events(Checkpointed)) > 1)
    limit = resource.prlimit(node.popen.pid, resource.RLIMIT_FSIZE)
    # No file may grow beyond this: writes fail half-way, as on a full disk.
    resource.prlimit(node.popen.pid, resource.RLIMIT_FSIZE, (10_000, limit[1]))
    node.wait_for(lambda: "not saved, will try again: cannot write data/checkpoints/" in node.errors)
    node.wait_for(lambda: "events are not being logged to data/events.jsonl: " in node.errors)
    before = round_of(node)
    assert resource.prlimit(node.popen.pid, resource.RLIMIT_FSIZE, limit)[0] == 10_000
    saved = len(node.events(Checkpointed))
    node.wait_for(lambda: len(node.events(Checkpointed)) > saved)
    assert round_of(node) > before
    ends_well(node)
    assert len(node.errors.splitlines()) == 2  # each said once a minute


def test_a_data_directory_that_takes_nothing_more_costs_checkpoints_only(start: Start, swarm: Path) -> None:
    node = join(start, swarm, 1, "--quiet", "--save-every", 0.2, "--log", "human")
    node.wait_for(lambda: node.events(Checkpointed))
    # Root may write to a read-only folder; nobody can write to one that is none.
    (node.data / "checkpoints").rename(node.data / "away")
    (node.data / "checkpoints").touch()
    node.wait_for(lambda: "not saved, will try again: cannot write data/checkpoints" in node.errors)
    goes_on(node)
    (node.data / "checkpoints").unlink()
    (node.data / "away").rename(node.data / "checkpoints")
    saved = len(node.events(Checkpointed))
    node.wait_for(lambda: len(node.events(Checkpointed)) > saved)
    ends_well(node)
    assert len(node.errors.splitlines()) == 1


def open_files(node: Program) -> int:
    return len(list(Path(f"/proc/{node.popen.pid}/fd").iterdir()))


def callers(address: str, count: int) -> Iterator[socket.socket]:
    """So many strangers who say nothing."""
    _, _, host, _, port, *_ = address.split("/")
    for _ in range(count):
        yield socket.create_connection((host, int(port)))


def test_a_node_without_a_file_left_to_open_trains_on(start: Start, swarm: Path) -> None:
    node = join(start, swarm, 1)
    goes_on(node)
    limit = resource.prlimit(node.popen.pid, resource.RLIMIT_NOFILE)
    most = open_files(node) + 10
    resource.prlimit(node.popen.pid, resource.RLIMIT_NOFILE, (most, limit[1]))
    with ExitStack() as stack:
        for caller in callers(node.address, 40):
            stack.enter_context(caller)
        node.wait_for(lambda: open_files(node) == most)
        goes_on(node)
    other = join(start, swarm, 2, "--peer", node.address)
    other.wait_for(lambda: other.events(ExchangeCompleted))
    ends_well(node, other)


@pytest.mark.fault("clock that ran ahead")
def test_a_clock_that_ran_ahead_once_locks_no_key_out(start: Start, swarm: Path, tmp_path: Path) -> None:
    witness = join(start, swarm, 1)
    data = tmp_path / "node-2" / "data"
    data.mkdir(parents=True)
    future = time.time() + 3651 * DAY
    (data / "incarnation").write_text(str(int(1000 * future)))
    ahead = join(start, swarm, 2, "--peer", witness.address, "--log", "human")
    ahead.wait_for(lambda: ahead.events(ExchangeCompleted))
    assert f"at this node's last start it said {time.gmtime(future).tm_year}-" in ahead.errors

    (tmp_path / "node-3" / "data").mkdir(parents=True)
    shutil.copy2(data / "identity.key", tmp_path / "node-3" / "data")
    back = join(start, swarm, 3, "--peer", witness.address)
    assert back.code() == 2
    assert (
        "(by its clock 3650 days later: if that was wrong and it has ended, start this again)" in back.errors
    )

    again = join(start, swarm, 3, "--peer", witness.address)
    again.wait_for(lambda: again.events(ExchangeCompleted))
    assert ahead.code() == 2  # now it is the earlier one
    ends_well(witness, again)


def test_fewer_rows_than_a_batch_are_mentioned(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    create = start("swarm", "create", file, "--rounds", 2, "--batch-size", 10_000)
    assert create.code() == 0, create.errors
    node = join(start, file, 1, "--log", "human", "--quiet")
    assert node.code() == 0
    (line,) = node.errors.splitlines()
    assert line.endswith("rows to train on, fewer than a batch of 10000: each batch repeats some")
