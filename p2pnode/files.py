"""Files that are either whole or not there, whenever the process or the power goes.

New content goes to a temporary file in the same folder, is synced, takes its name in one step, and
then the folder is synced. Each of the four matters: a rename commits only what was synced before it,
and lasts only when the folder was synced after it (Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014). Everything here raises OSError; its callers know whose fault that is.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pnode.ports import Bytes


def replace_file(path: Path, data: Bytes | Iterable[Bytes], mode: int) -> None:
    """Make `path` hold exactly `data`, whatever was there before. Blocks until the disk has it.

    Args:
        path: the file; its folder must exist.
        data: the content, in one buffer or several.
        mode: permission bits of the file, whatever the umask says.
    """
    with _written_beside(path, data, mode) as temporary:
        temporary.replace(path)


def create_file(path: Path, data: Bytes | Iterable[Bytes], mode: int) -> None:
    """Put `data` at `path`, where nothing may be yet: of two processes doing so, one wins.

    Raises:
        FileExistsError: something is at `path`; it is untouched.
    """
    with _written_beside(path, data, mode) as temporary:
        path.hardlink_to(temporary)  # unlike a rename, a link never replaces


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


@contextmanager
def _written_beside(path: Path, data: Bytes | Iterable[Bytes], mode: int) -> Iterator[Path]:
    """Yield a synced temporary file next to `path`; afterwards sync the folder and clean up."""
    buffers = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # mkstemp made it 0600: never wider before this line
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(descriptor)
        yield temporary
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
