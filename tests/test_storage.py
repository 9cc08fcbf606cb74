"""What a node keeps on disk is whole at every instant, belongs to one process, and proves itself."""

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pnode.errors import UserError
from p2pnode.ports import PeerAddress, PeerId
from p2pnode.storage import DataDirectory, StorageError, default_data_dir, load_checkpoint, write_atomic

ARRAYS = {"w": np.arange(6, dtype=np.float32)}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with DataDirectory.open(tmp_path / "node") as directory:
        yield directory


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process may grow beyond `room` bytes: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(program: str, *arguments: object) -> "subprocess.Popen[bytes]":
    command: Sequence[str] = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


# The directory


def test_a_new_directory_is_readable_only_by_its_owner(data: DataDirectory) -> None:
    assert data.path.stat().st_mode & 0o777 == 0o700
    assert data.checkpoints.is_dir()
    assert data.xla.is_dir()


def test_a_directory_has_one_owner_at_a_time(data: DataDirectory) -> None:
    with pytest.raises(UserError, match=str(data.path)):
        DataDirectory.open(data.path)


def test_a_closed_directory_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDirectory.open(tmp_path / "node"):
            pass


def test_a_killed_owner_lets_go_of_the_directory(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from p2pnode.storage import DataDirectory\n"
        "data = DataDirectory.open(pathlib.Path(sys.argv[1]))\n"
        "print('open', flush=True)\n"
        "time.sleep(600)\n"
    )
    with run(program, tmp_path) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="another process"):
            DataDirectory.open(tmp_path)
        owner.kill()
    DataDirectory.open(tmp_path).close()


def test_a_file_in_place_of_the_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "node").touch()
    with pytest.raises(UserError, match="not a directory") as refused:
        DataDirectory.open(tmp_path / "node")
    assert "\n" not in str(refused.value)


def test_a_directory_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --data-dir"):
        DataDirectory.open(tmp_path / "file" / "node")


def test_the_default_directory_ends_in_the_name_of_the_node() -> None:
    assert default_data_dir("alice").name == "alice"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_path_cannot_name_a_node(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a node"):
        default_data_dir(name)


# Atomic files


def test_a_file_is_replaced_as_a_whole_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old", mode=0o644)
    write_atomic(path, [b"ne", memoryview(b"w")])
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with full_disk(room=1000), pytest.raises(StorageError, match="cannot write"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write_atomic(tmp_path / "gone" / "file", b"")


def test_what_a_killed_process_left_half_written_is_removed_at_open(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path) as data:
        (data.path / ".peers.json.abc.tmp").touch()
        (data.checkpoints / ".round-00000001-0.safetensors.abc.tmp").touch()
    with DataDirectory.open(tmp_path) as data:
        assert names(data.path) == [".lock", "checkpoints", "xla"]
        assert names(data.checkpoints) == []


# Checkpoints


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.float32),
        np.array(7, np.int64),
        np.zeros((0, 3), np.float32),
        np.array([True, False]),
        np.array([1, 2**32 - 1], np.uint32),
        np.array([-1, 2**62], np.int64),
        np.array([65535], np.uint16),
        np.array([1.5, -2], ml_dtypes.bfloat16),
        np.array([np.nan, np.inf, -0.0], np.float64),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.int32)[::-2],
        np.array([1, 2], ">i4"),
        np.broadcast_to(np.float32(1), (2, 3)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_comes_back_as_it_was(data: DataDirectory, array: NDArray[np.generic]) -> None:
    data.save_checkpoint(1, {"a/b.c": array}, {})
    loaded = data.load_checkpoint()
    assert loaded is not None
    back = loaded.arrays["a/b.c"]
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.shape == array.shape
    assert back.tobytes() == array.astype(back.dtype).tobytes()


def test_round_metadata_and_path_come_back(data: DataDirectory) -> None:
    path = data.save_checkpoint(12, ARRAYS, {"swarm": "ab", "ünï": "日"})
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert (loaded.round, loaded.path, loaded.skipped) == (12, path, {})
    assert loaded.metadata == {"swarm": "ab", "ünï": "日"}
    assert path.name.startswith("round-00000012-")


def test_no_checkpoint_is_none(data: DataDirectory) -> None:
    assert data.load_checkpoint() is None


def test_the_last_three_are_kept_and_the_newest_is_loaded(data: DataDirectory) -> None:
    for round in (1, 9, 10, 100):
        data.save_checkpoint(round, {"round": np.array(round)}, {})
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert loaded.arrays["round"] == 100
    assert [name[:14] for name in names(data.checkpoints)] == [
        "round-00000009",
        "round-00000010",
        "round-00000100",
    ]


def test_of_two_checkpoints_of_one_round_the_later_is_loaded(data: DataDirectory) -> None:
    for value, time in ((1, 100), (2, 300), (3, 200)):
        os.utime(data.save_checkpoint(5, {"value": np.array(value)}, {}), (time, time))
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert loaded.arrays["value"] == 2


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip_a_bit(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def lengthen(content: bytes, rng: random.Random) -> bytes:
    return content + bytes(rng.randrange(1, 100))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lengthen])
