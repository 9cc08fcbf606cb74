"""Small files that are always whole: the old content or the new one, never a part.

The content goes to a temporary file in the same folder and reaches the disk before the name does:
`rename(2)` and `link(2)` are atomic, and syncing the folder makes the name last through a power cut.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pnode.errors import UserError


def read_file(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes.

    Raises:
        UserError: the file cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise UserError(f"{path} is not what is expected here: it is longer than {limit} bytes")
    return data


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path`, whatever was there before.

    Raises:
        UserError: the folder cannot be written; what was at `path` still is.
    """
    with _written_beside(path, data, mode) as temporary:
        temporary.replace(path)


def create_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path`, where nothing may be yet: of two processes doing so, one wins.

    Raises:
        FileExistsError: something is at `path`; it is untouched.
        UserError: the folder cannot be written.
    """
    with _written_beside(path, data, mode) as temporary:
        path.hardlink_to(temporary)  # unlike a rename, a link never replaces


@contextmanager
def _written_beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Yield a synced temporary file next to `path`; afterwards sync the folder and clean up."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)  # mkstemp made it 0600: never wider before this line
                os.fsync(descriptor)
            yield temporary
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
