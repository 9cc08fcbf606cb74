"""Writing a node's own files: what the disk will not take is the disk's fault, and the node goes on."""

from collections.abc import Iterable
from pathlib import Path

from p2pnode.files import replace_file
from p2pnode.ports import Bytes


class StorageError(Exception):
    """The disk is full, read-only or broken. What was whole on it before still is.

    A node can go on without the file in question; whoever asked for it decides.
    """


def write_atomic(path: Path, data: Bytes | Iterable[Bytes], mode: int = 0o600) -> None:
    """Make `path` hold exactly `data`, or leave it as it was. Blocks until the disk has it.

    Raises:
        StorageError: the disk would not take it.
    """
    try:
        replace_file(path, data, mode)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
