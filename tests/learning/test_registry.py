"""From the names in a manifest to a learner."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from p2pnode.errors import UserError
from p2pnode.identity.manifest import Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
from p2pnode.learning import registry
from p2pnode.learning.tasks.mlp import auc
from tests.learning.test_datasets import SHIPPED


def manifest(task: str = "breast-cancer", parameters: int = 10**6, **changed: Any) -> Manifest:
    """The defaults of `task`, with what is `changed`."""
    chosen = registry.defaults(task, described=changed.pop("described", None)) | changed
    return Manifest(
        version=1,
        name="test",
        task=TaskSpec(task, chosen["task_options"]),
        rule=RuleSpec(chosen["rule"], chosen["codec"], chosen["rule_options"]),
        training=Training(
            seed=chosen.get("seed", 0),
            **{
                key: chosen[key]
                for key in ("optimizer", "learning_rate", "batch_size", "steps", "rounds", "overlap")
            },
        ),
        admission=Admission(),
        bounds=Bounds(parameters=parameters, peers=8),
    )


@pytest.mark.parametrize("task", SHIPPED)
def test_the_defaults_of_every_shipped_task_make_a_learner(task: str) -> None:
    learner = registry.build(manifest(task))
    train, test = learner.task.load()
    assert learner.task.name == task
    assert learner.size == sum(leaf.size for leaf in jax.tree.leaves(learner.task.init(jax.random.key(0))))
    assert len(train.y) > 3 * len(test.y) > 100


@pytest.mark.parametrize("optimizer", registry.OPTIMIZERS)
def test_every_optimizer_learns(optimizer: str) -> None:
    learner = registry.build(manifest(optimizer=optimizer, learning_rate=0.01))
    train, test = learner.task.load()
    state, _ = learner.steps(learner.init(1), train, 100)
    found = learner.evaluate(state, test)
    assert float(found["accuracy"]) > 0.85
    assert 0.9 < float(found["auc"]) <= 1.0


def test_the_layout_digest_covers_rule_codec_and_options() -> None:
    plain = registry.build(manifest()).layout
    assert registry.build(manifest()).layout == plain
    assert registry.build(manifest(seed=1, learning_rate=0.3)).layout == plain
    others = [
        registry.build(manifest(codec="float32")).layout,
        registry.build(manifest(rule="average", rule_options={})).layout,
        registry.build(manifest(rule_options={"beta": 0.5, "correction": 0.0, "average": 0.8})).layout,
        registry.build(manifest(task_options={"hidden": 9})).layout,
        registry.build(manifest("digits")).layout,
    ]
    assert len({plain, *others}) == 6


def test_an_integer_is_as_good_as_a_float_for_an_option() -> None:
    options = {"correction": 0.0, "average": 0.8}
    one, other = (registry.build(manifest(rule_options={"beta": beta, **options})) for beta in (0, 0.0))
    assert one.layout == other.layout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rule": "momentun"}, "unknown rule 'momentun': did you mean 'momentum'"),
        ({"codec": "int9"}, "unknown codec 'int9': did you mean 'int8'"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm': did you mean 'adam'"),
        (
            {"task_options": {"hiden": 3}},
            "unknown option of task breast-cancer 'hiden': did you mean 'hidden'",
        ),
        (
            {"rule": "average", "rule_options": {"beta": 0.5}},
            "unknown option of rule average 'beta': there are none",
        ),
        ({"task_options": {"hidden": 0}}, "hidden of task breast-cancer must be an integer from 1 to"),
        ({"task_options": {"hidden": 3.0}}, "must be an integer"),
        ({"task_options": {"hidden": True}}, "must be an integer"),
        ({"rule_options": {"beta": 1.0}}, "beta of rule momentum must be a number from 0"),
        ({"rule_options": {"beta": "much"}}, "must be a number"),
        (
            {"rule_options": {"beta": 0.5}},
            "rule momentum has no average, correction in its options: write it out",
        ),
        ({"parameters": 100}, "the swarm's bound is 100"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        registry.build(manifest(**changed))
    assert "\n" not in str(raised.value)


def test_an_unknown_task_has_no_defaults() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        registry.defaults("digit")


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores = jnp.array([0.1, 0.4, 0.4, 0.8])
    logits = jnp.stack([jnp.zeros(4), scores], axis=1)
    assert float(auc(logits, jnp.array([0, 0, 1, 1]))) == pytest.approx(3.5 / 4)
    assert float(auc(logits, jnp.array([1, 1, 1, 1]))) == 0.5
