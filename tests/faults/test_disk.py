"""A node whose disk fails it: it says so, trains on or ends with one line, and its last good state stays.

Every case is a whole life of a node, and the life after it: what was saved is gone on from, whose key
there was it still is, and nothing begins anew without a word.
"""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from p2pnode.errors import UserError
from p2pnode.events import Checkpointed, NotSaved, Restored, RoundFinished
from p2pnode.identity.keys import create_key, load_key
from p2pnode.ports import PeerAddress, PeerId
from p2pnode.storage import DataDirectory
from tests.faults.disks import (
    Disk,
    can_mount,
    closed_folders,
    limited_files,
    limited_names,
    limited_pages,
    read_only,
    unprivileged,
)
from tests.faults.lives import ROUNDS, Life, live

Make = Callable[[Path], AbstractContextManager[Disk]]

SEEDS = range(5)
MOUNTS = can_mount()
FULL: list[tuple[Make, int]] = [
    # The longest file of a first life is a checkpoint of 5,504 bytes; the others end in between.
    *((limited_files, room) for room in (0, 1, 12, 13, 179, 180, 1000, 3465, 3466, 5503, 5504)),
    *((limited_pages, room) for room in range(16) if MOUNTS),
    *((limited_names, room) for room in range(12) if MOUNTS),
]
READ_ONLY: list[Make] = [closed_folders, *([read_only] if MOUNTS else [])]
A_WHILE: list[tuple[Make, int]] = [
    (limited_files, 5503),  # the log goes on, checkpoints do not
    (closed_folders, 0),
    *([(limited_pages, 0), (limited_names, 0)] if MOUNTS else []),
]


def each(disks: Sequence[tuple[Make, int]]) -> pytest.MarkDecorator:
    names = [f"{make.__name__}-{room}" for make, room in disks]
    return pytest.mark.parametrize(("make", "room"), disks, ids=names)


def assert_one_line_or_all_rounds(life: Life, first: int = 1) -> None:
    if life.refused:
        (line,) = life.refused
        assert "\n" not in line
        assert not life.of(RoundFinished)
    else:
        assert [event.round for event in life.of(RoundFinished)] == list(range(first, ROUNDS + 1))


def assert_goes_on(before: Life, after: Life, reached: int = 0) -> None:
    """Nothing that was saved is lost, and `after` is in order."""
    assert not after.refused
    saved = max((event.round for event in before.of(Checkpointed)), default=reached)
    assert [event.round for event in after.of(Restored)] == ([saved] if saved else [])
    assert [event.round for event in after.of(RoundFinished)] == list(range(saved + 1, ROUNDS + 1))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


# --- full and read-only ---


@each(FULL)
@pytest.mark.fault("disk full at each write")
def test_a_first_start_on_a_full_disk(tmp_path: Path, make: Make, room: int) -> None:
    with make(tmp_path / "disk") as disk:
        data = disk.folder / "data"
        disk.fill(room)
        life = live(data)
        disk.free()
        assert_one_line_or_all_rounds(life)
        complete = len(life.of(Checkpointed)) == ROUNDS + 1
        assert complete or life.refused or life.of(NotSaved)
        named = load_key(data / "identity.key").peer if (data / "identity.key").exists() else None
        after = live(data)
        assert named in {None, after.peer}
        assert_goes_on(life, after)
        if life.of(RoundFinished) and not life.of(Checkpointed):
            assert any("beginning anew" in line for line in after.said)
        assert not leftovers(data)


@each(FULL)
@pytest.mark.fault("disk full at each write")
def test_a_later_start_on_a_full_disk(tmp_path: Path, make: Make, room: int) -> None:
    with make(tmp_path / "disk") as disk:
        data = disk.folder / "data"
        before = live(data, last=2)
        disk.fill(room)
        life = live(data)
        disk.free()
        assert_one_line_or_all_rounds(life, first=3)
        after = live(data)
        assert before.peer == after.peer
        assert_goes_on(life, after, reached=2)
        assert not leftovers(data)


@pytest.mark.parametrize("make", READ_ONLY, ids=lambda make: make.__name__)
@pytest.mark.fault("read-only disk")
def test_a_read_only_disk_ends_a_start_with_one_line_and_changes_nothing(tmp_path: Path, make: Make) -> None:
    with make(tmp_path / "disk") as disk:
        data = disk.folder / "data"
        before = live(data, last=2)
        was = contents(data)
        disk.fill(0)
        life = live(data)
        disk.free()
        assert_one_line_or_all_rounds(life)
        assert life.refused
        assert contents(data) == was
        assert_goes_on(before, live(data))


@each(A_WHILE)
@pytest.mark.fault("disk full at each write")
def test_a_disk_that_fails_a_while_costs_checkpoints_only(tmp_path: Path, make: Make, room: int) -> None:
    with make(tmp_path / "disk") as disk:
        life = live(disk.folder / "data", meanwhile={2: lambda: disk.fill(room), 4: disk.free})
        assert_one_line_or_all_rounds(life)
        assert [event.round for event in life.of(Checkpointed)] == [1, 4, 5, 5]
        assert life.of(NotSaved)


# --- damaged files ---


def truncate(path: Path, length: Callable[[int], int]) -> None:
    os.truncate(path, length(path.stat().st_size))


def flip(path: Path, seed: int) -> None:
    rng, content = random.Random(seed), bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "found").write_text("something else")


