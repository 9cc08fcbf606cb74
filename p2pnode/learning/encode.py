"""A table's rows as numbers, by the schema that the swarm agreed on.

What differs from it and can be handled is handled and noted: columns in another order, columns that
nobody asked for, missing values, rows without a label, categories that the swarm does not know. The
rest is refused in one line: columns that are missing, text where numbers belong, classes that the swarm
does not know, a column mostly in other categories, numbers that are plainly in another unit.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from p2pnode.errors import UserError
from p2pnode.learning import fit
from p2pnode.learning.data import Dataset
from p2pnode.learning.schema import Category, Number, Schema
from p2pnode.learning.table import Piece, Table, open_table

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a missing value, in whatever case."""

CLIP = 10.0
"""Scales from the mean: an encoded number is cut off there, or one slip of a pen would outweigh the rest."""

_UNKNOWN, _LACKING = -1, -2


class Encoder:
    """Turns the pieces of one table into numbers, and remembers what it met on the way.

    Args:
        table: to be encoded.
        schema: what the swarm agreed on.
        labelled: whether the target must be there.
        any_units: whether numbers may lie anywhere.

    Raises:
        UserError: columns are missing.
    """

    def __init__(self, table: Table, schema: Schema, labelled: bool, any_units: bool = False) -> None:
        self._path = table.path
        self._schema = schema
        self._labelled = labelled
        self._any_units = any_units
        self._places = fit.places(table.path, table.names, schema, labelled)
        self._met = fit.Met(schema, tuple(name for name in table.names if name not in schema.names))

    def encode(self, piece: Piece) -> Dataset:
        """The rows of a piece: x f32[rows, features], not clipped; y i32[rows], -1 where there is no label.

        Raises:
            UserError: values that cannot be read as the schema wants them, those of all columns in one line.
        """
        rows = len(piece.columns[0])
        x = np.zeros((rows, self._schema.features), np.float32)
        problems: list[str] = []
        place = 0
        for column in self._schema.columns:
            values = piece.columns[self._places[column.name]]
            if isinstance(column, Number):
                x[:, place], wrong = self._numbers(column, values, piece.first)
                problems += wrong
            else:
                known, codes = self._categories(column, values)
                x[known, place + codes] = 1.0
            place += column.width
        y = self._labels(piece) if self._labelled else np.full(rows, -1, np.int32)
        problems += self._met.foreign_classes()
        if problems:
            raise fit.misfit(self._path, problems)
        self._met.rows += rows
        return Dataset(x, y)

    def check(self, x: np.ndarray) -> list[str]:
        """Judge columns as wholes, by all that was met so far and by `x`, as `encode` made it.

        Returns:
            Units that are worth a line.

        Raises:
            UserError: a column is mostly of unknown categories, or in another unit.
        """
        problems = self._met.foreign_columns()
        noted, refused = fit.units(self._schema, x)
        if refused and not self._any_units:
            problems += [*refused[:-1], f"{refused[-1]} Convert it, or say --any-units"]
        if problems:
            raise fit.misfit(self._path, problems)
        return noted + refused

    def notes(self) -> list[str]:
        """What was handled, a line each."""
        return self._met.notes()

    def _numbers(
        self, column: Number, values: Sequence[str], first: int
    ) -> tuple[np.ndarray | float, list[str]]:
        """A column encoded, f64[rows], and what is wrong with it."""
        found = numbers(values)
        if found is None:
            row = next(row for row, value in enumerate(values) if numbers([value]) is None)
            comma = numbers([values[row].replace(",", ".")]) is not None
            expected = "a number with a decimal point" if comma else "a number"
            return 0.0, [_wrong(column, values, first, row, f"expected {expected}")]
        lacking = np.isnan(found)
        self._met.missing[column.name] += int(lacking.sum())
        found[lacking] = column.missing
        encoded = (found - column.mean) / column.scale
        far = np.abs(encoded)
        if far.max() < np.finfo(np.float32).max:
            return encoded, []
        return 0.0, [_wrong(column, values, first, int(far.argmax()), "which is too large")]

    def _categories(self, column: Category, values: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """i64[n] each: the rows that hold a category, and which."""
        codes = self._words(column.name, values, column.categories)
        if column.missing:
            codes[codes == _LACKING] = column.categories.index(column.missing)
        known = np.flatnonzero(codes >= 0)
        return known, codes[known]

    def _labels(self, piece: Piece) -> np.ndarray:
        values = piece.columns[self._places[self._schema.target]]
        codes = self._words(self._schema.target, values, self._schema.classes)
        return np.asarray(np.maximum(codes, -1), np.int32)

    def _words(self, name: str, values: Sequence[str], known: Sequence[str]) -> np.ndarray:
        """i64[rows]: where each value stands in `known`, or why it does not."""
        order = {text: place for place, text in enumerate(known)}
        counts = Counter(values)
        codes = {value: _code(value, order) for value in counts}
        for value, count in counts.items():
            if codes[value] == _LACKING:
                self._met.missing[name] += count
            elif codes[value] == _UNKNOWN:
                self._met.unknown.setdefault(name, Counter())[word(value)] += count
        return np.fromiter(map(codes.__getitem__, values), np.int64, len(values))


def _wrong(column: Number, values: Sequence[str], first: int, row: int, why: str) -> str:
    return f"column {column.name!r} holds {fit.listed([values[row]])} in row {first + row}, {why}"


def numbers(values: Sequence[str]) -> np.ndarray | None:
    """f64[rows], nan for a missing value; None when one of them is no number."""
    try:
        return np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        pass  # most columns have nothing missing, so the quick way is tried first
    try:
        found = (math.nan if is_missing(value) else float(value) for value in values)
        return np.fromiter(found, np.float64, len(values))
    except ValueError:
        return None


def is_missing(value: str) -> bool:
    """Whether this stands for no value."""
    return value.strip().lower() in MISSING


def word(value: str) -> str:
    """How a class or a category is written: `1.0` is what some programs make of `1`."""
    value = value.strip()
    return value[:-2] if re.fullmatch(r"-?\d+\.0", value) else value


def _code(value: str, order: dict[str, int]) -> int:
    for text in (value.strip(), word(value)):
        if text in order:
            return order[text]
    return _LACKING if is_missing(value) else _UNKNOWN


def clipped(x: np.ndarray) -> np.ndarray:
    """Encoded rows as the model takes them."""
    return np.asarray(np.clip(x, -CLIP, CLIP))


def read_rows(path: Path, schema: Schema, least: int, any_units: bool = False) -> tuple[Dataset, list[str]]:
    """A table with labels, to learn from or to judge by.

    Args:
        path: the file.
        schema: what the swarm agreed on.
        least: rows that must be there.
        any_units: whether numbers may lie anywhere.

    Returns:
        Its rows, and what was handled in reading them, a line each.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    table = open_table(path)
    encoder = Encoder(table, schema, True, any_units)
    pieces = [encoder.encode(piece) for piece in table.pieces()]
    x = np.concatenate([np.zeros((0, schema.features), np.float32), *(piece.x for piece in pieces)])
    y = np.concatenate([np.zeros(0, np.int32), *(piece.y for piece in pieces)])
    kept = y >= 0
    if kept.sum() < least:
        raise UserError(f"{path} has {kept.sum()} rows with a label, at least {least} are needed")
    notes = encoder.check(x) + encoder.notes()
    return Dataset(clipped(x[kept]), y[kept]), notes
