"""A person's files: every error is one line for that person."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pnode import files
from p2pnode.errors import UserError
from p2pnode.ports import Bytes


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


def replace_file(path: Path, data: Bytes | Iterable[Bytes], mode: int = 0o644) -> None:
    """Put `data`, in one buffer or several, at `path`, whatever was there before.

    Raises:
        UserError: the folder cannot be written; what was at `path` still is.
    """
    with _writing(path):
        files.replace_file(path, data, mode)


def create_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path`, where nothing may be yet: of two processes doing so, one wins.

    Raises:
        FileExistsError: something is at `path`; it is untouched.
        UserError: the folder cannot be written.
    """
    with _writing(path):
        files.create_file(path, data, mode)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
