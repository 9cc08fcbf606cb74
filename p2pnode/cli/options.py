"""Options that several commands have, and what people may say in them, checked before anything starts.

Checks are click's callbacks, so that what they raise names the option.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from p2pnode.errors import UserError

N = TypeVar("N", int, float)
C = TypeVar("C", bound=Callable[..., Any])

MOST_UNEVEN = 0.01
"""Below, every label is in one pair of hands already, and the numbers run out of floating point."""


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


def path(*names: str, about: str, metavar: str = "FILE", **more: Any) -> Callable[[C], C]:
    """A file or a directory."""
    return click.option(*names, metavar=metavar, type=click.Path(path_type=Path), help=about, **more)


def data_dir(about: str) -> Callable[[C], C]:
    """Where a node keeps its files."""
    return path("--data-dir", metavar="DIRECTORY", about=about)


def addresses(*names: str, about: str, **more: Any) -> Callable[[C], C]:
    """Multiaddrs, as many as one likes."""
    return click.option(*names, metavar="ADDRESS", multiple=True, help=about, **more)


def uneven(about: str) -> Callable[[C], C]:
    """How a task's own data are dealt out."""
    return click.option(
        "--uneven",
        metavar="ALPHA",
        type=float,
        callback=at_least(MOST_UNEVEN),
        help=f"{about}; 0.3 is very, 100 hardly.  [default: evenly]",
    )


def number(name: str, metavar: str, default: float, about: str) -> Callable[[C], C]:
    """A number of the default's type, not below zero."""
    check = at_least(type(default)(0))
    return click.option(name, metavar=metavar, default=default, show_default=True, callback=check, help=about)


def seed(about: str) -> Callable[[C], C]:
    """Where all chance comes from."""
    kind = click.IntRange(0)
    return click.option("--seed", metavar="NUMBER", default=0, show_default=True, type=kind, help=about)


def as_json(about: str) -> Callable[[C], C]:
    """Output for scripts."""
    return click.option("--json", "as_json", is_flag=True, help=about)


def own_task(about: str, **more: Any) -> Callable[[C], C]:
    """Where a task of one's own is, as `task`, and whether a person agreed to run it, as `yes`."""

    def both(command: C) -> C:
        agree = click.option("--yes", is_flag=True, help="Run the code in the task's file without asking.")
        return click.option("--task", metavar="TASK", help=about, **more)(agree(command))

    return both


TASKS = (
    "digits, breast-cancer, fashion, loans, shakespeare, "
    "or, once fetched, wearables, fashion-full, mnist, cifar10"
)
"""Those that bring their data, for help texts, which must not wait for JAX."""

any_units = click.option(
    "--any-units", is_flag=True, help="Take a table whose numbers are of another size than the swarm's."
)
no_color = click.option("--no-color", is_flag=True, help="No colours; so does NO_COLOR in the environment.")
