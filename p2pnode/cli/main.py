"""`p2pnode`: the entrance for people and scripts.

Results go to stdout, everything else to stderr. What went wrong is said in the exit code, see
`EPILOG`, and a person's mistake in one line that says what to do, also where click found it.
"""

import signal
import sys
from importlib import import_module

import click

from p2pnode import __version__
from p2pnode.errors import UserError, leaves

COMMANDS = {
    "demo": "p2pnode.cli.demo:demo",
    "join": "p2pnode.cli.join:join",
    "cluster": "p2pnode.cli.cluster:cluster",
    "chaos": "p2pnode.cli.chaos:chaos",
    "rehearse": "p2pnode.cli.rehearse:rehearse",
    "simulate": "p2pnode.cli.simulate:simulate",
    "swarm": "p2pnode.cli.swarm:swarm",
    "predict": "p2pnode.cli.model:predict",
    "evaluate": "p2pnode.cli.model:evaluate",
    "export": "p2pnode.cli.model:export",
    "task": "p2pnode.cli.task:task",
    "bootstrap": "p2pnode.cli.bootstrap:bootstrap",
    "doctor": "p2pnode.cli.doctor:doctor",
    "bench": "p2pnode.cli.bench:bench",
    "status": "p2pnode.cli.control:status",
    "peers": "p2pnode.cli.control:peers",
    "watch": "p2pnode.cli.control:watch",
    "pause": "p2pnode.cli.control:pause",
    "resume": "p2pnode.cli.control:resume",
    "checkpoint": "p2pnode.cli.control:checkpoint",
    "stop": "p2pnode.cli.control:stop",
}


EPILOG = """\b
Exit codes:
    0        done, or stopped in good order
    1        a bug of ours, with its traceback; of demo, cluster, chaos, rehearse, doctor, task check:
             something fails; of simulate: something is worse than before
    2        a mistake, which one line explains
    130/143  interrupted/terminated before there was anything to put in order, or told twice
             (demo, cluster, chaos, rehearse, simulate: at any time)
\b
Completion, in ~/.bashrc (zsh and fish likewise):
    eval "$(_P2PNODE_COMPLETE=bash_source p2pnode)"
"""


class _Lazy(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="p2pnode")
def p2pnode() -> None:
    """Nodes that train on their own data and average with their peers. No server, no coordinator."""


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a node runs there is nothing to put in order
    try:
        sys.exit(p2pnode(prog_name="p2pnode", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _complain([UserError(_in_our_words(error))])
    except click.Abort:
        _complain([UserError("nothing was done: nobody said yes")])
    except UserError as error:
        _complain([error])
    except BaseExceptionGroup as group:  # the same, raised by a task
        mistakes, ours = group.split(UserError)
        if mistakes is None or ours is not None:
            raise
        _complain(list(leaves(mistakes)))


def _in_our_words(error: click.ClickException) -> str:
    """What click says of a wrong option or command, as a line of ours that ends with where to look."""
    said = " ".join(error.format_message().split()).removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = f" (see {context.command_path} --help)" if context else ""
    return f"{said[:1].lower()}{said[1:]}{where}"


def _complain(errors: list[UserError]) -> None:
    for line in dict.fromkeys(map(str, errors)):
        click.echo(f"p2pnode: {line}", err=True)
    sys.exit(2)
