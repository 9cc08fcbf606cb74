"""Where the nodes of a cluster are reached, and who reaches whom."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pnode import switch
from p2pnode.errors import UserError
from p2pnode.identity.keys import load_or_create_key

PORT = 4001
"""Where nodes with networks of their own listen: libp2p's usual one."""


@contextmanager
def listening(count: int, separate: bool) -> Iterator[list[str]]:
    """Where each of `count` nodes listens; the first one's place is known, and free during this block."""
    if separate:
        yield [f"/ip4/{switch.address(index)}/tcp/{PORT}" for index in range(count)]
        return
    with reserved_port() as port:
        yield [f"/ip4/127.0.0.1/tcp/{own}" for own in (port, *[0] * (count - 1))]


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free TCP port on loopback that nobody else is given while the block runs.

    It stays bound, not listening, so that a child may listen there because both allow it (SO_REUSEADDR).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def entry(data_dir: Path, listen: str) -> str:
    """Where the first node will be reached: its key is made beforehand."""
    data_dir.mkdir(mode=0o700, exist_ok=True)
    return f"{listen}/p2p/{load_or_create_key(data_dir / 'identity.key').peer}"


def cut(groups: Iterable[Iterable[int]], count: int) -> list[list[int]]:
    """`groups`, and those of `count` nodes that are in none of them as one more.

    Raises:
        UserError: an index is of no node, or there twice.
    """
    named = [list(group) for group in groups]
    every = [index for group in named for index in group]
    for index in every:
        if index not in range(count):
            raise UserError(f"there is no node with index {index}: they go from 0 to {count - 1}")
        if every.count(index) > 1:
            raise UserError(f"index {index} is named twice: a node is in one group only")
    others = [index for index in range(count) if index not in every]
    return [*named, others] if others else named
