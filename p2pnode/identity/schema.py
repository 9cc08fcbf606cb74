"""Tables described once, by the fields of frozen dataclasses: read, checked and written from that.

A field is annotated with an `Entry`: what it means, what is expected of it, and a function that says
whether a value is that. A field that is itself such a dataclass is a table of its own, and one of
type `Options` is a table that somebody else understands; both are annotated with their meaning.
What is missing, unknown or out of range is then one line that names the key, and the file that is
written for a person explains every key in it.
"""

import json
import re
import reprlib
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as fields_of
from typing import Annotated, Any, NamedTuple, TypeVar, get_origin, get_type_hints

from p2pnode.errors import UserError

Scalar = bool | int | float | str
Options = Mapping[str, Any]
"""Scalars, tuples of scalars, and tables of them, which may hold tables once more."""

LARGEST_NUMBER = 2**53 - 1  # beyond it, neighbouring integers are one number to JSON (RFC 8785)
MOST_OPTIONS = 32
LARGEST_OPTIONS = 80 * 1024  # bytes of a table as JSON: describes some 900 columns of a table of data
_DEPTH = 2  # tables in tables of options
_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key that TOML reads without quotes
_OPTION_TEXT = 128  # characters: enough for two hashes

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What a person may write for one key.

    Attributes:
        meaning: for whoever edits the file: what it is, how to choose it, what a wrong value does.
        expected: ends the sentence "expected ...".
        fits: whether a value is that.
    """

    meaning: str
    expected: str
    fits: Callable[[Any], bool]


def integer(low: int, high: int, meaning: str) -> Entry:
    """Return the key of an integer from `low` to `high`."""
    return Entry(meaning, f"an integer from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def number(low: float, high: float, meaning: str) -> Entry:
    """Return the key of a number from `low` to `high`. NaN is in no range."""
    return Entry(
        meaning, f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high
    )


def text(low: int, high: int, meaning: str) -> Entry:
    """Return the key of one line of `low` to `high` printable characters: safe to show in a terminal."""
    return Entry(
        meaning,
        f"one line of {low} to {high} printable characters",
        lambda v: isinstance(v, str) and low <= len(v) <= high and v.isprintable(),
    )


def one_of(names: tuple[str, ...], meaning: str) -> Entry:
    """Return the key of one of `names`, which a later version may have more of."""
    known = " or ".join(f'"{name}"' for name in names)
    return Entry(meaning, f"{known} (others need a newer p2pnode)", lambda v: v in names)


_SCALAR = Entry(
    "",
    f"true, false, a number within +-{LARGEST_NUMBER} or one line of at most {_OPTION_TEXT} characters",
    lambda v: (
        type(v) is bool
        or number(-LARGEST_NUMBER, LARGEST_NUMBER, "").fits(v)
        or text(0, _OPTION_TEXT, "").fits(v)
    ),
)
_OPTION = Entry(
    "",
    f"{_SCALAR.expected}, or a list of such",
    lambda v: all(map(_SCALAR.fits, v)) if isinstance(v, tuple) else _SCALAR.fits(v),
)
_NAME = text(1, _OPTION_TEXT, "")


class _Field(NamedTuple):
    name: str
    kind: Any
    about: Any  # an Entry, or the meaning of a table

    @property
    def is_table(self) -> bool:
        return not isinstance(self.about, Entry)


def _fields(kind: type) -> Iterator[_Field]:
    """Yield the annotated fields of a dataclass, in order: single keys before tables, as in TOML."""
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        _Field(name, hint.__origin__, hint.__metadata__[0])
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    ]
    yield from sorted(fields, key=lambda field: field.is_table)


def read(kind: type[T], table: object, where: str = "", *, defaults: bool = False) -> T:
    """Make a `kind` of a parsed table, `where` being its name with a dot, if it has one.

    Args:
        kind: a dataclass.
        table: what was parsed.
        where: begins the names of keys in messages.
        defaults: whether keys may be missing that have a default in `kind`.

    Raises:
        UserError: keys are missing or unknown. Values are not looked at: see `check`.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where.rstrip('.')}: expected a table, found {_shown(table)}")
    fields = list(_fields(kind))
    for name in sorted(table.keys() - {field.name for field in fields}):
        raise UserError(f"{where}{name[:40]!a}: unknown key; it is misspelt, or needs a newer p2pnode")
    optional = _with_defaults(kind) if defaults else frozenset[str]()
    values = {}
    for name, wanted, about in fields:
        if name in table:
            nested = is_dataclass(wanted) and isinstance(wanted, type)
            value = table[name]
            inner = f"{where}{name}."
            values[name] = read(wanted, value, inner, defaults=defaults) if nested else _plain(value)
        elif name not in optional:
            raise UserError(f"{where}{name}: missing key; expected {_expected(about)}")
    return kind(**values)