def become_file(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.write_text("something else")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda path: truncate(path, lambda _: 0),
    "one byte": lambda path: truncate(path, lambda _: 1),
    "half": lambda path: truncate(path, lambda size: size // 2),
    "one byte less": lambda path: truncate(path, lambda size: size - 1),
    **{f"bit {seed}": lambda path, seed=seed: flip(path, seed) for seed in SEEDS},  # type: ignore[misc]
    "a folder": become_folder,
    "closed": lambda path: path.chmod(0),
    "gone": Path.unlink,
}
FILES = ("identity.key", "manifest.toml", "peers.json", "incarnation", "events.jsonl", "newest", "all")
IRREPLACEABLE = {"identity.key", "manifest.toml", "peers.json", "newest", "all"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "control.sock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a node that reached round 3 and was saved after each."""
    path = tmp_path_factory.mktemp("lived") / "data"
    assert not live(path, last=3).refused
    with DataDirectory.open(path) as directory:
        directory.save_peers([PeerAddress(PeerId("12D3KooWA"), ("/memory/nowhere",))])
    return path


def named(data: Path, file: str) -> list[Path]:
    checkpoints = sorted((data / "checkpoints").iterdir(), reverse=True)
    return {"newest": checkpoints[:1], "all": checkpoints}.get(file, [data / file])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.fault("truncated or flipped files")
def test_a_damaged_file_is_said_and_kept_and_nothing_begins_anew_without_a_word(
    lived: Path, tmp_path: Path, file: str, damage: str
) -> None:
    data = shutil.copytree(lived, tmp_path / "data")
    damaged = named(data, file)
    for path in damaged:
        DAMAGES[damage](path)
    evidence = {path: path.read_bytes() for path in damaged if path.is_file()}
    with unprivileged() if damage == "closed" else nullcontext():
        life = live(data)
    restored = max((event.round for event in life.of(Restored)), default=0)
    assert_one_line_or_all_rounds(life, first=restored + 1)
    if file in IRREPLACEABLE:
        kept = contents(data).values()
        again = {
            event.path for event in life.of(Checkpointed)
        }  # the same round, whole, under the same digest
        assert all(str(path) in again or content in kept for path, content in evidence.items())
    if life.refused:
        for path in damaged:  # as the line says
            path.rename(tmp_path / path.name)
        after = live(data)
        assert not after.refused
        assert_one_line_or_all_rounds(after, first=1 if file == "all" else 4)
        assert after.said or file in {"manifest.toml", "incarnation"}
    elif restored < 3 and (file, damage) != ("newest", "gone"):  # no trace is left of that one
        assert life.said
    elif file == "identity.key":
        assert life.said or life.peer == load_key(lived / file).peer


def test_peers_stay_written_down_while_none_of_them_answers(lived: Path, tmp_path: Path) -> None:
    data = shutil.copytree(lived, tmp_path / "data")
    was = (data / "peers.json").read_bytes()
    assert live(data).of(Checkpointed)
    assert (data / "peers.json").read_bytes() == was


@pytest.mark.parametrize("folder", ["checkpoints", "xla"])
@pytest.mark.parametrize("damage", [become_file, shutil.rmtree, lambda path: path.chmod(0)])
@pytest.mark.fault("truncated or flipped files")
def test_a_damaged_folder(lived: Path, tmp_path: Path, folder: str, damage: Callable[[Path], None]) -> None:
    data = shutil.copytree(lived, tmp_path / "data")
    damage(data / folder)
    with unprivileged():
        life = live(data)
    restored = max((event.round for event in life.of(Restored)), default=0)
    assert_one_line_or_all_rounds(life, first=restored + 1)
    assert restored == 3 or life.said or str(data / folder) in life.refused[0]


@pytest.mark.parametrize("file", [".lock", "control.sock"])
@pytest.mark.parametrize("damage", ["a folder", "closed", "emptied"])
@pytest.mark.fault("truncated or flipped files")
def test_a_damaged_lock_or_socket(lived: Path, tmp_path: Path, file: str, damage: str) -> None:
    data = shutil.copytree(lived, tmp_path / "data")
    (data / file).touch()
    DAMAGES[damage](data / file)
    with unprivileged():
        life = live(data)
    assert_one_line_or_all_rounds(life, first=4)
    assert life.refused or [event.round for event in life.of(Restored)] == [3]
    assert damage == "emptied" or life.refused or file == "control.sock"


@pytest.mark.fault("truncated or flipped files")
def test_no_bit_that_flips_in_a_key_file_makes_another_peer(tmp_path: Path) -> None:
    path = tmp_path / "key"
    peer, whole = create_key(path).peer, path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with suppress(UserError):
            assert load_key(path).peer == peer


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("truncated or flipped files")
def test_several_files_damaged_at_once(lived: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(10):
        data = shutil.copytree(lived, tmp_path / str(number))
        files = sorted(path for path in data.rglob("*") if path.is_file() and path.stat().st_size)
        for path in rng.sample(files, rng.randrange(1, 4)):
            DAMAGES[rng.choice(list(DAMAGES))](path)
        with unprivileged():
            life = live(data)
        restored = max((event.round for event in life.of(Restored)), default=0)
        assert_one_line_or_all_rounds(life, first=restored + 1)
        assert restored or life.refused or life.said
