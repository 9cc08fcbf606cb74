"""Rows to learn from: reading them, and dealing them out to nodes.

Unevenly dealt data is the hard case of decentralized learning. The usual model of it: each label's
rows are dealt out in proportions drawn from a symmetric Dirichlet distribution; the smaller its
`alpha`, the fewer labels a node sees (Hsu, Qi and Brown 2019, arXiv:1909.06335).
"""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs

from p2pnode.errors import UserError

FILE_BYTES = 1 << 30  # a user's own file, on disk: what a laptop can still hold in memory after expansion
ARRAY_BYTES = 4 << 30  # one array of it, expanded: a few compressed kilobytes may announce any size

_DAMAGED = (
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)  # as the readers say it


class Dataset(NamedTuple):
    """Rows and their labels.

    Attributes:
        x: f32[rows, features...].
        y: i32[rows].
    """

    x: Any
    y: Any


class Part(NamedTuple):
    """Some rows of a pool that many nodes share, for simulating them all at once.

    Attributes:
        pool: all rows.
        rows: i32[most], which are this node's, filled up with anything.
        count: u32[], how many of them.
    """

    pool: Dataset
    rows: Any
    count: Any


def pick(data: Dataset | Part, drawn: Any) -> Dataset:
    """A batch: the row for each number `drawn`, u32[b], which may be any; bias below rows / 2**32."""
    if isinstance(data, Part):
        return take(data.pool, data.rows[(drawn % data.count).astype(np.int32)])
    return take(data, (drawn % len(data.y)).astype(np.int32))


@dataclass(frozen=True)
class Shard:
    """Part `index` of `nodes` of a task's own data.

    Attributes:
        alpha: how evenly labels are dealt out, see `partition`; None deals evenly.
    """

    index: int
    nodes: int
    alpha: float | None = None


def take(data: Dataset, rows: np.ndarray) -> Dataset:
    """Only these `rows` (i64[m])."""
    return Dataset(data.x[rows], data.y[rows])


def pooled(clients: Iterable[tuple[Dataset, Dataset]]) -> tuple[Dataset, Dataset]:
    """The training rows of all `clients` together, and their test rows."""
    train, test = zip(*clients, strict=True)
    return _joined(train), _joined(test)


def _joined(parts: Iterable[Dataset]) -> Dataset:
    return Dataset(*map(np.concatenate, zip(*parts, strict=True)))


def bundled(name: str) -> Dataset:
    """A data set of rows and labels that ships with the package, as stored."""
    arrays = bundled_arrays(name)
    return Dataset(arrays["x"].astype(np.float32), arrays["y"].astype(np.int32))


def bundled_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a data set that ships with the package."""
    with (resources.files("p2pnode.learning") / "datasets" / f"{name}.npz").open("rb") as file:
        return dict(np.load(file, allow_pickle=False))


class NotFetched(UserError):
    """A data set that is too large to ship is not on this machine."""


def fetched_path(name: str) -> Path:
    """Where `scripts/fetch_data` puts a data set that is too large to ship."""
    return platformdirs.user_cache_path("p2pnode") / "data" / f"{name}.npz"


def fetched_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a data set that `scripts/fetch_data` fetched.

    Raises:
        NotFetched: nobody has.
        UserError: the file is damaged.
    """
    path = fetched_path(name)
    if not path.exists():
        raise NotFetched(f"the data set {name} is not on this machine: run `scripts/fetch_data {name}`")
    return read_arrays(path)


def load_npz(path: Path, least: int = 2) -> Dataset:
    """A user's own rows: an `.npz` file with arrays `x` (numbers) and `y` (integer labels from 0 up).

    Args:
        path: made by `numpy.savez(path, x=..., y=...)`; pickled objects in it are refused.
        least: rows that must be there.

    Raises:
        UserError: it cannot be read or used; the message says why.
    """
    arrays = read_arrays(path, ("x", "y"))
    x, y = arrays["x"], arrays["y"]
    _check(x, y, path, least)
    return Dataset(x.astype(np.float32), y.astype(np.int32))


