"""From the names in a manifest to compiled functions.

Each table below is the one list of what a name may be; what a manifest leaves to tasks and rules as
opaque options is checked here, against the options that the named one declares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

import optax
import rfc8785

from p2pnode.errors import UserError
from p2pnode.identity.manifest import Manifest
from p2pnode.learning.compress import CODECS
from p2pnode.learning.layout import layout_of
from p2pnode.learning.learner import Learner, compiled
from p2pnode.learning.own import Own, is_own, task_of
from p2pnode.learning.recipe import Recipe
from p2pnode.learning.rules.aged import aged
from p2pnode.learning.rules.average import average
from p2pnode.learning.rules.averaged import averaged
from p2pnode.learning.rules.choco import choco
from p2pnode.learning.rules.diloco import diloco
from p2pnode.learning.rules.epidemic import epidemic
from p2pnode.learning.rules.fragments import fragments
from p2pnode.learning.rules.gasloc import gasloc
from p2pnode.learning.rules.momentum import momentum
from p2pnode.learning.rules.noloco import noloco
from p2pnode.learning.rules.push_sum import push_sum
from p2pnode.learning.rules.rule import Rule
from p2pnode.learning.rules.sparse import sparse
from p2pnode.learning.rules.sparta import sparta
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.breast_cancer import breast_cancer
from p2pnode.learning.tasks.digits import digits
from p2pnode.learning.tasks.fashion import fashion
from p2pnode.learning.tasks.images import PIXELS, images
from p2pnode.learning.tasks.loans import loans
from p2pnode.learning.tasks.shakespeare import shakespeare
from p2pnode.learning.tasks.tabular import tabular
from p2pnode.learning.tasks.wearables import wearables

T = TypeVar("T")
Number = int | float


@dataclass(frozen=True)
class Option:
    """A number that a manifest may set: its default (whose type it must have) and its range."""

    default: Number
    low: Number
    high: Number

    def fits(self, value: object) -> bool:
        """Whether `value` is in range and of the right type; an integer may stand for a float."""
        types = (int,) if isinstance(self.default, int) else (int, float)
        return type(value) in types and self.low <= value <= self.high  # type: ignore[operator]


@dataclass(frozen=True)
class Entry:
    """Something with options.

    Attributes:
        build: makes it; takes the options as keyword arguments.
        options: numbers, by name.
        described: options that say what the data look like. They have no defaults, and `build` checks them.
    """

    build: Callable[..., Any]
    options: Mapping[str, Option]
    described: tuple[str, ...] = ()


TASKS: Mapping[str, Entry] = {
    "digits": Entry(digits, {"hidden": Option(32, 1, 2**18)}),
    "breast-cancer": Entry(breast_cancer, {"hidden": Option(16, 1, 2**18)}),
    "tabular": Entry(tabular, {"hidden": Option(32, 0, 2**18)}, ("target", "classes", "columns")),
    "fashion": Entry(fashion, {"hidden": Option(64, 1, 2**18)}),
    "loans": Entry(
        loans, {"hidden": Option(32, 0, 2**18), "term": Option(1, 0, 1), "every": Option(0, 0, 1)}
    ),
    "shakespeare": Entry(
        shakespeare, {"heads": Option(4, 1, 32), "layers": Option(2, 1, 24), "groups": Option(8, 1, 200)}
    ),
    "wearables": Entry(wearables, {"hidden": Option(32, 0, 2**18)}),
    **{name: Entry(partial(images, name), {"hidden": Option(128, 1, 2**18)}) for name in PIXELS},
}


def _rule(build: Callable[..., Rule], options: Mapping[str, Option], average: float = 0.0) -> Entry:
    """A rule that may be seen through a running average."""
    return Entry(partial(averaged, build), {**options, "average": Option(average, 0.0, 0.999)})


RULES: Mapping[str, Entry] = {
    "average": Entry(average, {}),
    "momentum": _rule(
        momentum, {"beta": Option(0.9, 0.0, 0.999), "correction": Option(0.35, 0.0, 0.99)}, average=0.9
    ),
    "noloco": _rule(
        noloco,
        {"alpha": Option(0.5, 0.0, 0.999), "beta": Option(0.7, 0.0, 2.0), "gamma": Option(0.7, 0.0, 1.0)},
    ),
    "gasloc": _rule(
        gasloc,
        {"eta": Option(0.7, 0.0, 2.0), "alpha": Option(1.0, 0.0, 1.0), "gamma": Option(0.5, 0.0, 0.999)},
    ),
    "diloco": _rule(diloco, {"rate": Option(0.7, 0.0, 2.0), "beta": Option(0.9, 0.0, 0.999)}),
    "sparta": _rule(sparta, {"density": Option(0.005, 1e-4, 1.0)}),
    "fragments": _rule(fragments, {"parts": Option(8, 1, 10_000)}),
    "sparse": _rule(
        sparse,
        {"beta": Option(0.95, 0.0, 1.0), "alpha": Option(1.0, 0.0, 2.0), "parts": Option(32, 1, 10_000)},
    ),
    "aged": _rule(aged, {"power": Option(1.0, 0.0, 4.0)}),
    "push-sum": Entry(push_sum, {"pushes": Option(1, 1, 64), "phases": Option(0, 0, 64)}),
    "epidemic": Entry(epidemic, {}),
    "choco": Entry(choco, {"gamma": Option(0.5, 1e-6, 1.0)}),
}
OPTIMIZERS: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
}


SHORT: Mapping[str, Mapping[str, Number]] = {"momentum": {"beta": 0.8, "average": 0.8}}
"""Options of rules for a hundred rounds or fewer: momentum and the running average must get going sooner."""

# Found with 4 nodes, Dirichlet 0.3, partition seeds 0..4: each node's settled accuracy on the test set is
# then at most 0.02 below that of training on all rows in one place for as many steps. Tabular: with three
# nodes that hold 55, 30 and 15 % of three small tables; more steps learn some hundred rows by heart.
# Fashion: docs/RESULTS.md. Shakespeare: of .0005 to .003, with 8 nodes; Adam needs less momentum beside its
# own. The others: the best of a few rates for training on all rows in one place.
TUNED: Mapping[str, Mapping[str, Any]] = {
    "digits": {"learning_rate": 0.5, "steps": 5, "rounds": 80, "rule_options": SHORT},
    "breast-cancer": {"learning_rate": 0.3, "steps": 5, "rounds": 40, "rule_options": SHORT},
    "tabular": {"learning_rate": 0.01, "steps": 10, "rounds": 100, "rule_options": SHORT},
    "fashion": {"learning_rate": 0.2, "steps": 5, "rounds": 400},
    "loans": {"learning_rate": 0.3, "steps": 10, "rounds": 200},
    "shakespeare": {
        "optimizer": "adam",
        "learning_rate": 0.001,
        "steps": 20,
        "rounds": 100,
        "rule_options": {"momentum": {"beta": 0.6, "average": 0.8}},
    },
    "wearables": {"optimizer": "adam", "learning_rate": 0.003, "steps": 10, "rounds": 100},
    "fashion-full": {"learning_rate": 0.1, "steps": 20, "rounds": 200},
    "mnist": {"learning_rate": 0.1, "steps": 20, "rounds": 200},
    "cifar10": {"learning_rate": 0.03, "steps": 20, "rounds": 200},
}
# For models that nobody has tried yet: Adam learns something at one rate whatever the scale of the loss.
GENERIC: Mapping[str, Any] = {"optimizer": "adam", "learning_rate": 1e-3, "steps": 10, "rounds": 200}


def build(manifest: Manifest, own: Own | None = None) -> Learner:
    """Everything that a swarm's nodes compute, compiled: see `recipe`."""
    return compiled(recipe(manifest, own))


