"""Tables in files: the same text whatever the kind of file, and one line for what is no table."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from p2pnode.errors import UserError
from p2pnode.learning import table
from p2pnode.learning.table import Table, open_table
from tests.learning.tables import patients, write


def read(path: Path) -> dict[str, list[str]]:
    return columns(open_table(path))


def columns(opened: Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in opened.names}
    for piece in opened.pieces():
        for name, values in zip(opened.names, piece.columns, strict=True):
            found[name] += values
    return found


def saved(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_usual_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    wanted = patients() | {"note": ['a, "b"; c\td\ne'] * 60}
    assert read(write(tmp_path / "t.csv", wanted, delimiter)) == wanted


def test_a_byte_order_mark_blank_lines_and_white_space_around_names_are_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", "\ufeff age , sex\r\n1,f\r\n\r\n2,m\r\n".encode())
    assert read(path) == {"age": ["1", "2"], "sex": ["f", "m"]}


def test_a_table_is_read_in_pieces_that_know_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ROWS", 25)
    opened = open_table(write(tmp_path / "t.csv", patients(60)))
    pieces = list(opened.pieces())
    assert [piece.first for piece in pieces] == [1, 26, 51]
    assert [len(piece.columns[0]) for piece in pieces] == [25, 25, 10]
    assert pieces[-1].done == 1.0
    assert columns(opened) == columns(opened) == patients(60)


def test_arrays_and_parquet_are_the_same_table(tmp_path: Path) -> None:
    wanted = {"age": ["30", "41"], "dose": ["0.5", "nan"], "sex": ["f", "m"]}
    np.savez(tmp_path / "t.npz", age=[30, 41], dose=[0.5, np.nan], sex=["f", "m"])
    assert read(tmp_path / "t.npz") == wanted
    made = pyarrow.table({"age": [30, 41], "dose": [0.5, None], "sex": ["f", "m"]})
    parquet.write_table(made, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {**wanted, "dose": ["0.5", ""]}


def test_an_array_of_rows_is_a_column_for_each_feature(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=[[1, 2], [3, 4]], y=[0, 1])
    assert read(tmp_path / "t.npz") == {"x0": ["1", "3"], "x1": ["2", "4"], "y": ["0", "1"]}


def test_without_pyarrow_parquet_is_a_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"needs `pip install 'p2pnode\[parquet\]'`; or save the table as CSV"
    ):
        open_table(saved(tmp_path / "t.parquet", b"PAR1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "t.csv is empty"),
        ("t.xlsx", "x", "expected a table in a .csv, .npz or .parquet file: save it as CSV"),
        ("t.csv", "1,2\n3,4\n", "begins with '1, 2': its first line must name the columns"),
        ("t.csv", "\n1,2\n", "must name the columns"),
        ("t.csv", "a,b,a\n1,2,3\n", "has two columns 'a': rename one of them"),
        ("t.csv", "a,b\n1,2\n3\n", "row 2 has 1 values, the first line names 2 columns"),
        ("t.csv", "a,b\n1,2\n\n3,4,5\n", "row 2 has 3 values"),
        ("t.csv", b"a,b\n1,\xe9\n", "is not text in UTF-8: save it as CSV in UTF-8"),
        ("t.csv", b"\x89PNG\r\n\x1a\n", "is not text in UTF-8"),
        (
            "t.csv",
            'a,b\n1,"2\n' + 50_000 * "3,4\n",
            "is no CSV file .*: look for a quote that is never closed",
        ),
        ("t.npz", "a,b\n", "is no .npz file"),
        ("t.parquet", "a,b\n", "is no whole Parquet file"),
        ("t.parquet", b"PAR1" + bytes(50) + b"PAR1", "is no whole Parquet file"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(saved(tmp_path / name, content))
    assert "\n" not in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3), "b": np.zeros(4)}, "have different numbers of rows: 3, 4"),
        ({"a": np.zeros((3, 2, 2))}, "must be numbers or text, a row for each case; it is float64"),
        ({"a": np.zeros(3, "M8[s]")}, "must be numbers or text"),
    ],
)
def test_arrays_that_are_no_table_are_said_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        open_table(tmp_path / "t.npz")


@pytest.mark.parametrize("unreadable", [lambda path: None, Path.mkdir])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, unreadable: Callable[[Path], None]) -> None:
    unreadable(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"cannot read .*t\.csv"):
        open_table(tmp_path / "t.csv")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(UserError, match="larger than 1 GiB"):
        open_table(tmp_path / "t.csv")
