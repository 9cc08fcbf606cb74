"""`p2pnode`: the entrance for people and scripts.

Exit codes: 0 done; 1 our own bug, with a traceback; 2 a person's mistake, with one line that says
what to do. Results go to stdout, everything else to stderr.
"""

import signal
import sys
from collections.abc import Iterator
from importlib import import_module

import click

from p2pnode import __version__
from p2pnode.errors import UserError

COMMANDS = {
    "demo": "p2pnode.cli.demo:demo",
    "join": "p2pnode.cli.join:join",
    "swarm": "p2pnode.cli.swarm:swarm",
    "bootstrap": "p2pnode.cli.bootstrap:bootstrap",
}


class _Lazy(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="p2pnode")
def p2pnode() -> None:
    """Nodes that train on their own data and average with their peers. No server, no coordinator."""


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a node runs there is nothing to put in order
    try:
        p2pnode(prog_name="p2pnode")
    except UserError as error:
        _complain([error])
    except BaseExceptionGroup as group:  # the same, raised by a task
        mistakes, ours = group.split(UserError)
        if mistakes is None or ours is not None:
            raise
        _complain(list(leaves(mistakes)))


def leaves(group: BaseExceptionGroup[UserError]) -> Iterator[UserError]:
    """The exceptions in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def _complain(errors: list[UserError]) -> None:
    for line in dict.fromkeys(map(str, errors)):
        click.echo(f"p2pnode: {line}", err=True)
    sys.exit(2)
