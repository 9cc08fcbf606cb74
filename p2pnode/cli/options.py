"""What people may say in options, checked before anything starts.

Used as click's callbacks, so that what they raise names the option.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from p2pnode.errors import UserError

N = TypeVar("N", int, float)

LOG = ("human", "json")


def at_least(least: N) -> Callable[[click.Context, click.Parameter, N | None], N | None]:
    """A number, which may be left out. Nan is none."""

    def check(_context: click.Context, option: click.Parameter, value: N | None) -> N | None:
        if value is None or value >= least:
            return value
        raise UserError(f"{option.opts[0]} {value}: expected a number from {least} up")

    return check


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
    @click.option("--no-color", is_flag=True, help="No colours; so does NO_COLOR in the environment.")
    @wraps(command)
    def speaks(*args: Any, verbose: int, quiet: bool, log: str | None, no_color: bool, **rest: Any) -> None:
        from p2pnode.observe.console import Voice, terminal

        as_json = log == "json" if log else not sys.stderr.isatty()
        command(*args, voice=Voice(terminal(no_color), verbose, quiet, as_json), **rest)

    return speaks


def dialable(_context: click.Context, option: click.Parameter, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Full addresses of peers, in a form that this node can dial."""
    from p2pnode.identity.link import check_address
    from p2pnode.net.addresses import parse_address

    checked = tuple(map(check_address, addresses))
    for address in checked:
        try:
            parse_address(address)
        except ValueError as error:
            raise UserError(f"{option.opts[0]} {address}: {error}") from error
    return checked