def test_a_damaged_checkpoint_is_passed_over_reported_and_kept(
    data: DataDirectory, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    data.save_checkpoint(1, ARRAYS, {})
    newest = data.save_checkpoint(2, ARRAYS, {})
    whole, rng = newest.read_bytes(), random.Random(0)
    for _ in range(20):
        newest.write_bytes(damage(whole, rng))
        loaded = data.load_checkpoint()
        assert loaded is not None
        assert loaded.round == 1
        assert loaded.skipped == {newest: f"{newest.name} is damaged"}
        assert newest.exists()


def test_damaged_checkpoints_never_push_whole_ones_out(data: DataDirectory) -> None:
    data.save_checkpoint(1, ARRAYS, {})
    damaged = [data.save_checkpoint(round, ARRAYS, {}) for round in (7, 8)]
    for path in damaged:
        path.write_bytes(b"")
    data.load_checkpoint()
    for round in (2, 3, 4, 5):
        data.save_checkpoint(round, ARRAYS, {})
    rounds = [int(name[6:14]) for name in names(data.checkpoints)]
    assert rounds == [3, 4, 5, 7, 8]


def test_a_checkpoint_under_the_name_of_another_round_is_not_used(data: DataDirectory) -> None:
    data.save_checkpoint(1, ARRAYS, {})
    second = data.save_checkpoint(2, ARRAYS, {})
    second.rename(second.with_name(second.name.replace("00000002", "00000009")))
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert loaded.round == 1
    assert len(loaded.skipped) == 1


def test_starting_over_because_all_checkpoints_are_damaged_is_left_to_a_person(data: DataDirectory) -> None:
    for round in (1, 2):
        data.save_checkpoint(round, ARRAYS, {}).write_bytes(b"")
    with pytest.raises(UserError, match="move the folder away") as refused:
        data.load_checkpoint()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("F8_E5M2", [1], 1), ("F32", [0, 2**62], 0), ("F32", [0, 2**63], 0), ("U8", [1] * 65, 1)],
    ids=["dtype", "size", "dimension", "dimensions"],
)
def test_an_array_that_numpy_cannot_hold_is_no_checkpoint_of_ours(
    data: DataDirectory, dtype: str, shape: list[int], size: int
) -> None:
    data.save_checkpoint(1, ARRAYS, {})
    array = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"p2pnode.checkpoint": "1", "p2pnode.round": "2"}, "a": array})
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(size)
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = data.checkpoints / f"round-00000002-{digest}.safetensors"
    path.write_bytes(content)
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert loaded.round == 1
    assert "an array" in loaded.skipped[path]


def test_what_is_no_checkpoint_is_left_alone(data: DataDirectory) -> None:
    (data.checkpoints / "notes.txt").touch()
    assert data.load_checkpoint() is None
    for round in range(5):
        data.save_checkpoint(round, ARRAYS, {})
    assert "notes.txt" in names(data.checkpoints)


def test_a_checkpoint_can_be_read_while_the_owner_runs(data: DataDirectory) -> None:
    path = data.save_checkpoint(3, ARRAYS, {})
    loaded = load_checkpoint(data.checkpoints)
    assert loaded is not None
    assert loaded.path == path


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_one_before(data: DataDirectory) -> None:
    data.save_checkpoint(1, ARRAYS, {})
    with full_disk(room=1000), pytest.raises(StorageError):
        data.save_checkpoint(2, {"w": np.zeros(100_000, np.float32)}, {})
    loaded = data.load_checkpoint()
    assert loaded is not None
    assert loaded.round == 1
    assert loaded.skipped == {}
    assert len(names(data.checkpoints)) == 1


def test_checkpoints_whose_folder_is_gone_are_a_storage_error(data: DataDirectory) -> None:
    data.checkpoints.rmdir()
    data.checkpoints.touch()
    with pytest.raises(StorageError):
        data.save_checkpoint(1, ARRAYS, {})
    with pytest.raises(UserError, match="cannot look for checkpoints"):
        data.load_checkpoint()


