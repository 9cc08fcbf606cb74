"""Files that are either whole or not there, whenever the process or the power goes.

New content goes to a temporary file in the same folder, is synced, takes the old file's name in one
step, and then the folder is synced. Each of the four matters: a rename commits only what was synced
before it, and lasts only when the folder was synced after it (Pillai et al., "All File Systems Are
Not Created Equal", OSDI 2014).
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from p2pnode.ports import Bytes


class StorageError(Exception):
    """The disk is full, read-only or broken. What was whole on it before still is.

    A node can go on without the file in question; whoever asked for it decides.
    """


def write_atomic(path: Path, data: Bytes | Iterable[Bytes], mode: int = 0o600) -> None:
    """Make `path` hold exactly `data`, or leave it as it was. Blocks until the disk has it.

    Args:
        path: the file; its folder must exist.
        data: the content, in one buffer or several.
        mode: permission bits of the file, whatever the umask says.

    Raises:
        StorageError: the disk would not take it.
    """
    buffers = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
    try:
        _replace(path, buffers, mode)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _replace(path: Path, buffers: Iterable[Bytes], mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of a process that was killed while it wrote. Only for the owner."""
    for leftover in folder.glob(".*.*.tmp"):
        leftover.unlink(missing_ok=True)
