"""`p2pnode status`, `peers`, `pause`, `resume`, `checkpoint`, `stop`, `watch`: a node that runs already.

Each asks one question over the node's control socket. Which node is meant is said by its data
directory, or by the swarm when the node keeps its files where it does by default, or by nothing at
all when only one runs.
"""

import json
import os
import re
import select
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import options
from p2pnode.cli.named import named
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from p2pnode.observe.live import Row

SAVING = 120.0
"""Seconds that a checkpoint may take: the node may be compiling, and the disk be slow."""

ENDING = 60.0
"""Seconds that a node may take to end: an exchange, a save and goodbyes have their deadlines."""

WIDE = 200
"""Columns where there is no terminal that says how many it has."""

EPILOG = """SWARM is the file of a manifest, a link, or the id of a swarm, whose node is meant if it keeps its
files where it does by default. With neither SWARM nor --data-dir the only node that runs is meant."""

_SWARM_ID = re.compile("[0-9a-f]{12,64}")


def _steering(command: Callable[[Path, bool], None]) -> click.Command:
    """A command about one running node, which it is given by its data directory."""

    @click.command(command.__name__, epilog=EPILOG)
    @click.argument("swarm", required=False)
    @options.data_dir(
        "Where the node keeps its files.  [default: by SWARM, or that of the only node that runs]"
    )
    @options.as_json("Print JSON.")
    @wraps(command)
    def steer(swarm: str | None, data_dir: Path | None, as_json: bool) -> None:
        command(_which(swarm, data_dir), as_json)

    return steer


def _which(swarm: str | None, data_dir: Path | None) -> Path:
    """The data directory of the node that is meant."""
    from p2pnode.observe.control import running
    from p2pnode.storage.directory import default_data_dir

    if data_dir is not None and swarm is not None:
        raise UserError("say which node by its swarm or by --data-dir, not by both")
    if data_dir is not None:
        return data_dir
    if swarm is not None:
        return default_data_dir(_swarm_id(swarm)[:12])
    home = default_data_dir("any").parent
    match running(home):
        case [only]:
            return only
        case []:
            raise UserError(f"no node runs in {home}: say which one by --data-dir, if it is elsewhere")
        case several:
            raise UserError(f"several nodes run, say which by --data-dir: {', '.join(map(str, several))}")


def _swarm_id(swarm: str) -> str:
    """Of a link, an id or its first digits, or the file of a manifest."""
    if _SWARM_ID.fullmatch(swarm) and not Path(swarm).exists():
        return swarm
    return named(swarm).swarm_id


@_steering
def status(node: Path, as_json: bool) -> None:
    """Say where a running node stands."""
    reply = _ask(node, "status")
    if as_json:
        click.echo(json.dumps(reply))
    else:
        _console().print(status_table(reply))


@_steering
def peers(node: Path, as_json: bool) -> None:
    """List the members that a running node knows."""
    reply = _ask(node, "peers")
    if as_json:
        click.echo(json.dumps(reply))
    else:
        _console().print(peers_table(reply["peers"]))


@_steering
def pause(node: Path, as_json: bool) -> None:
    """Let the training of a running node wait.

    It stays a member of its swarm, and its peers average with others meanwhile.
    """
    reply = _ask(node, "pause")
    _say(reply, as_json, f"paused after round {reply['round']}")


@_steering
def resume(node: Path, as_json: bool) -> None:
    """Let a paused node go on."""
    reply = _ask(node, "resume")
    _say(reply, as_json, f"going on after round {reply['round']}")


@_steering
def checkpoint(node: Path, as_json: bool) -> None:
    """Let a running node save its state now."""
    reply = _ask(node, "checkpoint", SAVING)
    _say(reply, as_json, f"saved round {reply['round']} to {reply['path']}")


@_steering
def stop(node: Path, as_json: bool) -> None:
    """End a running node in good order, and wait until it has ended."""
    reply = _ask(node, "stop")
    if not _has_ended(reply["pid"], ENDING):
        raise UserError(f"the node in {node} was told to stop, and has not ended within {ENDING:g} s")
    _say(reply, as_json, f"stopped the node in {node}")


