"""What is inferred of a table, and what never leaves it."""

import json
from pathlib import Path

import pytest

from p2pnode.errors import UserError
from p2pnode.learning.infer import Proposal, infer
from p2pnode.learning.schema import Category, Number
from p2pnode.learning.table import open_table
from tests.learning.tables import Columns, patients, write


def inferred(
    folder: Path, columns: Columns, target: str = "outcome", ignore: tuple[str, ...] = ()
) -> Proposal:
    return infer(open_table(write(folder / "t.csv", columns)), target, ignore)


def test_types_constants_and_classes_are_inferred(tmp_path: Path) -> None:
    columns = {
        "age": ["20", "40", "", "60"] * 5,
        "sex": ["f", "m", "NA", "f"] * 5,
        "ill": ["1", "0", "1", "0"] * 5,
    }
    found = inferred(tmp_path, columns, "ill")
    assert found.schema.classes == ("0", "1")
    assert found.schema.columns == (Number("age", 40.0, 16.3299, 40.0), Category("sex", ("f", "m"), ""))
    assert found.rows == 20
    assert not found.ignored


def test_classes_are_the_same_however_a_program_writes_integers(tmp_path: Path) -> None:
    columns = {"age": ["1", "2"] * 20, "stage": ["10.0", "2", "2.0", "1"] * 10}
    assert inferred(tmp_path, columns, "stage").schema.classes == ("1", "2", "10")


def test_words_of_few_rows_stay_where_they_are(tmp_path: Path) -> None:
    columns = patients() | {
        "patient": [f"Jane Doe {row}" for row in range(60)],
        "doctor": ["Smith"] * 28 + ["Jones"] * 28 + ["Miller"] * 4,
        "note": ["x" * 65] * 60,
        "nothing": ["?"] * 60,
    }
    found = inferred(tmp_path, columns)
    assert found.ignored == {
        "patient": "it holds texts, most of them in fewer than 5 rows",
        "note": "it holds texts, most of them in fewer than 5 rows",
        "nothing": "it holds nothing",
    }
    assert {column.name: column for column in found.schema.columns}["doctor"] == Category(
        "doctor", ("Jones", "Smith")
    )
    written = json.dumps(found.schema.options())
    assert "Miller" not in written
    assert "Jane" not in written


def test_a_number_of_each_row_is_pointed_out_and_can_be_left_out(tmp_path: Path) -> None:
    columns = patients() | {"id": [str(1000 + row) for row in range(60)], "": [str(row) for row in range(60)]}
    found = inferred(tmp_path, columns)
    assert found.notes == [
        "column 'id' has another whole number in each row: if it only numbers them, say --ignore"
    ]
    left = inferred(tmp_path, columns, ignore=("id",))
    assert [column.name for column in left.schema.columns] == ["age", "dose", "ward"]
    assert left.ignored == {"id": "as asked"}
    assert not left.notes


def test_a_column_that_never_changes_is_not_divided_by_zero(tmp_path: Path) -> None:
    found = inferred(tmp_path, patients() | {"site": ["7"] * 60})
    assert {column.name: column for column in found.schema.columns}["site"] == Number("site", 7.0, 1.0, 7.0)


@pytest.mark.parametrize(
    ("columns", "target", "message"),
    [
        (patients(), "outcom", "has no column 'outcom': did you mean 'outcome'"),
        (patients(), "xyz", "has no column 'xyz': it has 'age', 'dose', 'ward', 'outcome'"),
        (patients() | {"outcome": ["good"] * 60}, "outcome", "holds 'good': at least two classes"),
        (patients() | {"outcome": [""] * 60}, "outcome", "holds nothing: at least two classes"),
        (patients(2000) | {"dose": [str(n) for n in range(2000)]}, "dose", "more than 100 different values"),
        ({"outcome": ["a", "b"] * 30}, "outcome", "has no column to predict 'outcome' from"),
        ({"age": [], "outcome": []}, "outcome", "has no rows"),
    ],
)
def test_a_table_that_nothing_can_be_learned_from_is_one_line(
    tmp_path: Path, columns: Columns, target: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        inferred(tmp_path, columns, target)
    assert "\n" not in str(raised.value)