def _with_defaults(kind: Any) -> frozenset[str]:
    missing = (MISSING, MISSING)
    return frozenset(f.name for f in fields_of(kind) if (f.default, f.default_factory) != missing)


def check(record: object, where: str = "") -> None:
    """Look at every value in `record`, whoever made it.

    Raises:
        UserError: a value is not what its key expects.
    """
    for name, _, about in _fields(type(record)):
        value = getattr(record, name)
        if isinstance(about, Entry):
            _check_value(value, about, where + name)
        elif is_dataclass(value):
            check(value, f"{where}{name}.")
        else:
            _check_options(value, where + name)


def toml(record: object, where: str = "") -> str:
    """Write `record` as TOML for a person, each key with its meaning above it."""
    lines = []
    for name, _, about in _fields(type(record)):
        value = getattr(record, name)
        if isinstance(about, Entry):
            lines += [_comment(about.meaning), _assignment(name, value), ""]
        else:
            lines += [_comment(about)]
            if is_dataclass(value):
                lines += [f"[{where}{name}]", "", toml(value, f"{where}{name}.")]
            else:
                lines += _options_toml(value, where + name)
    return "\n".join(lines)


def _options_toml(options: Options, where: str) -> list[str]:
    """A table of options: its scalars and lists, then its tables with a line for each of their entries."""
    tables = {name: value for name, value in options.items() if isinstance(value, Mapping)}
    single = [_assignment(name, value) for name, value in options.items() if name not in tables]
    lines = [f"[{where}]", *single, ""]
    for name, table in tables.items():
        lines += [f"[{where}.{name}]", *(_assignment(*entry) for entry in table.items()), ""]
    return lines


def _check_options(options: Any, where: str) -> None:
    if not isinstance(options, Mapping) or len(options) > MOST_OPTIONS:
        raise UserError(f"{where}: expected a table of at most {MOST_OPTIONS} options")
    for name, value in options.items():
        if not (isinstance(name, str) and _OPTION_NAME.fullmatch(name)):
            raise UserError(f"{where}: {_shown(name)} is no name: expected e.g. hidden_units")
        _check_option(value, f"{where}.{name}", _DEPTH)
    size = len(json.dumps(options, ensure_ascii=False, separators=(",", ":")).encode())
    if size > LARGEST_OPTIONS:
        raise UserError(f"{where}: takes {size} bytes, at most {LARGEST_OPTIONS} have room in a manifest")


def _check_option(value: Any, where: str, depth: int) -> None:
    if not (depth and isinstance(value, Mapping)):
        _check_value(value, _OPTION, where)
        return
    for name, inner in value.items():
        if not _NAME.fits(name):
            raise UserError(f"{where}: {_shown(name)} is no name: expected {_NAME.expected}")
        _check_option(inner, f"{where}.{_key(name)}", depth - 1)


def _check_value(value: object, key: Entry, where: str) -> None:
    if not key.fits(value):
        raise UserError(f"{where}: expected {key.expected}, found {_shown(value)}")


def _expected(about: Entry | str) -> str:
    return about.expected if isinstance(about, Entry) else "a table"


def _plain(value: Any, depth: int = _DEPTH + 1) -> Any:
    """Bring a parsed value into the form it has after RFC 8785 JSON: keys in order, 1 for 1.0.

    What is nested too deeply stays as it is, for `check` to refuse.
    """
    if isinstance(value, dict) and depth:
        return {name: _plain(inner, depth - 1) for name, inner in sorted(value.items())}
    return tuple(map(_whole, value)) if isinstance(value, list) else _whole(value)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a very large integer"


def _comment(meaning: str) -> str:
    return textwrap.fill(meaning, width=100, initial_indent="# ", subsequent_indent="# ")


def _assignment(name: str, value: object) -> str:
    """One line of TOML: for printable text, numbers, booleans and lists of them the same as JSON."""
    if isinstance(value, Mapping):
        return f"{_key(name)} = {{{', '.join(_assignment(*entry) for entry in value.items())}}}"
    return f"{_key(name)} = {json.dumps(value, ensure_ascii=False)}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
