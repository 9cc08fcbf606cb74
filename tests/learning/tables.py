"""Tables as hospitals write them, made up: age, dose and ward say something about the outcome."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from p2pnode.learning.data import bundled
from p2pnode.learning.infer import infer
from p2pnode.learning.schema import Schema
from p2pnode.learning.table import open_table

Columns = dict[str, list[str]]


def patients(rows: int = 60, seed: int = 0) -> Columns:
    """A small table, by columns."""
    random = np.random.default_rng(seed)
    age, dose = random.integers(20, 90, rows), random.normal(5.0, 1.0, rows).round(3)
    ward = np.array(["east", "north", "west"])[random.integers(0, 3, rows)]
    risk = (age - 55) / 20 + (dose - 5.0) + (ward == "north")
    return {
        "age": [str(value) for value in age],
        "dose": [str(value) for value in dose],
        "ward": list(ward),
        "outcome": ["bad" if value > 0.3 else "good" for value in risk],
    }


def write(path: Path, columns: Mapping[str, Sequence[str]], delimiter: str = ",") -> Path:
    """Write a table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter=delimiter)
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))
    return path


def schema(folder: Path, rows: int = 60) -> Schema:
    """What is inferred of `patients`."""
    return infer(open_table(write(folder / "author.csv", patients(rows))), "outcome").schema


def tumours() -> Columns:
    """The breast cancer data as a table, named as they are usually named."""
    measures = ["radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"]
    measures += ["concave points", "symmetry", "fractal dimension"]
    names = [f"mean {name}" for name in measures]
    names += [f"{name} error" for name in measures] + [f"worst {name}" for name in measures]
    data = bundled("wdbc")
    columns = {
        name: [f"{value:.6g}" for value in column] for name, column in zip(names, data.x.T, strict=True)
    }
    return columns | {"diagnosis": [("malignant", "benign")[label] for label in data.y]}


def rows(columns: Columns, chosen: slice) -> Columns:
    """Only some rows of a table."""
    return {name: values[chosen] for name, values in columns.items()}
