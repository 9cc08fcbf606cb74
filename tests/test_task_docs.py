"""What docs/TASKS.md says holds: its example, its table, its commands, its snippets."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import equinox
import jax
import pytest

from p2pnode.cli.main import COMMANDS, p2pnode
from p2pnode.learning import own, registry
from p2pnode.learning.check import STEPS, check
from p2pnode.learning.task import Task
from tests.learning.tasks_in_files import WHOLE

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "TASKS.md").read_text()
EXAMPLE = DOCS / "examples" / "digits_cnn.py"


def test_the_example_is_on_the_page_and_short() -> None:
    text = EXAMPLE.read_text()
    assert f"```python\n{text}```" in PAGE
    assert len(text.splitlines()) < 60


def test_the_example_passes_its_check() -> None:
    report = check(own.run(own.read(str(EXAMPLE))).task)
    assert report.findings == ()
    assert report.layout is not None and report.layout.size == 810


def test_the_table_has_every_field_of_a_task() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert named == [field.name for field in fields(Task)]


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Every option of a command and of those under it."""
    for parameter in command.params:
        yield from parameter.opts
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            under = command.get_command(context, name)
            assert under is not None
            yield from options(under, context)


def test_every_option_on_the_page_exists() -> None:
    context = click.Context(p2pnode)
    commands = [p2pnode.get_command(context, name) for name in COMMANDS.keys() & {"task", "swarm", "join"}]
    known = {option for command in commands if command for option in options(command, context)}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known


def test_the_settings_on_the_page_are_those_that_are_written() -> None:
    generic = registry.GENERIC
    said = (
        f"`{generic['optimizer']}` with a learning rate of {generic['learning_rate']}, "
        f"{generic['steps']} steps a round, {generic['rounds']} rounds."
    )
    assert said in " ".join(PAGE.split())
    assert f"a loss that {STEPS} steps did not lower" in " ".join(PAGE.split())


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "mymodel.py"
    path.write_text(WHOLE)
    return path


def test_the_snippet_on_private_leaves_makes_a_private_head(whole: Path) -> None:
    [snippet] = re.findall(r"```python\n(def shared.*?)```", PAGE, re.DOTALL)
    before = 'def shared(params):\n    return {"body": True, "head": False, "seen": False}\n'
    assert before in WHOLE
    whole.write_text(WHOLE.replace(before, snippet).replace(', "seen": jnp.int32(0)', ""))
    report = check(own.run(own.read(str(whole))).task)
    assert report.findings == ()
    assert report.layout is not None
    assert report.layout.names == ("body", "head")
    assert report.layout.shared == (True, False)


def test_a_module_with_other_leaves_is_split_as_the_page_says() -> None:
    assert "eqx.partition(model, eqx.is_array)" in " ".join(PAGE.split())
    assert "`eqx.combine(params, static)`" in PAGE
    model = equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_array)
    assert all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(params))
    assert equinox.combine(params, static)(jax.numpy.ones(3)).shape == (2,)