def recipe(manifest: Manifest, own: Own | None = None, simulated: bool = False) -> Recipe:
    """What a swarm's nodes compute.

    Args:
        manifest: of the swarm.
        own: the task in a person's own file, for a swarm whose task is in one.
        simulated: the nodes are virtual, so that rules may be such as no node can follow.

    Raises:
        UserError: an unknown name or option, one that is missing, a value out of range, a model
            beyond the bounds, another file than the manifest's, or a rule for simulations only.
    """
    training = manifest.training
    task: Task
    rule: Rule
    if own or is_own(manifest.task):
        task, task_options = task_of(manifest.task, own), dict(manifest.task.options)
    else:
        task, task_options = _made("task", manifest.task.name, TASKS, manifest.task.options)
    rule, rule_options = _made("rule", manifest.rule.name, RULES, manifest.rule.options)
    if not (rule.on_nodes or simulated):
        raise UserError(
            f"rule {rule.name} is for simulations only: try it with p2pnode simulate, or take another"
        )
    optimizer = known("optimizer", training.optimizer, OPTIMIZERS)(training.learning_rate)
    codec = known("codec", manifest.rule.codec, CODECS)()
    layout = layout_of(task)
    if layout.size > manifest.bounds.parameters:
        raise UserError(
            f"task {task.name} has {layout.size} shared parameters, the swarm's bound is "
            f"{manifest.bounds.parameters}: raise bounds.parameters or make the model smaller"
        )
    agreed = (rule.name, rule_options, codec.name, task.name, task_options)
    return Recipe(task, layout, rule, codec, optimizer, agreed, training.seed, training.batch_size)


