"""A task in a person's own file: what runs is what was hashed, and mistakes in it are one line each."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from p2pnode.errors import UserError
from p2pnode.identity.manifest import Manifest
from p2pnode.learning import own, registry
from p2pnode.learning.own import Own
from tests.learning.made import exchange
from tests.learning.tasks_in_files import WHOLE, write
from tests.learning.test_registry import manifest as built_in


def loaded(text: str) -> Own:
    return own.run(own.read(text))


def manifest(of: Own) -> Manifest:
    """Of a swarm with this task."""
    made = built_in(**registry.defaults(of) | {"codec": "int8"})
    return replace(made, task=replace(made.task, name=of.task.name))


def mistake(text: str) -> str:
    """The one line that loading it ends with."""
    with pytest.raises(UserError) as raised:
        loaded(text)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_manifest_names_the_file_by_its_hash_and_the_parameters_by_their_layout(tmp_path: Path) -> None:
    found = loaded(write(tmp_path))
    assert found.task.name == "lines"
    assert found.options() == {
        "file": "mymodel.py:task",
        "sha256": hashlib.sha256(WHOLE.encode()).hexdigest(),
        "layout": found.layout().digest().hex(),
    }
    assert found.layout().names == ("body", "head", "seen")
    assert found.layout().size == 6


def test_a_learner_of_an_own_task_averages_what_is_shared_and_nothing_else(tmp_path: Path) -> None:
    found = loaded(write(tmp_path))
    learner = registry.build(manifest(found), found)
    rows = found.task.load()[0]
    nodes = [learner.end_round(learner.steps(learner.init(node), rows, 5)[0]) for node in range(2)]
    heads = [np.array(state.private["head"]) for state in nodes]
    nodes = list(exchange(learner, nodes[0], nodes[1]))
    np.testing.assert_allclose(nodes[0].params, nodes[1].params, atol=0.05)  # as int8 writes them
    for state, head in zip(nodes, heads, strict=True):
        np.testing.assert_array_equal(state.private["head"], head)
    assert not np.array_equal(heads[0], heads[1])


def test_the_task_may_be_what_a_function_returns(tmp_path: Path) -> None:
    path = write(tmp_path, 'task = Task("lines",', 'def net():\n    return Task("lines",')
    assert loaded(f"{path}:net").task.name == "lines"
    assert str(own.read(f"{path}:net")) == "mymodel.py:net"


def test_loading_changes_no_path_and_leaves_no_bytecode(tmp_path: Path) -> None:
    before = list(sys.path)
    loaded(write(tmp_path))
    assert sys.path == before
    assert "mymodel" not in sys.modules
    assert [file.name for file in tmp_path.iterdir()] == ["mymodel.py"]


def test_what_runs_is_what_was_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    source = own.read(path)
    Path(path).write_text("raise RuntimeError")
    assert own.run(source).task.name == "lines"


def test_dataclasses_in_a_file_find_their_module(tmp_path: Path) -> None:
    dataclass = 'from dataclasses import dataclass\nimport jax\n\n@dataclass\nclass A:\n    b: "int" = 0\n'
    assert loaded(write(tmp_path, "import jax\n", dataclass)).task.name == "lines"


@pytest.mark.parametrize(
    ("text", "found"),
    [("digits", False), ("breast-cancer", False), ("a.py", True), ("a/b.c.py:net", True), ("a.py:", True)],
)
def test_a_file_is_told_from_a_task_that_ships(text: str, found: bool) -> None:
    assert own.is_file(text) is found


# --- a person's mistakes ---


def test_a_file_that_is_not_there_is_named() -> None:
    assert mistake("absent.py") == "cannot read absent.py: No such file or directory"


def test_what_is_no_python_file_is_named() -> None:
    assert "--task model.txt: expected a Python file and a name in it" in mistake("model.txt")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def init(key):", "def init(key:", "line 9: SyntaxError: '(' was never closed"),
        (
            "import numpy as np",
            "import numpi",
            "line 3: ModuleNotFoundError: No module named 'numpi': a task is one",
        ),
        ("def init(key):", "1 / 0\n\ndef init(key):", "line 9: ZeroDivisionError: division by zero"),
        ("def init(key):", "raise SystemExit('no')\ndef init(key):", "line 9: SystemExit: no"),
        ("def init(key):", "raise ValueError('a\\nb')\ndef init(key):", "line 9: ValueError: a"),
        ("task = Task", "tasks = Task", "mymodel.py has no 'task' in it: did you mean tasks?"),
        ("task = Task", "print", "mymodel.py has no 'task' in it: let it end with task = Task(...)"),
        (
            "task = Task",
            "task = 3; other = Task",
            "is int, expected a p2pnode.learning.task.Task or a function",
        ),
        ("task = Task", "task = init; other = Task", "mymodel.py: TypeError: init() missing 1 required"),
        ("task = Task", "task = lambda: 3; other = Task", "task in "),
        ("loss, metrics, load", "3, metrics, load", "loss of task in "),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    said = mistake(write(tmp_path, old, new))
    assert says in said
    assert "mymodel.py" in said


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_bytes(b"task = '\xff\x00'")
    assert "mymodel.py" in mistake(str(tmp_path / "mymodel.py"))


@pytest.mark.parametrize("function", ["init", "loss", "metrics", "load", "shared"])
def test_what_a_function_raises_later_is_the_same_kind_of_line(tmp_path: Path, function: str) -> None:
    head = next(line for line in WHOLE.splitlines() if line.startswith(f"def {function}("))
    found = loaded(write(tmp_path, head, f"{head}\n    {{}}['oops']"))
    number = WHOLE.splitlines().index(head) + 2
    params = batch = jax.random.key(0)
    arguments = {"init": (params,), "loss": (params, batch, params), "metrics": (params, batch), "load": ()}
    with pytest.raises(UserError, match=rf"mymodel\.py, line {number}: KeyError: 'oops'"):
        jax.eval_shape(getattr(found.task, function), *arguments.get(function, (params,)))


def test_parameters_that_cannot_be_averaged_are_named(tmp_path: Path) -> None:
    found = loaded(write(tmp_path, '"seen": False}', '"seen": True}'))
    with pytest.raises(UserError, match=r"mymodel\.py: task lines shares seen, which is int32: only floats"):
        found.options()


# --- whether it is the swarm's ---


def test_without_the_file_a_joiner_is_told_what_to_get(tmp_path: Path) -> None:
    found = loaded(write(tmp_path))
    with pytest.raises(UserError) as raised:
        registry.build(manifest(found))
    assert str(raised.value) == (
        f"this swarm's task is in a file mymodel.py (sha256 {found.source.sha256}): "
        "get it from whom you trust and add --task mymodel.py:task"
    )


def test_another_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    found = loaded(write(tmp_path))
    other = loaded(write(tmp_path, "(200, 3)", "(201, 3)"))
    with pytest.raises(UserError, match=rf"has sha256 {other.source.sha256}, .* {found.source.sha256}: get"):
        registry.build(manifest(found), other)


def test_another_name_in_the_same_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "task = Task", "task = net = Task")
    with pytest.raises(UserError, match=r"has another name in that file: say --task .*mymodel\.py:net"):
        registry.build(manifest(loaded(f"{path}:net")), loaded(path))


def test_a_file_for_a_task_that_ships_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task is digits, which p2pnode brings: leave --task away"):
        registry.build(built_in("digits"), loaded(write(tmp_path)))


def test_other_parameters_from_the_same_file_are_refused(tmp_path: Path) -> None:
    found = loaded(write(tmp_path))
    elsewhere = replace(
        found, task=replace(found.task, init=lambda key: {**found.task.init(key), "body": key})
    )
    wanted = manifest(found)
    options = {**wanted.task.options, "layout": "0" * 64}
    wanted = replace(wanted, task=replace(wanted.task, options=options))
    with pytest.raises(UserError, match="makes other parameters here than the manifest says"):
        registry.build(wanted, found)
    with pytest.raises(UserError, match="shares body"):
        elsewhere.layout()


def test_two_files_never_have_one_layout_digest(tmp_path: Path) -> None:
    """A node compares it in the first hello: another file would compute something else."""
    one, other = (loaded(write(tmp_path, "(200, 3)", f"({rows}, 3)")) for rows in (200, 300))
    assert one.layout().digest() == other.layout().digest()
    assert registry.build(manifest(one), one).layout != registry.build(manifest(other), other).layout
