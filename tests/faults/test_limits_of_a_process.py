"""`p2pnode join` where the machine gives too little, disk or memory: what was saved stays good.

Whole processes: the limits are the kernel's, put on the child and not on us.
"""

import random
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from p2pnode.events import Checkpointed, Restored, RoundFinished
from p2pnode.storage import load_checkpoint
from tests.cli.run import LOOPBACK, Program, launcher
from tests.faults.disks import Disk, can_mount, limited_files, limited_pages

Start = Callable[..., Program]
Make = Callable[[Path], AbstractContextManager[Disk]]

pytestmark = pytest.mark.slow

ROUNDS = 3
SEEDS = range(5)
FULL: list[tuple[Make, int]] = [(limited_files, 20_000), *([(limited_pages, 20)] if can_mount() else [])]
"""How a disk is full, and the room on it at most: from none to all that a node wants."""


@pytest.fixture
def start(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with launcher(tmp_path, tmp_path_factory.getbasetemp() / "cache") as start:
        yield start


def make_swarm(start: Start, file: Path, rounds: int, hidden: int) -> Path:
    assert start("swarm", "create", file, "--rounds", rounds, "--steps", 5).code() == 0
    text = file.read_text()
    assert "\nhidden = 32\n" in text
    file.write_text(text.replace("\nhidden = 32\n", f"\nhidden = {hidden}\n"))
    return file


def join(start: Start, swarm: Path, save_every: float = 0) -> Program:
    own = ("--data-dir", "data", "--listen", LOOPBACK, "--no-mdns", "--shard", "1/3", "--wait", 0)
    return start("join", swarm, *own, "--quiet", "--log", "human", "--save-every", save_every, name="node")


def reached(node: Program) -> int:
    return max((event.round for _, event in node.events(RoundFinished)), default=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "most"), FULL)
@pytest.mark.fault("disk full at each write")
def test_a_full_disk(start: Start, tmp_path: Path, make: Make, most: int, seed: int) -> None:
    swarm = make_swarm(start, tmp_path / "s.toml", ROUNDS, 32)
    (tmp_path / "node").mkdir()
    with make(tmp_path / "node" / "data") as disk:
        disk.fill(random.Random(seed).randrange(most))
        node = join(start, swarm)
        code = node.code()
        disk.free()
        assert "Traceback" not in node.errors
        assert code == 0 or (code == 2 and len(node.errors.splitlines()) <= 2)  # the log may be refused, too
        newest = load_checkpoint(disk.folder / "checkpoints") if code == 0 else None
        assert newest or code == 2 or "not saved" in node.errors
        again = join(start, swarm)
        assert again.code() == 0, again.errors
        assert [event.round for _, event in again.events(Restored)] == ([newest.round] if newest else [])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("memory limit")
def test_memory_that_runs_out_ends_the_process_and_the_next_start_goes_on(
    start: Start, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    # Vectors of more than 32 MiB: the allocator always asks the kernel for these.
    swarm = make_swarm(start, tmp_path / "s.toml", 1_000_000, 140_000)
    node = join(start, swarm, save_every=rng.uniform(0, 5))
    node.wait_for(lambda: node.events(Checkpointed))
    pages = int(Path(f"/proc/{node.popen.pid}/statm").read_text().split()[0])
    limit = int(pages * resource.getpagesize() * rng.uniform(0.3, 1.0))
    resource.prlimit(node.popen.pid, resource.RLIMIT_AS, (limit, limit))
    assert node.code() != 0
    newest = load_checkpoint(node.data / "checkpoints")
    assert newest is not None and not newest.skipped
    assert newest.round >= max(event.round for _, event in node.events(Checkpointed))

    again = join(start, swarm, save_every=60)
    again.wait_for(lambda: reached(again) > newest.round)
    assert [event.round for _, event in again.events(Restored)] == [newest.round]
    again.send()
    assert again.code() == 0, again.errors


@pytest.mark.parametrize("gigabytes", [0.3, 1.0, 1.5])
@pytest.mark.fault("memory limit")
def test_too_little_memory_is_said_in_one_line_before_training(
    start: Start, tmp_path: Path, gigabytes: float
) -> None:
    swarm = make_swarm(start, tmp_path / "s.toml", ROUNDS, 1000)
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 1e9), hard))  # the child inherits it
    try:
        node = join(start, swarm)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    assert node.code() == 2, node.errors
    (line,) = node.errors.splitlines()
    assert "GB" in line and "raise the limit" in line
    assert not node.events(RoundFinished)
