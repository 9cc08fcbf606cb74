"""Whether a person's table is the kind of table that the swarm learns from, and where it is not.

Names are compared before anything is read. Units are judged after it, column by column: whoever has
grams where the swarm has kilograms holds numbers a thousand times as large, or as small, which shows in
how far they lie from the swarm's mean, or in how far they spread. Both are measured in the swarm's scale,
too wide by the middle half of the numbers and too narrow by all of them, so that one slip of a pen, or a
disease that is rare in one place, is no other unit.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from p2pnode.errors import UserError
from p2pnode.learning.schema import Column, Number, Schema

NOTED, REFUSED = 5.0, 50.0
"""Scales between a column's median and the swarm's mean."""

NOTED_RATIO, REFUSED_RATIO = 10.0, 300.0
"""Between a column's spread and the swarm's scale, one way or the other."""

QUARTILES, RANGE = 1.35, 4.0
"""Deviations between the quartiles of normal numbers, and at least between the ends of a few dozen."""

ENOUGH = 20
"""Rows from which on a column as a whole is judged."""

SHOWN = 5
"""Differences named in one line."""


def misfit(path: Path, problems: Sequence[str]) -> UserError:
    """What to raise for a table with these differences."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return UserError(f"{path} does not fit the swarm's table: {'; '.join([*problems[:SHOWN], *more])}")


def places(path: Path, names: Sequence[str], schema: Schema, labelled: bool) -> dict[str, int]:
    """Where each column that is wanted stands among `names`.

    Args:
        path: of the table, for the message.
        names: of the table's columns.
        schema: what the swarm agreed on.
        labelled: whether the target is wanted too.

    Raises:
        UserError: some are missing; columns of nearly the same name are suggested.
    """
    wanted = [column.name for column in schema.columns] + [schema.target] * labelled
    spare = {_bare(name): name for name in names if name and name not in wanted}
    problems = []
    for name in wanted:
        if name not in names:
            near = get_close_matches(_bare(name), spare, n=1)
            hint = f" (is {spare[near[0]]!r} meant? Rename it)" if near else ""
            problems.append(f"column {name!r} is missing{hint}")
    if problems:
        raise misfit(path, problems)
    return {name: names.index(name) for name in wanted}


def _bare(name: str) -> str:
    """A name's words in order, so that `Radius_mean` is near `mean radius`."""
    return " ".join(sorted(re.findall(r"[^\W_]+", name.lower())))


def units(schema: Schema, x: np.ndarray) -> tuple[list[str], list[str]]:
    """Columns of numbers that seem to be in another unit than the swarm's.

    Args:
        schema: what the swarm agreed on.
        x: f32[rows, features], encoded and not clipped.

    Returns:
        What is worth a line, and what is beyond belief.
    """
    noted: list[str] = []
    refused: list[str] = []
    place = 0
    for column in schema.columns if len(x) >= ENOUGH else ():
        if isinstance(column, Number):
            encoded = x[:, place].astype(np.float64)
            lower, middle, upper = np.quantile(encoded, (0.25, 0.5, 0.75))
            wide, narrow = (upper - lower) / QUARTILES, np.ptp(encoded) / RANGE
            ratio = max(wide, 1 / narrow if narrow else 0.0)
            if abs(middle) > REFUSED or ratio > REFUSED_RATIO:
                refused.append(_unit(column, encoded))
            elif abs(middle) > NOTED or ratio > NOTED_RATIO:
                noted.append(_unit(column, encoded))
        place += column.width
    return noted, refused


def _unit(column: Number, encoded: np.ndarray) -> str:
    middle, spread = float(np.median(encoded)), float(encoded.std())
    own = f"{column.mean + middle * column.scale:.4g} ± {spread * column.scale:.4g}"
    theirs = f"{column.mean:.4g} ± {column.scale:.4g}"
    return f"column {column.name!r} holds about {own}, the swarm's {theirs}: is it in another unit?"


@dataclass
class Met:
    """What was met in a table and is no reason to refuse it by itself.

    Attributes:
        schema: what the swarm agreed on.
        extra: columns that it does not use; empty names are columns without one.
        rows: read so far.
        missing: values, by column; of the target: rows without a label.
        unknown: words that the swarm does not know, counted, by column.
    """

    schema: Schema
    extra: tuple[str, ...]
    rows: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)

    def foreign_classes(self) -> list[str]:
        """What is wrong with the target, if anything is."""
        unknown, target = self.unknown.get(self.schema.target), self.schema.target
        classes = listed(self.schema.classes)
        return [f"column {target!r} holds {listed(unknown)}, the classes are {classes}"] if unknown else []

    def foreign_columns(self) -> list[str]:
        """Columns of which most rows hold what the swarm does not know."""
        return [
            f"column {name!r} holds mostly {_commonest(words)}, which the swarm does not know"
            for name, words in self.unknown.items()
            if self.rows >= ENOUGH and 2 * words.total() > self.rows - self.missing[name]
        ]

    def notes(self) -> list[str]:
        """A line on each thing, most of them on a column."""
        named = [name for name in self.extra if name]
        lines = [f"not used by the swarm and ignored: {listed(named)}"] if named else []
        if "" in self.extra:
            lines.append(f"ignored: columns without a name ({self.extra.count('')})")
        lines += [
            f"column {column.name!r}: {_share(count, self.rows)} missing, taken as {_stand_in(column)}"
            for column in self.schema.columns
            if (count := self.missing[column.name])
        ]
        lines += [
            f"column {name!r}: {_share(words.total(), self.rows)} unknown to the swarm, taken as none of its "
            f"categories: {_commonest(words)}"
            for name, words in self.unknown.items()
        ]
        if count := self.missing[self.schema.target]:
            lines.append(f"column {self.schema.target!r}: {_share(count, self.rows)} missing, rows left out")
        return lines


def _stand_in(column: Column) -> str:
    return f"{column.missing:g}" if isinstance(column, Number) else column.missing or "none"


def _share(count: int, rows: int) -> str:
    return f"{count} of {rows} values"


def _commonest(words: Counter[str]) -> str:
    return listed(word for word, _ in words.most_common())


def listed(words: Iterable[str]) -> str:
    """Some words as one reads them, the first few of many."""
    words = list(words)
    shown = ", ".join(repr(word) if len(word) <= 40 else f"{word[:40]!r}..." for word in words[:SHOWN])
    return f"{shown} and {len(words) - SHOWN} more" if len(words) > SHOWN else shown
