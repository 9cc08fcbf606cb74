"""Options that belong together, of which a command gets one thing: what they come to."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from p2pnode.cli import options
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.learning.data import Shard

LOG = ("human", "json")

LEAST_MBIT = 0.1
"""A limit below this is a slip of the pen, or in other units: hellos alone would not get through."""


class Lesson(NamedTuple):
    """What a node learns from, in the order of `session.rows_of`."""

    source: "Path | Shard"
    test: Path | None
    any_units: bool


def learning(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a node's rows; it gets what comes of them as `lesson`."""

    @options.path(
        "--data",
        about="Rows to learn from: a table (.csv, .npz, .parquet) where the swarm's task is `tabular`, else "
        ".npz with arrays x and y.  [default: none: say this or --shard]",
    )
    @options.path(
        "--test",
        about="Rows to judge the model by, of the same form.  [default: the task's, if it has any]",
    )
    @options.any_units
    @click.option(
        "--shard",
        metavar="PART/PARTS",
        help="Learn from a part of the task's own data instead, e.g. 2/5: the second of five.  "
        "[default: none: say this or --data]",
    )
    @options.uneven("With --shard: deal labels unevenly")
    @wraps(command)
    def learns(
        *args: Any,
        data: Path | None,
        test: Path | None,
        any_units: bool,
        shard: str | None,
        uneven: float | None,
        **rest: Any,
    ) -> None:
        source = source_of(data, shard, uneven)
        command(*args, lesson=Lesson(source, test, any_units), **rest)

    return learns


def source_of(data: Path | None, shard: str | None, uneven: float | None) -> "Path | Shard":
    """Where a node's rows are: in a file, or in a part of the task's own data.

    Raises:
        UserError: in neither or in both, or `shard` is no part of anything.
    """
    from p2pnode.learning.data import Shard

    if data is not None and shard is None:
        if uneven is not None:
            raise UserError("--uneven deals out the task's own data: it goes with --shard")
        return data
    if data is not None or shard is None:
        raise UserError(
            "say what to learn from: --data FILE, or --shard 1/3 for a part of the task's own data"
        )
    part, slash, parts = shard.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return Shard(int(part) - 1, int(parts), uneven)
    raise UserError(f"--shard {shard}: expected e.g. 2/5, the second of five parts")


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a node's own choices; it gets what comes of them as `config`."""

    @options.addresses("--listen", about="Multiaddr to listen on. Repeatable.  [default: any free port]")
    @options.addresses(
        "--peer",
        "peers",
        callback=options.dialable,
        about="Full address of a member or bootstrap node. Repeatable.  [default: those of SWARM]",
    )
    @click.option(
        "--mdns/--no-mdns", default=True, show_default=True, help="Look for members on the local network."
    )
    @click.option(
        "--direct/--no-direct",
        default=True,
        show_default=True,
        help="Send large models over a second connection to the same port.",
    )
    @click.option(
        "--bandwidth",
        metavar="MBIT",
        type=float,
        callback=options.at_least(LEAST_MBIT),
        help="Megabits a second to send at most.  [default: no limit]",
    )
    @options.number("--wait-peers", "MEMBERS", 1, "Members to wait for before the first round.")
    @options.number("--wait", "SECONDS", 30.0, "Seconds to wait for them at most.")
    @options.number("--save-every", "SECONDS", 30.0, "Seconds between two checkpoints at least.")
    @wraps(command)
    def configures(
        *args: Any,
        listen: tuple[str, ...],
        peers: tuple[str, ...],
        mdns: bool,
        direct: bool,
        bandwidth: float | None,
        wait_peers: int,
        wait: float,
        save_every: float,
        **rest: Any,
    ) -> None:
        from p2pnode.config import Config, Saving, Start

        start, saving = Start(wait_peers, wait), Saving(save_every)
        config = Config(
            listen or Config.listen,
            peers,
            mdns,
            direct,
            Config.bandwidth if bandwidth is None else bandwidth * 1e6 / 8,
            start=start,
            saving=saving,
        )
        command(*args, config=config, **rest)

    return configures


def speaking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of how it speaks on stderr; it gets what comes of them as `voice`."""

    @click.option(
        "-v", "--verbose", count=True, help="Say more, and what libraries warn of; twice: what they note too."
    )
    @click.option("-q", "--quiet", is_flag=True, help="Say warnings only.")
    @click.option(
        "--log",
        type=click.Choice(LOG),
        help="Lines for people, or a JSON object each.  [default: human on a terminal, else json]",
    )
    @options.no_color
    @wraps(command)
    def speaks(*args: Any, verbose: int, quiet: bool, log: str | None, no_color: bool, **rest: Any) -> None:
        from p2pnode.observe.console import Voice, terminal

        as_json = log == "json" if log else not sys.stderr.isatty()
        command(*args, voice=Voice(terminal(no_color), verbose, quiet, as_json), **rest)

    return speaks
