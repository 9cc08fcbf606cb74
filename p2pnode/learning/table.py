"""A person's table, whatever kind of file it is in: names, and rows of text piece by piece.

Everything is text here, as in a CSV file. What a text means is decided in one place, `encode.py`, and
a file that is larger than memory can be gone through as well as a small one.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from p2pnode.errors import UserError
from p2pnode.learning.data import FILE_BYTES, read_arrays

ROWS = 8192
"""Rows in a piece: enough to work on at once, and a few megabytes."""

MOST_COLUMNS = 16_384
_HEAD = 1 << 20  # characters of the first line, at most
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Piece:
    """Some rows.

    Attributes:
        first: the number of the first, counted from 1.
        columns: each as long as there are rows.
        done: how much of the file has been read by then, from 0 to 1.
    """

    first: int
    columns: tuple[tuple[str, ...], ...]
    done: float


@dataclass(frozen=True)
class Table:
    """A table in a file.

    Attributes:
        path: the file.
        names: of the columns, none twice; empty for one that has none.
        pieces: reads the rows, from the first one at each call. Raises UserError.
        delimiter: between the values, in a CSV file.
    """

    path: Path
    names: tuple[str, ...]
    pieces: Callable[[], Iterator[Piece]]
    delimiter: str = ","


def open_table(path: Path) -> Table:
    """The table in a CSV, NPZ or Parquet file, told apart by the file's name.

    Raises:
        UserError: it is none, or cannot be read.
    """
    kinds = {".csv": _csv, ".tsv": _csv, ".txt": _csv, ".npz": _npz, ".parquet": _parquet, ".pq": _parquet}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path}: expected a table in a .csv, .npz or .parquet file: save it as CSV")
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UserError(f"{path} is larger than {FILE_BYTES >> 30} GiB: cut it into smaller files")
        if not path.stat().st_size:
            raise UserError(f"{path} is empty")
        table = kinds[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    _check_names(table)
    return table


def _check_names(table: Table) -> None:
    named = [name for name in table.names if name]
    if len(table.names) > MOST_COLUMNS:
        raise UserError(f"{table.path} has {len(table.names)} columns, at most {MOST_COLUMNS} can be read")
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"{table.path} has two columns {name!r}: rename one of them")
    if all(map(_is_number, named)):
        raise UserError(
            f"{table.path} begins with {', '.join(table.names)[:60]!r}: its first line must name the columns"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- CSV (RFC 4180), with any of the usual delimiters ---


def _csv(path: Path) -> Table:
    with _opened(path) as file, _blaming(path):
        head = file.readline(_HEAD)
        delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
        file.seek(0)
        names = next(csv.reader(file, delimiter=delimiter, strict=True), [])
    return Table(path, tuple(name.strip() for name in names), lambda: _csv_pieces(path, delimiter), delimiter)


def _csv_pieces(path: Path, delimiter: str) -> Iterator[Piece]:
    size, first = path.stat().st_size, 1
    with _opened(path) as file, _blaming(path):
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        width = len(next(lines))
        while rows := list(islice(lines, ROWS)):
            if set(map(len, rows)) != {width}:
                rows = _even(rows, width, first, path)
            if rows:
                yield Piece(first, tuple(zip(*rows, strict=True)), min(file.buffer.tell() / size, 1.0))
            first += len(rows)


def _even(rows: list[list[str]], width: int, first: int, path: Path) -> list[list[str]]:
    """`rows` without empty lines, when all others are `width` values wide."""
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, first):
        if len(row) != width:
            raise UserError(
                f"{path}: row {number} has {len(row)} values, the first line names {width} columns"
            )
    return rows


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """What the readers raise in the block is said in one line."""
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file ({error}): look for a quote that is never closed") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as CSV in UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


# --- arrays and Parquet, as the text that a CSV file would hold ---


def _npz(path: Path) -> Table:
    """One column for each array, and for one with two dimensions a column for each of its columns."""
    columns: dict[str, np.ndarray] = {}
    for name, array in read_arrays(path).items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "biufU":
            found = f"{array.dtype}{list(array.shape)}"
            raise UserError(f"{name} in {path} must be numbers or text, a row for each case; it is {found}")
        columns |= {name: array} if array.ndim == 1 else {f"{name}{i}": one for i, one in enumerate(array.T)}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise UserError(
            f"the arrays in {path} have different numbers of rows: {', '.join(map(str, sorted(lengths)))}"
        )
    rows = lengths.pop()

    def pieces() -> Iterator[Piece]:
        for start in range(0, rows, ROWS):
            part = (column[start : start + ROWS].tolist() for column in columns.values())
            yield Piece(start + 1, tuple(map(_texts, part)), min((start + ROWS) / rows, 1.0))

    return Table(path, tuple(columns), pieces)


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - who has no such files need not install it
    except ImportError as error:
        raise UserError(
            f"{path}: reading Parquet needs `pip install 'p2pnode[parquet]'`; or save the table as CSV"
        ) from error

    def pieces() -> Iterator[Piece]:
        try:
            first = 1
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS):
                    columns = tuple(_texts(column.to_pylist()) for column in batch.columns)
                    yield Piece(first, columns, (first + batch.num_rows) / (file.metadata.num_rows + 1))
                    first += batch.num_rows
        except (ArrowException, OSError) as error:
            raise _no_parquet(path, error) from error

    try:
        with parquet.ParquetFile(path) as file:
            return Table(path, tuple(file.schema_arrow.names), pieces)
    except (ArrowException, OSError) as error:
        raise _no_parquet(path, error) from error


def _no_parquet(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.strerror:  # the library says OSError of damaged content, too
        return UserError(f"cannot read {path}: {error.strerror}")
    return UserError(f"{path} is no whole Parquet file: write it again, or save the table as CSV")


def _texts(values: list[object]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in values)
