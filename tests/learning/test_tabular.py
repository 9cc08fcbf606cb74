"""The task whose model follows from a table."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.errors import UserError
from p2pnode.identity.manifest import load_manifest, write_manifest
from p2pnode.learning import registry
from p2pnode.learning.encode import read_rows
from p2pnode.learning.model import auc, of_arrays, of_checkpoint
from p2pnode.learning.schema import schema_of
from tests.learning.tables import patients, schema, write
from tests.learning.test_registry import manifest

NUMBER = {"type": "number", "mean": 1, "scale": 2.5, "missing": 0}
CATEGORY = {"type": "category", "categories": ("a", "b"), "missing": ""}
GOOD: dict[str, Any] = {"target": "y", "classes": ("0", "1"), "columns": {"n": NUMBER, "c": CATEGORY}}


def described(**changed: Any) -> Any:
    return manifest("tabular", described=GOOD | changed)


@pytest.mark.parametrize(("hidden", "size"), [(0, 3 * 2 + 2), (5, 3 * 5 + 5 + 5 * 2 + 2)])
def test_the_model_has_a_feature_for_each_number_and_each_category(hidden: int, size: int) -> None:
    made = manifest("tabular", task_options=GOOD | {"hidden": hidden}, described=GOOD)
    assert registry.build(made).size == size


def test_the_layout_digest_covers_the_table_however_it_is_written(tmp_path: Path) -> None:
    made = described()
    write_manifest(tmp_path / "s.toml", made)
    layout = registry.build(made).layout
    assert registry.build(load_manifest(tmp_path / "s.toml")).layout == layout
    floats = NUMBER | {"mean": 1.0, "missing": 0.0}
    assert registry.build(described(columns={"n": floats, "c": CATEGORY})).layout == layout
    assert registry.build(described(columns={"n": NUMBER | {"mean": 2}, "c": CATEGORY})).layout != layout
    assert registry.build(described(classes=("1", "0"))).layout != layout


def test_a_schema_survives_the_manifest(tmp_path: Path) -> None:
    wanted = schema(tmp_path)
    write_manifest(tmp_path / "s.toml", manifest("tabular", described=wanted.options()))
    options = dict(load_manifest(tmp_path / "s.toml").task.options)
    assert options.pop("hidden") == 32
    assert schema_of(**options) == wanted


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": 3}, "option target of task tabular must be the name of a column, not 3"),
        ({"classes": ("0",)}, "option classes of task tabular must be 2 to 100 different texts"),
        ({"classes": ("0", "0")}, "option classes"),
        ({"classes": (0, 1)}, "option classes"),
        ({"classes": "01"}, "option classes"),
        ({"classes": ("a", " b")}, "option classes"),
        ({"columns": {}}, "option columns of task tabular must be a table"),
        ({"columns": 3}, "option columns"),
        ({"columns": {"y": NUMBER}}, "column 'y' of task tabular is the target"),
        (
            {"columns": {"n": 3}},
            'column \'n\' of task tabular: expected a table with type = "number" or "category"',
        ),
        ({"columns": {"n": NUMBER | {"type": "numbr"}}}, "expected a table with type"),
        ({"columns": {"n": NUMBER | {"scale": 0}}}, "scale above 0"),
        ({"columns": {"n": NUMBER | {"scale": "1"}}}, "must be numbers"),
        ({"columns": {"n": NUMBER | {"mean": True}}}, "must be numbers"),
        ({"columns": {"n": NUMBER | {"men": 1}}}, "unknown key 'men': did you mean 'mean'"),
        (
            {"columns": {"n": {"type": "number", "mean": 1}}},
            "column 'n' of task tabular has no scale, missing",
        ),
        ({"columns": {"c": CATEGORY | {"categories": ()}}}, "categories must be 1 to 64 different texts"),
        ({"columns": {"c": CATEGORY | {"missing": "z"}}}, "missing must be one of its categories"),
    ],
)
def test_what_describes_no_table_is_told_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        registry.build(described(**changed))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_must_be_described_and_only_there() -> None:
    with pytest.raises(UserError, match="task tabular learns from a table of yours: say --from-data FILE"):
        registry.defaults("tabular")
    with pytest.raises(UserError, match="task digits brings its own data: leave --from-data away"):
        registry.defaults("digits", described=GOOD)
    with pytest.raises(UserError, match="task tabular has no classes, columns in its options"):
        registry.build(manifest("tabular", task_options={"hidden": 3, "target": "y"}, described=GOOD))
    with pytest.raises(UserError, match="join it with --data FILE"):
        registry.build(described()).task.load()


def test_a_model_predicts_what_its_metrics_say(tmp_path: Path) -> None:
    wanted = schema(tmp_path, 400)
    learner = registry.build(manifest("tabular", described=wanted.options()))
    rows, _ = read_rows(write(tmp_path / "t.csv", patients(400)), wanted, 1)
    state, _ = learner.steps(learner.init(0), rows, 300)
    state = learner.end_round(state)
    metrics = {name: float(value) for name, value in learner.evaluate(state, rows).items()}
    assert metrics["auc"] > 0.95

    model = of_checkpoint(
        learner, learner.pack(state) | {"round": np.array(1), "taken": np.array(300)}, False
    )
    assert model.score(rows) == pytest.approx(metrics, abs=1e-5)
    chances = model.probabilities(rows.x)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-5)
    again = of_arrays(learner.task, model.arrays())
    np.testing.assert_array_equal(again.probabilities(rows.x[:3]), chances[:3])
    with pytest.raises(ValueError, match=r"0/biases is missing or of another shape"):
        of_arrays(learner.task, {})


def test_a_settled_state_is_another_learners(tmp_path: Path) -> None:
    learner = registry.build(described())
    settled, convert = learner.settle()
    saved = settled.pack(convert(learner.init(0)))
    model = of_checkpoint(learner, saved, True)
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(model.params)])
    np.testing.assert_array_equal(flat, learner.view(learner.init(0)))
    with pytest.raises(ValueError, match=r"missing|another"):
        of_checkpoint(learner, saved, False)


def test_auc_on_the_host_is_the_share_of_pairs_in_the_right_order() -> None:
    y = np.array([0, 0, 1, 1], np.int32)
    assert auc(np.array([0.1, 0.4, 0.4, 0.8]), y) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(np.array([0.1, 0.4]), np.array([1, 1], np.int32)))
