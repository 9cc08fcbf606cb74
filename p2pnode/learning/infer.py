"""What a table looks like: the schema that whoever creates a swarm proposes to all others.

Only names and constants leave the file. A column of words is told apart only by words that several
rows share, so that nobody's name or number gets into the manifest; a column without any is left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from p2pnode.errors import UserError
from p2pnode.identity.schema import LARGEST_NUMBER
from p2pnode.learning import fit
from p2pnode.learning.encode import is_missing, numbers, word
from p2pnode.learning.schema import MOST_CATEGORIES, MOST_CLASSES, Category, Column, Number, Schema
from p2pnode.learning.table import Table

SHARED = 5
"""Rows that a word must be in to become a category."""

LONGEST_WORD = 64
"""Characters of a category; what is longer is prose."""


@dataclass(frozen=True)
class Proposal:
    """A schema, and what a person should know of how it came about.

    Attributes:
        schema: inferred.
        rows: of the table.
        ignored: columns that are left out, and why.
        notes: what to look at, a line each.
    """

    schema: Schema
    rows: int
    ignored: dict[str, str]
    notes: list[str]


def infer(table: Table, target: str, ignore: Sequence[str] = ()) -> Proposal:
    """The schema of a table.

    Args:
        table: of the swarm's author.
        target: the column to be predicted.
        ignore: columns to leave out.

    Raises:
        UserError: there is no such column, or nothing to learn in the table.
    """
    for name in (target, *ignore):
        if name not in table.names:
            near = get_close_matches(name, table.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {fit.listed(filter(None, table.names))}"
            raise UserError(f"{table.path} has no column {name!r}: {hint}")
    ignored = dict.fromkeys(ignore, "as asked")
    names = [name for name in table.names if name and name != target and name not in ignored]
    classes, found, rows = _first_pass(table, target, names)
    words = _count_words(table, [name for name in names if name not in found])
    columns: list[Column] = []
    notes: list[str] = []
    for name in names:
        column = _number(name, found[name]) if name in found else _category(name, words[name])
        if isinstance(column, str):
            ignored[name] = column
            continue
        columns.append(column)
        if name in found and rows >= fit.ENOUGH and _is_a_count(found[name]):
            notes.append(
                f"column {name!r} has another whole number in each row: if it only numbers them, say --ignore"
            )
    if not columns:
        raise UserError(f"{table.path} has no column to predict {target!r} from")
    ordered = tuple(sorted(columns, key=lambda column: column.name))
    return Proposal(Schema(target, classes, ordered), rows, ignored, notes)


def _first_pass(
    table: Table, target: str, names: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, np.ndarray], int]:
    """The classes, the columns of numbers and the number of rows."""
    place = {name: table.names.index(name) for name in (target, *names)}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    counts: Counter[str] = Counter()
    rows = 0
    for piece in table.pieces():
        rows += len(piece.columns[0])
        counts.update(piece.columns[place[target]])
        if len(counts) > 10 * MOST_CLASSES:
            raise _too_many_classes(table, target)
        for name in tuple(parts):
            part = numbers(piece.columns[place[name]])
            if part is None:
                del parts[name]
            else:
                parts[name].append(part)
    if not rows:
        raise UserError(f"{table.path} has no rows")
    return _classes(table, target, counts), {name: np.concatenate(part) for name, part in parts.items()}, rows


def _classes(table: Table, target: str, counts: Counter[str]) -> tuple[str, ...]:
    classes = sorted({word(value) for value in counts if not is_missing(value)})
    if len(classes) > MOST_CLASSES:
        raise _too_many_classes(table, target)
    if len(classes) < 2:
        only = fit.listed(classes) or "nothing"
        raise UserError(f"column {target!r} of {table.path} holds {only}: at least two classes are needed")
    if all(value.lstrip("-").isdecimal() for value in classes):
        classes.sort(key=int)
    return tuple(classes)


def _too_many_classes(table: Table, target: str) -> UserError:
    return UserError(
        f"column {target!r} of {table.path} holds more than {MOST_CLASSES} different values: "
        "what is predicted must be a class, not a measure"
    )


def _count_words(table: Table, names: Sequence[str]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    if names:
        for piece in table.pieces():
            for name in names:
                for value, count in Counter(piece.columns[table.names.index(name)]).items():
                    if not is_missing(value):
                        counts[name][word(value)] += count
    return counts


def _number(name: str, values: np.ndarray) -> Number | str:
    """A column of numbers, or why it is none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "it holds nothing"
    if not np.abs(values).max() <= LARGEST_NUMBER:
        return "it holds numbers that are too large"
    mean, deviation = float(values.mean()), float(values.std())
    scale = deviation if deviation > 1e-9 * abs(mean) else 1.0
    return Number(name, _short(mean), _short(scale), _short(float(np.median(values))))


def _category(name: str, counts: Counter[str]) -> Category | str:
    """A column of words, or why it is none."""
    shared = sorted(value for value, count in counts.items() if count >= SHARED and _is_word(value))
    if 2 * sum(counts[value] for value in shared) <= counts.total():
        return f"it holds texts, most of them in fewer than {SHARED} rows"
    if len(shared) > MOST_CATEGORIES:
        return f"it holds {len(shared)} different texts, at most {MOST_CATEGORIES} are told apart"
    return Category(name, tuple(shared))


def _is_word(value: str) -> bool:
    return len(value) <= LONGEST_WORD and value.isprintable()


def _is_a_count(values: np.ndarray) -> bool:
    return len(np.unique(values)) == len(values) and bool((values == np.round(values)).all())


def _short(value: float) -> float:
    """Six digits: enough for a scale, and readable in a manifest."""
    return float(f"{value:.6g}")