def test_a_checkpoint_just_saved_stays_even_when_the_round_went_back(data: DataDirectory) -> None:
    for round in (50, 51, 52, 40, 41):
        path = data.save_checkpoint(round, ARRAYS, {})
        assert path.exists()
    assert [int(name[6:14]) for name in names(data.checkpoints)] == [41, 51, 52]


SAVE_FOR_EVER = """
import itertools, pathlib, sys
import numpy as np
from p2pnode.storage import DataDirectory
with DataDirectory.open(pathlib.Path(sys.argv[1])) as data:
    for round in itertools.count(1):
        data.save_checkpoint(round, {"w": np.full(50_000, round, np.float32)}, {"round": str(round)})
        print(round, flush=True)
"""


@pytest.mark.parametrize("seed", range(10))
def test_a_kill_at_any_instant_leaves_every_finished_checkpoint_whole(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with run(SAVE_FOR_EVER, tmp_path) as process:
        assert process.stdout is not None
        finished = [int(process.stdout.readline()) for _ in range(rng.randrange(1, 6))]
        for _ in range(rng.randrange(60_000)):  # somewhere within the next save
            pass
        process.kill()
    with DataDirectory.open(tmp_path) as data:
        loaded = data.load_checkpoint()
        assert loaded is not None
        assert loaded.round >= finished[-1]
        assert loaded.skipped == {}
        assert np.all(loaded.arrays["w"] == loaded.round)
        assert all(name.startswith("round-") for name in names(data.checkpoints))


# Peers and incarnation


def peer(number: int, *addresses: str) -> PeerAddress:
    return PeerAddress(PeerId(f"12D3KooW{number}"), addresses)


def test_peers_come_back_in_their_order(data: DataDirectory) -> None:
    peers = [peer(2, "/ip4/192.0.2.1/tcp/4001", "/dns4/example.org/tcp/1"), peer(1)]
    data.save_peers(peers)
    assert data.load_peers() == (peers, None)


def test_no_peer_cache_is_empty_and_nothing_to_report(data: DataDirectory) -> None:
    assert data.load_peers() == ([], None)


def test_a_peer_cache_is_bounded_and_never_refuses_what_it_wrote(data: DataDirectory) -> None:
    addresses = ["\N{GRINNING FACE}" * 512, "x" * 513, *(f"/ip4/192.0.2.{i}/tcp/1" for i in range(100))]
    data.save_peers([peer(number, *addresses) for number in range(1000)])
    peers, line = data.load_peers()
    assert line is None
    assert len(peers) == 256
    assert {len(known.addresses) for known in peers} == {8}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{}",
        b"[1]",
        b'[{"peer": 1, "addresses": []}]',
        b'[{"peer": "a", "addresses": [1]}]',
        b'[{"peer": "a"}]',
        b"[" * 100_000,
        b"[" + b" " * (9 << 20) + b"]",
        b'[{"peer": "' + b"x" * 600 + b'", "addresses": []}]',
    ],
    ids=range(10),
)
def test_a_damaged_peer_cache_is_empty_and_reported(data: DataDirectory, content: bytes) -> None:
    (data.path / "peers.json").write_bytes(content)
    peers, line = data.load_peers()
    assert peers == []
    assert line is not None
    assert "peers.json" in line


def test_the_incarnation_is_the_time_in_milliseconds(data: DataDirectory) -> None:
    assert data.next_incarnation(1234.5) == 1_234_500


@given(clock=st.lists(st.floats(0, 1e10), min_size=2, max_size=6))
def test_a_later_start_has_the_larger_incarnation_whatever_the_clock_does(
    tmp_path_factory: pytest.TempPathFactory, clock: list[float]
) -> None:
    with DataDirectory.open(tmp_path_factory.mktemp("node")) as data:
        numbers = [data.next_incarnation(wall) for wall in clock]
    assert numbers == sorted(set(numbers))


def test_an_incarnation_that_cannot_be_kept_is_said_at_the_start(data: DataDirectory) -> None:
    with full_disk(room=0), pytest.raises(UserError, match="make room"):
        data.next_incarnation(1.0)


@pytest.mark.parametrize("content", [b"", b"x", b"-5", b"9" * 31])
def test_after_a_damaged_incarnation_the_clock_alone_decides(data: DataDirectory, content: bytes) -> None:
    (data.path / "incarnation").write_bytes(content)
    assert data.next_incarnation(2.0) == 2000
