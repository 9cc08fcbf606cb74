"""Three hospitals with the README open: five commands from three tables to predictions."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2pnode.events import Settled
from p2pnode.learning.model import auc
from tests.cli.run import LOOPBACK, Program
from tests.learning.tables import rows, tumours, write

Start = Callable[..., Program]

pytestmark = pytest.mark.slow

CUTS = {"a": slice(0, 250), "b": slice(250, 390), "c": slice(390, None)}
"""Rows of each, of the 456 that are not in the common file."""

GOAL = 0.99

SEED = 0
"""Of the swarm, and so of what each holds back. That is 7 to 25 rows, where two of them in the wrong order
cost up to 0.1: a model of all rows in one place reaches the goal in all three for three seeds in four."""


def test_three_hospitals_reach_the_goal_with_five_commands(start: Start, tmp_path: Path) -> None:
    table = tumours()
    common = write(tmp_path / "common.csv", rows(table, slice(4, None, 5)))
    rest = {
        name: [value for row, value in enumerate(values) if row % 5 != 4] for name, values in table.items()
    }
    files = {name: write(tmp_path / f"{name}.csv", rows(rest, cut)) for name, cut in CUTS.items()}
    write(files["b"], rows(rest, CUTS["b"]) | {"doctor": ["Smith"] * 140})

    swarm = tmp_path / "tumours.toml"
    table_of = ("--from-data", files["a"], "--target", "diagnosis")
    created = start("swarm", "create", swarm, *table_of, "--seed", SEED)
    assert created.code() == 0, created.errors
    words = ("--data-dir", "data", "--wait-peers", 2, "--wait", 600, "--listen", LOOPBACK, "--no-mdns")
    first = start("join", swarm, "--data", files["a"], *words, name="a")
    peer = ("--peer", first.address)
    nodes = [first, *(start("join", swarm, "--data", files[name], *words, *peer, name=name) for name in "bc")]
    for node in nodes:
        assert node.code() == 0, node.errors
    assert "not used by the swarm and ignored: 'doctor'" in nodes[1].errors

    found = {}
    for name, node in zip("abc", nodes, strict=True):
        settled = node.events(Settled)[0][1]
        assert settled.counted == 3
        predicted = start(
            "predict", node.data, "--input", common, "--output", "out.csv", name=f"predict-{name}"
        )
        assert predicted.code() == 0, predicted.errors
        evaluated = start("evaluate", node.data, "--data", common, "--json")
        assert evaluated.code() == 0, evaluated.errors
        found[name] = (settled.metrics["holdout_auc"], json.loads(evaluated.output)["metrics"]["auc"])
        assert score(tmp_path / f"predict-{name}" / "out.csv") == pytest.approx(found[name][1], abs=1e-3)
    print(f"AUC on the hold-out and on the common file: {found}")  # noqa: T201 - figures, with pytest -s
    assert min(min(pair) for pair in found.values()) >= GOAL, found


def score(path: Path) -> float:
    """AUC of the predictions in a file, which say how likely the predicted class is."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    shares = [(float(line["probability"]), line["predicted_diagnosis"] == "malignant") for line in lines]
    scores = np.array([share if malignant else 1 - share for share, malignant in shares])
    return auc(scores, np.array([line["diagnosis"] == "malignant" for line in lines], np.int32))