def defaults(
    task: str | Own, rule: str = "momentum", described: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings that were found good for `task` with `rule`, as a new manifest writes them out.

    Args:
        task: its name, or one from a person's own file.
        rule: its name.
        described: the options of the task that describe its data.

    Raises:
        UserError: no such task or rule, or a task whose data nobody described.
    """
    rule_entry = known("rule", rule, RULES)
    tuned, task_options = (
        (GENERIC, task.options()) if isinstance(task, Own) else _tuned(task, described or {})
    )
    options = {name: option.default for name, option in rule_entry.options.items()}
    return {
        "rule": rule,
        "codec": "int4",
        "optimizer": "sgd",
        "batch_size": 32,
        "overlap": 0,
        **tuned,
        "task_options": task_options,
        "rule_options": {**options, **tuned.get("rule_options", {}).get(rule, {})},
    }


def _tuned(task: str, described: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    entry = known("task", task, TASKS)
    if described.keys() != set(entry.described):
        raise UserError(
            f"task {task} learns from a table of yours: say --from-data FILE --target COLUMN"
            if entry.described
            else f"task {task} brings its own data: leave --from-data away"
        )
    return TUNED[task], {**{name: option.default for name, option in entry.options.items()}, **described}


def _made(
    kind: str, name: str, table: Mapping[str, Entry], given: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What `name` stands for, built, and its options."""
    entry = known(kind, name, table)
    options = checked(f"{kind} {name}", entry, given)
    # As text for the layout digest, in which 1 and 1.0 would be two things.
    described = {name: rfc8785.dumps(options[name]).decode() for name in entry.described}
    return entry.build(**options), options | described


def checked(of: str, entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options `given` to `entry`, all there and in range, or a UserError that names `of`."""
    for name, value in given.items():
        option = known(f"option of {of}", name, {**entry.options, **dict.fromkeys(entry.described)})
        if option and not option.fits(value):
            kind = "an integer" if isinstance(option.default, int) else "a number"
            raise UserError(
                f"option {name} of {of} must be {kind} from {option.low} to {option.high}, not {value!r}"
            )
    # Nothing is filled in here: another version's default would be another model under one swarm id.
    if missing := {*entry.options, *entry.described} - given.keys():
        raise UserError(f"{of} has no {', '.join(sorted(missing))} in its options: write it out")
    return {
        name: type(entry.options[name].default)(value) if name in entry.options else value
        for name, value in given.items()
    }


def known(kind: str, name: str, table: Mapping[str, T]) -> T:
    """What `name` stands for, or a UserError with the nearest name."""
    if name in table:
        return table[name]
    nearest = get_close_matches(name, table, n=1, cutoff=0.0)
    hint = (
        f"did you mean {nearest[0]!r}? It can be {', '.join(sorted(table))}" if nearest else "there are none"
    )
    raise UserError(f"unknown {kind} {name!r}: {hint}")