@_steering
def watch(node: Path, as_json: bool) -> None:
    """Show what a running node does, until it ends or Ctrl-C. With --json a line for each event."""
    from p2pnode.observe import control
    from p2pnode.observe.console import short
    from p2pnode.observe.live import LiveView
    from p2pnode.observe.stream import to_json

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the view tidies up the terminal
    with suppress(KeyboardInterrupt), closing(control.watch(node)) as happening:
        if as_json:
            for stamped in happening:
                click.echo(json.dumps(to_json(stamped)))
            return
        so_far = _ask(node, "status")
        name = short(so_far["peer"])
        with LiveView(_console(), {name: row_of(so_far)}) as view:
            for stamped in happening:
                view.update(name, stamped)


def _ask(node: Path, command: str, seconds: float | None = None) -> dict[str, Any]:
    """The node's reply, and where the node is."""
    from p2pnode.observe import control

    reply = control.ask(node, command, seconds or control.PATIENCE)
    del reply["ok"]  # otherwise there was an error
    return {"data_dir": str(node), **reply}


def _say(reply: dict[str, Any], as_json: bool, line: str) -> None:
    click.echo(json.dumps(reply) if as_json else line)


def _console() -> "Console":
    """What is on stdout, as wide as it is or else wide enough."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _has_ended(pid: int, seconds: float) -> bool:
    """Wait for the end of a process that need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def row_of(status: dict[str, Any]) -> "Row":
    """A node's row in the live view, to begin with. Of a bootstrap node there is little to show."""
    from p2pnode.observe.live import Row, accuracy

    return Row(
        round=status["round"],
        rounds=status["rounds"] or 0,
        steps=status["steps"] or None,
        accuracy=accuracy(status["metrics"], None),
        peers=status["peers"],
        exchanges=status["exchanges"]["completed"],
        bytes_sent=status["bytes_sent"],
        state="paused" if status["paused"] else status["stage"],
    )


def status_table(status: dict[str, Any]) -> "Table":
    """For people."""
    from rich.filesize import decimal
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="dim")
    drawn.add_column(overflow="fold")
    state = status["stage"] + (", paused" if status.get("paused") else "")
    drawn.add_row("node", status["peer"])
    drawn.add_row("in", status["data_dir"])
    drawn.add_row("state", f"{state}, for {duration(status['uptime'])}, process {status['pid']}")
    if "swarm" in status:
        for row in _swarm_rows(status):
            drawn.add_row(*row)
    drawn.add_row(
        "traffic", f"{decimal(status['bytes_sent'])} sent, {decimal(status['bytes_received'])} received"
    )
    drawn.add_row("listens on", "\n".join(status["addresses"]) or "nothing")
    return drawn


def _swarm_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    from p2pnode.observe.console import metrics, plural

    saved = status["checkpoint"]
    exchanges = ", ".join(f"{count} {name}" for name, count in status["exchanges"].items() if name != "begun")
    return [
        ("swarm", status["swarm"]),
        ("round", f"{status['round']} of {status['rounds'] or '?'}, {plural(status['steps'], 'step')}"),
        ("metrics", "  ".join(metrics(status["metrics"])) or "none yet"),
        ("peers", f"{status['peers']}, {plural(status['faults'], 'fault')} of theirs"),
        ("exchanges", exchanges),
        ("saved", f"round {saved['round']} in {saved['path']}" if saved else "nothing yet"),
    ]


def peers_table(members: list[dict[str, Any]]) -> "Table":
    """For people."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for heading in ("peer", "stage", "round", "heard", "faults", "addresses"):
        drawn.add_column(heading, overflow="fold")
    for member in members:
        drawn.add_row(
            member["peer"],
            member["stage"],
            str(member["round"]),
            f"{duration(member['heard'])} ago",
            str(member["faults"]),
            "\n".join(member["addresses"]),
        )
    return drawn


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `5 h` or `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
