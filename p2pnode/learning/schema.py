"""What a swarm agrees on about a table: columns, classes, and how each becomes numbers.

It stands in the manifest, as names and constants; rows never do. The constants come from the file of
whoever created the swarm, so a value means the same to every node: a number is read as
`(value - mean) / scale`, a category as a one among zeros, and one that the manifest does not know as
zeros throughout. Columns are laid out in the order of their names, so their order in a file is of no
matter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from p2pnode.errors import UserError

MOST_CLASSES = 100
MOST_CATEGORIES = 64


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
        name: the column's.
        mean: what is taken off each value.
        scale: what it is then divided by, above zero.
        missing: the value that stands for a missing one.
    """

    name: str
    mean: float
    scale: float
    missing: float

    width = 1

    def options(self) -> dict[str, Any]:
        """As a manifest writes it."""
        return {"type": "number", "mean": self.mean, "scale": self.scale, "missing": self.missing}


@dataclass(frozen=True)
class Category:
    """A column of words, of which each is one thing or another.

    Attributes:
        name: the column's.
        categories: those that are told apart; all others are one to the model.
        missing: the one that stands for a missing value; empty for none of them.
    """

    name: str
    categories: tuple[str, ...]
    missing: str = ""

    @property
    def width(self) -> int:
        """Features that it takes."""
        return len(self.categories)

    def options(self) -> dict[str, Any]:
        """As a manifest writes it."""
        return {"type": "category", "categories": self.categories, "missing": self.missing}


Column = Number | Category


@dataclass(frozen=True)
class Schema:
    """A table as the model sees it.

    Attributes:
        target: the column to be predicted.
        classes: its values, in the order of the labels 0, 1, ...
        columns: all others, in the order of their names.
    """

    target: str
    classes: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def features(self) -> int:
        """Numbers that a row becomes."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """All that it uses, the target first."""
        return (self.target, *(column.name for column in self.columns))

    def options(self) -> dict[str, Any]:
        """As options of a task in a manifest."""
        columns = {column.name: column.options() for column in self.columns}
        return {"target": self.target, "classes": self.classes, "columns": columns}


def schema_of(target: Any, classes: Any, columns: Any) -> Schema:
    """The schema that the options of a manifest's task describe.

    Raises:
        UserError: they describe none; the message names the option.
    """
    if not (isinstance(target, str) and target):
        raise UserError(f"option target of task tabular must be the name of a column, not {target!r}")
    if not _are_words(classes, 2, MOST_CLASSES):
        raise UserError(
            f"option classes of task tabular must be 2 to {MOST_CLASSES} different texts, "
            f'e.g. ["no", "yes"], not {classes!r:.80}'
        )
    if not (isinstance(columns, Mapping) and columns):
        raise UserError("option columns of task tabular must be a table with an entry for each column")
    if target in columns:
        raise UserError(f"column {target!r} of task tabular is the target: take it out of the columns")
    made = tuple(_column(name, options) for name, options in sorted(columns.items()))
    return Schema(target, classes, made)


def _column(name: str, options: Any) -> Column:
    where = f"column {name!r} of task tabular"
    kind = options.get("type") if isinstance(options, Mapping) else None
    if kind not in ("number", "category"):
        raise UserError(f'{where}: expected a table with type = "number" or "category"')
    if kind == "number":
        _check_keys(where, options, ("type", "mean", "scale", "missing"))
        mean, scale, missing = (options[key] for key in ("mean", "scale", "missing"))
        if not (_is_number(mean) and _is_number(missing) and _is_number(scale) and scale > 0):
            raise UserError(f"{where}: mean, scale and missing must be numbers, scale above 0")
        return Number(name, float(mean), float(scale), float(missing))
    _check_keys(where, options, ("type", "categories", "missing"))
    categories, missing = options["categories"], options["missing"]
    if not _are_words(categories, 1, MOST_CATEGORIES):
        raise UserError(f"{where}: categories must be 1 to {MOST_CATEGORIES} different texts")
    if missing != "" and missing not in categories:
        raise UserError(f'{where}: missing must be one of its categories, or "" for none of them')
    return Category(name, categories, missing)


def _check_keys(where: str, given: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    for name in given:
        if name not in wanted:
            nearest = get_close_matches(name, wanted, n=1, cutoff=0.0)[0]
            raise UserError(f"{where}: unknown key {name!r}: did you mean {nearest!r}?")
    if missing := [name for name in wanted if name not in given]:
        raise UserError(f"{where} has no {', '.join(missing)}: write it out")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_words(values: object, least: int, most: int) -> bool:
    """Whether these are so many different texts, as they stand in a file: without white space around."""
    return (
        isinstance(values, tuple)
        and least <= len(values) <= most
        and all(isinstance(value, str) and value and value == value.strip() for value in values)
        and len(set(values)) == len(values)
    )
