"""What people may say in options, checked before anything starts.

Used as click's callbacks, so that what they raise names the option.
"""

from collections.abc import Callable
from typing import TypeVar

import click

from p2pnode.errors import UserError

N = TypeVar("N", int, float)


def at_least(least: N) -> Callable[[click.Context, click.Parameter, N | None], N | None]:
    """A number, which may be left out. Nan is none."""

    def check(_context: click.Context, option: click.Parameter, value: N | None) -> N | None:
        if value is None or value >= least:
            return value
        raise UserError(f"{option.opts[0]} {value}: expected a number from {least} up")

    return check


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
