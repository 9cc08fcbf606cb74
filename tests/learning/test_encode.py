"""A table's rows as numbers, and each way in which a table may differ from what the swarm agreed on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2pnode.errors import UserError
from p2pnode.learning import table
from p2pnode.learning.data import Dataset
from p2pnode.learning.encode import read_rows
from p2pnode.learning.schema import Category, Number, Schema
from tests.learning.tables import Columns, patients, schema, write

DOSE = "swarm's 5.225 ± 1.013"
SMALL = Schema("ill", ("no", "yes"), (Number("age", 40.0, 20.0, 60.0), Category("sex", ("f", "m"), "m")))


def encoded(
    folder: Path, columns: Columns, wanted: Schema = SMALL, **options: bool
) -> tuple[Dataset, list[str]]:
    return read_rows(write(folder / "ward7.csv", columns), wanted, 1, **options)


def changed(name: str, change: Callable[[list[str]], list[str]]) -> Columns:
    columns = patients()
    return columns | {name: change(columns[name])}


def test_a_number_is_scaled_a_category_is_one_hot_and_labels_follow_the_classes(tmp_path: Path) -> None:
    columns = {"age": ["40", "60", ""], "sex": ["f", "m", "NA"], "ill": ["no", "yes", "yes"]}
    rows, _ = encoded(tmp_path, columns)
    np.testing.assert_array_equal(rows.x, [[0, 1, 0], [1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(rows.y, [0, 1, 1])
    assert (rows.x.dtype, rows.y.dtype) == (np.float32, np.int32)


def test_the_order_of_the_columns_and_the_length_of_the_pieces_are_of_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, columns = schema(tmp_path), patients()
    rows, notes = encoded(tmp_path, columns, wanted)
    swapped = {name: columns[name] for name in reversed(columns)}
    monkeypatch.setattr(table, "ROWS", 7)
    same, _ = encoded(tmp_path, swapped, wanted)
    np.testing.assert_array_equal(rows.x, same.x)
    np.testing.assert_array_equal(rows.y, same.y)
    assert not notes


def test_one_slip_of_a_pen_is_cut_off_and_no_other_unit(tmp_path: Path) -> None:
    rows, notes = encoded(tmp_path, changed("age", lambda ages: ["99999", *ages[1:]]), schema(tmp_path))
    assert rows.x.max() == 10.0
    assert not notes


def test_what_is_rare_or_never_changes_in_one_place_is_no_other_unit(tmp_path: Path) -> None:
    wanted = Schema("ill", ("no", "yes"), (Number("fever", 0.5, 0.5, 0.0), Number("site", 3.0, 2.0, 3.0)))
    columns = {"fever": ["0"] * 9_999 + ["1"], "site": ["4"] * 10_000, "ill": ["no", "yes"] * 5_000}
    assert not encoded(tmp_path, columns, wanted)[1]


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (
            patients() | {"fax": ["1"] * 60, "blood": ["A"] * 60},
            "not used by the swarm and ignored: 'fax', 'blood'",
        ),
        (patients() | {"": ["1"] * 60}, "ignored: columns without a name (1)"),
        (
            changed("age", lambda ages: ["", "NA", *ages[2:]]),
            "column 'age': 2 of 60 values missing, taken as 57.5",
        ),
        (
            changed("ward", lambda wards: ["?", *wards[1:]]),
            "column 'ward': 1 of 60 values missing, taken as none",
        ),
        (
            changed("ward", lambda wards: ["attic"] * 3 + wards[3:]),
            "column 'ward': 3 of 60 values unknown to the swarm, taken as none of its categories: 'attic'",
        ),
        (
            changed("outcome", lambda ill: ["", *ill[1:]]),
            "column 'outcome': 1 of 60 values missing, rows left out",
        ),
        (
            changed("dose", lambda doses: [str(10 * float(dose)) for dose in doses]),
            "column 'dose' holds about 52.96 ± 10.13, the swarm's 5.225 ± 1.013: is it in another unit?",
        ),
    ],
)
def test_what_can_be_handled_is_handled_and_noted(tmp_path: Path, columns: Columns, note: str) -> None:
    _, notes = encoded(tmp_path, columns, schema(tmp_path))
    assert notes == [note]


def test_categories_are_the_same_however_a_program_writes_integers(tmp_path: Path) -> None:
    wanted = Schema("ill", ("0", "1"), (Category("stage", ("1", "2")),))
    rows, notes = encoded(tmp_path, {"stage": ["1.0", "2", " 2.0"], "ill": ["0.0", "1.0", "1"]}, wanted)
    np.testing.assert_array_equal(rows.x, [[1, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(rows.y, [0, 1, 1])
    assert not notes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"Age": ["1"], "Dose_mg": ["1"], "ward": ["east"], "outcome": ["bad"]},
            "'age' is missing (is 'Age' meant? Rename it); column 'dose' is missing (is 'Dose_mg' meant?",
        ),
        (
            {"ward": ["east"]},
            "column 'age' is missing; column 'dose' is missing; column 'outcome' is missing",
        ),
        (
            changed("age", lambda ages: [*ages[:6], "old", *ages[7:]]),
            "column 'age' holds 'old' in row 7, expected a number",
        ),
        (
            changed("dose", lambda doses: ["3,14", *doses[1:]]),
            "'3,14' in row 1, expected a number with a decimal point",
        ),
        (
            changed("age", lambda ages: ["inf", *ages[1:]]),
            "column 'age' holds 'inf' in row 1, which is too large",
        ),
        (changed("age", lambda ages: ["1e300", *ages[1:]]), "'1e300' in row 1, which is too large"),
        (
            changed("age", lambda ages: ["?"] * 59 + ["x"]) | {"dose": ["y"] * 60},
            "column 'age' holds 'x' in row 60, expected a number; column 'dose' holds 'y' in row 1",
        ),
        (
            changed("outcome", lambda ill: ["dead", *ill[1:]]),
            "column 'outcome' holds 'dead', the classes are 'bad', 'good'",
        ),
        (changed("outcome", lambda ill: [""] * 60), "has 0 rows with a label, at least 1 are needed"),
        (
            changed("ward", lambda wards: ["1", "2"] * 30),
            "column 'ward' holds mostly '1', '2', which the swarm does not know",
        ),
        (
            changed("dose", lambda doses: [str(1000 * float(dose)) for dose in doses]),
            f"'dose' holds about 5296 ± 1013, the {DOSE}: is it in another unit? Convert it, or say --any",
        ),
        (
            changed("dose", lambda doses: [str(float(dose) / 1000) for dose in doses]),
            "column 'dose' holds about 0.005296 ± 0.001013, the swarm's 5.225 ± 1.013",
        ),
        ({name: [] for name in patients()}, "has 0 rows with a label"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, columns: Columns, message: str) -> None:
    with pytest.raises(UserError) as raised:
        encoded(tmp_path, columns, schema(tmp_path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_unit_is_taken_from_whoever_insists(tmp_path: Path) -> None:
    columns = changed("dose", lambda doses: [str(1000 * float(dose)) for dose in doses])
    _, notes = encoded(tmp_path, columns, schema(tmp_path), any_units=True)
    assert "is it in another unit?" in notes[0]


def test_many_differences_stay_one_line(tmp_path: Path) -> None:
    wanted = Schema("y", ("0", "1"), tuple(Number(f"c{n:03}", 0.0, 1.0, 0.0) for n in range(200)))
    with pytest.raises(UserError, match=r"column 'c004' is missing; and 196 more$"):
        encoded(tmp_path, {"z": ["1"]}, wanted)


def test_ten_thousand_rows_are_read_as_they_are(tmp_path: Path) -> None:
    columns = patients(10_000)
    rows, notes = encoded(tmp_path, columns, schema(tmp_path))
    assert rows.x.shape == (10_000, 5)
    assert rows.y.sum() == columns["outcome"].count("good")
    assert not notes
