"""What `--help` says: every option its unit and default, and how a command ends."""

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from p2pnode.cli.main import p2pnode
from p2pnode.cli.options import TASKS
from p2pnode.learning import registry
from tests.cli.run import ROOT

KINDS = {"TEXT", "INTEGER", "FLOAT", "PATH", "INTEGER RANGE", "FLOAT RANGE"}
"""What click writes after an option of which nobody said what it is, or is counted in."""


def options(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Option]]:
    """Every option of a command and of those below it, with the words that lead there."""
    for option in command.get_params(context):
        if isinstance(option, click.Option) and "--help" not in option.opts:
            yield f"{context.command_path} {option.opts[-1]}", option
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, f"{name} is listed and not there"
            yield from options(below, click.Context(below, parent=context, info_name=name))


def every_option() -> list[tuple[str, click.Option]]:
    return list(options(p2pnode, click.Context(p2pnode, info_name="p2pnode")))


def takes_value(option: click.Option) -> bool:
    return not (option.is_flag or option.count)


def test_every_option_says_its_unit_or_kind() -> None:
    context = click.Context(p2pnode)
    silent = [
        f"{words}: give it a metavar, such as SECONDS, ROUNDS, FILE or ADDRESS"
        for words, option in every_option()
        if takes_value(option) and option.make_metavar(context).strip("[]<>") in KINDS
    ]
    assert not silent, "\n".join(silent)


def test_every_option_says_its_default() -> None:
    silent = []
    for words, option in every_option():
        help_ = option.get_help_record(click.Context(p2pnode))
        said = "" if help_ is None else help_[1]
        if not said:
            silent.append(f"{words}: has no help")
        elif takes_value(option) and "[default: " not in said and "required]" not in said:
            silent.append(f"{words}: show_default=True, or write [default: …] at the end of its help")
    assert not silent, "\n".join(silent)


def test_help_says_how_commands_end() -> None:
    assert p2pnode.epilog is not None
    for code in ("0 ", "1 ", "2 ", "130/143 "):
        assert f"\n    {code}" in p2pnode.epilog


def test_help_names_every_task_that_brings_its_data() -> None:
    named = re.findall(r"[a-z][a-z0-9-]+", TASKS)
    assert [name for name in named if name in registry.TASKS] == [
        name for name, entry in registry.TASKS.items() if not entry.described
    ]
    told = [
        option.help or ""
        for words, option in every_option()
        if words.endswith((" demo --task", " create --task"))
    ]
    assert len(told) == 2 and all(TASKS in help_ for help_ in told)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_completion(shell: str) -> None:
    code = "import sys; sys.argv = ['p2pnode']; from p2pnode.cli.main import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"_P2PNODE_COMPLETE": f"{shell}_source", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_P2PNODE_COMPLETE" in said.stdout, said.stderr
    assert said.returncode == 0
