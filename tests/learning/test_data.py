"""Reading rows and dealing them out."""

import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.errors import UserError
from p2pnode.learning.data import Dataset, every_fifth, holdout, load_npz, partition

LABELS = np.random.default_rng(0).integers(0, 10, 500).astype(np.int32)


@given(st.integers(1, 12), st.sampled_from([None, np.inf, 0.01, 0.3, 100.0]), st.integers(0, 1000))
def test_every_row_goes_to_exactly_one_node_and_none_gets_too_few(
    nodes: int, alpha: float | None, seed: int
) -> None:
    parts = partition(LABELS, nodes, alpha, seed, least=20)
    assert len(parts) == nodes
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert min(map(len, parts)) >= 20


def test_the_same_seed_deals_the_same_way() -> None:
    for alpha in (None, 0.3):
        first, again, other = (partition(LABELS, 4, alpha, seed, 20) for seed in (1, 1, 2))
        assert all(map(np.array_equal, first, again))
        assert not all(map(np.array_equal, first, other))


def test_a_small_alpha_deals_unevenly_and_none_evenly() -> None:
    def spread(alpha: float | None) -> float:
        counts = [np.bincount(LABELS[part], minlength=10) for part in partition(LABELS, 5, alpha, 0, 20)]
        return float(np.std(counts))

    assert spread(0.1) > 2 * spread(10.0)
    assert spread(None) < 2 * spread(1e6) + 3
    assert {len(part) for part in partition(LABELS, 5, None, 0, 20)} == {100}


def test_too_few_rows_for_so_many_nodes_is_a_persons_mistake() -> None:
    with pytest.raises(UserError, match="500 rows cannot give 26 nodes 20 each"):
        partition(LABELS, 26, 0.3, 0, 20)


def test_a_holdout_is_split_off_without_losing_or_doubling_a_row() -> None:
    data = Dataset(np.arange(50, dtype=np.float32)[:, None], np.arange(50, dtype=np.int32))
    train, held = holdout(data, 0.1, 3)
    assert (len(train.y), len(held.y)) == (45, 5)
    assert sorted([*train.y, *held.y]) == list(range(50))
    np.testing.assert_array_equal(held.x[:, 0], held.y)


@pytest.mark.parametrize("seed", range(50))
def test_a_label_has_its_share_of_a_holdout_even_of_few_rows(seed: int) -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), [46, 20, 10])
    held = holdout(Dataset(np.zeros((76, 1), np.float32), labels), 0.1, seed)[1]
    assert len(held.y) == 8
    np.testing.assert_allclose(np.bincount(held.y, minlength=3), np.array([46, 20, 10]) * 8 / 76, atol=1)
    assert set(held.y) == {0, 1, 2}


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.99, 1.0])
def test_both_sides_of_a_holdout_have_a_row_at_least(fraction: float) -> None:
    data = Dataset(np.zeros((3, 1), np.float32), np.zeros(3, np.int32))
    assert all(len(side.y) >= 1 for side in holdout(data, fraction, 0))


def test_every_fifth_row_of_each_label_is_for_testing() -> None:
    data = Dataset(np.arange(500, dtype=np.float32)[:, None], LABELS)
    train, test = every_fifth(data)
    np.testing.assert_array_equal(np.bincount(test.y), np.bincount(LABELS) // 5)
    assert sorted([*train.x[:, 0], *test.x[:, 0]]) == list(range(500))


def save(folder: Path, **arrays: object) -> Path:
    path = folder / "rows.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array))
    return path


def test_a_users_file_is_read_as_float32_and_int32(tmp_path: Path) -> None:
    data = load_npz(save(tmp_path, x=np.arange(6).reshape(3, 2), y=np.array([0, 1, 2], np.uint8)))
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(data.x, [[0, 1], [2, 3], [4, 5]])


X, Y = np.zeros((3, 2)), [0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "holds no array y"),
        ({"y": Y}, "holds no array x"),
        ({"x": X, "y": [0, 1]}, "3 rows in x but 2 in y"),
        ({"x": X[:1], "y": [0]}, "1 rows, at least 2"),
        ({"x": X * np.nan, "y": Y}, "NaN"),
        ({"x": X + 1e300, "y": Y}, "too large for float32"),
        ({"x": X[:, 0], "y": Y}, r"shape \[rows, features...\]"),
        ({"x": X.astype(str), "y": Y}, "must be numbers"),
        ({"x": X, "y": [0.5, 1.0, 2.0]}, "integer labels"),
        ({"x": X, "y": [[0], [1], [2]]}, "integer labels"),
        ({"x": X, "y": [0, 1, -1]}, "labels from 0 up"),
        ({"x": X, "y": [0, 1, 2**40]}, "labels from 0 up"),
        ({"x": X, "y": np.array([{}, {}, {}], object)}, "plain arrays"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, arrays: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_npz(save(tmp_path, **arrays))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_npz(tmp_path / "nothing.npz")
    with pytest.raises(UserError, match="cannot read"):
        load_npz(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match=r"no .npz file"):
        load_npz(tmp_path / "text.npz")
    whole = save(tmp_path, x=np.random.default_rng(0).normal(size=(50, 3)), y=np.zeros(50, int)).read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(UserError):
            load_npz(tmp_path / "cut.npz")


def test_a_damaged_file_is_read_or_refused_but_never_our_crash(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3))
    whole, path = save(tmp_path, x=x, y=np.arange(8)).read_bytes(), tmp_path / "damaged.npz"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(UserError):
            load_npz(path)


def test_a_small_file_that_announces_a_huge_array_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 2), }"
    array = b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head + b"\n"
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", array)
        archive.writestr("y.npy", array)
    with pytest.raises(UserError, match="plain arrays"):
        load_npz(tmp_path / "bomb.npz")