def read_arrays(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays in an `.npz` file by name, in its order: those `wanted`, or all.

    Raises:
        UserError: it cannot be read, lacks one, or one holds pickled objects or is too large.
    """
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UserError(f"{path} is larger than {FILE_BYTES >> 30} GiB: give each node a smaller file")
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = wanted or tuple(name.removesuffix(".npy") for name in archive.namelist())
            return {name: _array(archive, path, name) for name in names}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise UserError(
            f"{path} is no .npz file of plain arrays; write it with numpy.savez(path, x=x, y=y)"
        ) from error


def _array(archive: zipfile.ZipFile, path: Path, name: str) -> np.ndarray:
    if f"{name}.npy" not in archive.namelist():
        raise UserError(f"{path} holds no array {name}; write it with numpy.savez(path, x=x, y=y)")
    if archive.getinfo(f"{name}.npy").file_size > ARRAY_BYTES:
        raise UserError(
            f"array {name} in {path} is larger than {ARRAY_BYTES >> 30} GiB: give each node fewer rows"
        )
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _check(x: np.ndarray, y: np.ndarray, path: Path, least: int) -> None:
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise UserError(
            f"x in {path} must be numbers of shape [rows, features...], it is {x.dtype}{list(x.shape)}"
        )
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise UserError(f"y in {path} must be integer labels of shape [rows], it is {y.dtype}{list(y.shape)}")
    if len(x) != len(y):
        raise UserError(f"{path} has {len(x)} rows in x but {len(y)} in y")
    if len(y) < least:
        raise UserError(f"{path} has {len(y)} rows, at least {least} are needed")
    with np.errstate(over="ignore"):
        finite = np.isfinite(x.astype(np.float32)).all()
    if not finite:
        raise UserError(
            f"x in {path} holds NaN, infinity or numbers too large for float32: remove those rows"
        )
    if y.min() < 0 or y.max() >= 2**31:
        raise UserError(f"y in {path} must hold labels from 0 up, it holds {y.min()} to {y.max()}")


def every_fifth(data: Dataset) -> tuple[Dataset, Dataset]:
    """A training pool and a test set with the same share of each label.

    Every fifth row of each label is for testing: no random numbers, so that all versions of all
    libraries agree on which rows those are.
    """
    rank = np.empty(len(data.y), np.int64)
    for label in np.unique(data.y):
        rows = np.flatnonzero(data.y == label)
        rank[rows] = np.arange(len(rows))
    test = rank % 5 == 4
    return take(data, np.flatnonzero(~test)), take(data, np.flatnonzero(test))


def holdout(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a `fraction` of a node's own rows to judge its model by; at least one each way.

    They are random rows at even distances in the order of the labels (systematic sampling), so that a label
    has its share among them, and is there at all if it has 1 / `fraction` rows: a handful without any of a
    rare class would say nothing about it.
    """
    random = np.random.default_rng(seed)
    count = min(max(round(fraction * len(data.y)), 1), len(data.y) - 1)
    rows = random.permutation(len(data.y))
    if data.y.ndim == 1:
        rows = rows[np.argsort(data.y[rows], kind="stable")]
    held = np.zeros(len(rows), bool)
    held[rows[((np.arange(count) + random.random()) * len(rows) / count).astype(int)]] = True
    return take(data, np.flatnonzero(~held)), take(data, np.flatnonzero(held))


def partition(labels: np.ndarray, nodes: int, alpha: float | None, seed: int, least: int) -> list[np.ndarray]:
    """Deal all rows out to `nodes` nodes, each row to exactly one.

    Args:
        labels: i32[rows].
        nodes: how many.
        alpha: concentration of the Dirichlet distribution; None or infinity deals evenly at random.
        seed: the same seed deals the same way.
        least: rows that every node gets at least. Nodes that the draw left with fewer take random
            rows from the node that has most.

    Returns:
        For each node the indices of its rows, ascending.

    Raises:
        UserError: there are not `nodes * least` rows.
    """
    if len(labels) < nodes * least:
        raise UserError(f"{len(labels)} rows cannot give {nodes} nodes {least} each: ask for fewer nodes")
    random = np.random.default_rng(seed)
    if alpha is None or np.isinf(alpha):
        return [np.sort(rows) for rows in np.array_split(random.permutation(len(labels)), nodes)]
    parts: list[list[int]] = [[] for _ in range(nodes)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(random.dirichlet(np.full(nodes, alpha)))[:-1] * len(rows)
        for part, share in zip(parts, np.split(rows, np.round(cuts).astype(int)), strict=True):
            part.extend(share.tolist())
    _level(parts, least, random)
    return [np.sort(np.array(part, np.int64)) for part in parts]


def _level(parts: list[list[int]], least: int, random: np.random.Generator) -> None:
    for poor in parts:
        while len(poor) < least:
            rich = max(parts, key=len)
            poor.append(rich.pop(int(random.integers(len(rich)))))
