"""Checkpoints: files that prove themselves.

A checkpoint is a safetensors file (https://github.com/huggingface/safetensors): a JSON header, then
the arrays as raw bytes, so that reading one never runs code. It is written piece by piece from where
the arrays lie: the library's own writer makes a copy of them all, panics when there is no memory for
that, and lists the metadata in another order each time. A file's name carries its round and the
first 64 bits of the SHA-256 of its content, `round-00000012-<16 hex digits>.safetensors`. A file
whose content does not have the digest in its name is damaged, and is passed over and reported,
never deleted: it may be all that somebody has.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches numpy bfloat16, which an optimizer's state may hold
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from p2pnode.errors import UserError
from p2pnode.ports import Bytes
from p2pnode.storage.atomic import StorageError, write_atomic

SCHEMA = "1"
KEPT = 3
"""How many whole checkpoints stay: the newest may be damaged by the disk, and so may the next."""

_NAME = re.compile(r"round-(\d{8,19})-([0-9a-f]{16})\.safetensors", re.ASCII)
_SCHEMA_KEY, _ROUND_KEY = "p2pnode.checkpoint", "p2pnode.round"
_WORDS = {"bool": "BOOL", "bfloat16": "BF16", "complex64": "C64"}
_WORDS |= {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
_WORDS |= {f"float{bits}": f"F{bits}" for bits in (16, 32, 64)}
"""What safetensors calls numpy's dtypes."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a node after a round.

    Attributes:
        round: the round it was taken after.
        arrays: by name, with the shapes and dtypes they were saved with.
        metadata: text that was saved with them.
        path: the file.
        skipped: the newer files that cannot be used, with a line on each that says why.
    """

    round: int
    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str]
    path: Path
    skipped: dict[Path, str] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, round: int, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> Path:
    """Write a checkpoint, and say where it is. The caller prunes.

    Args:
        folder: of the checkpoints; it must exist.
        round: counted from 0.
        arrays: by name; bool, integers, floats up to 64 bits, bfloat16 and complex64, of any shape.
        metadata: text to keep with them; keys beginning with `p2pnode.` are ours.

    Raises:
        StorageError: the disk would not take it; the checkpoints before it are as they were.
    """
    content = _encode(arrays, {**metadata, _SCHEMA_KEY: SCHEMA, _ROUND_KEY: str(round)})
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    path = folder / f"round-{round:08d}-{digest.hexdigest()[:16]}.safetensors"
    write_atomic(path, content)
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest whole checkpoint; None when there never was one.

    Files are only ever replaced whole, so anybody may call this while the owner runs.

    Raises:
        UserError: there are checkpoints, and not one of them is whole, or the folder cannot be read.
            Starting over is a person's decision.
    """
    skipped: dict[Path, str] = {}
    try:
        paths = checkpoints(folder)
    except OSError as error:
        raise UserError(f"cannot look for checkpoints in {folder}: {error.strerror}") from error
    for path in paths:
        try:
            return replace(_read(path), skipped=skipped)
        except StorageError as error:
            skipped[path] = str(error)
    if not skipped:
        return None
    raise UserError(
        f"no checkpoint in {folder} can be used ({'; '.join(skipped.values())}): "
        "restore one from a backup, or move the folder away to start from scratch"
    )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, newest first.

    Newer is a later round; for one round, the later file. The rounds of a folder's owner do not go
    back, and its clock may. Raises OSError when the folder cannot be read.
    """
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_named(path)[0], _written(path)), reverse=True)


def prune(saved: Path, damaged: Set[Path]) -> None:
    """Delete the checkpoints next to `saved` but for it, the newest others, and those `damaged`.

    Raises:
        StorageError: the disk would not let go of them.
    """
    folder = saved.parent
    try:
        others = [path for path in checkpoints(folder) if path not in damaged and path != saved]
        for path in others[KEPT - 1 :]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot delete old checkpoints in {folder}: {error.strerror}") from error


def _encode(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[Bytes]:
    """A safetensors file in pieces: 8 bytes that say how long the header is, the header, each array.

    The largest elements come first, so that all of them lie where their size wants it, as in files
    that the library writes.
    """
    # np.ascontiguousarray would turn 0-d arrays into 1-d ones.
    dense = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    pieces: list[Bytes] = []
    end = 0
    for name, array in sorted(dense.items(), key=lambda item: (-item[1].itemsize, item[0])):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _WORDS[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
        pieces.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def _named(path: Path) -> tuple[int, str]:
    """Round and digest in a checkpoint's file name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), match[2]


def _written(path: Path) -> int:
    """When the file was written, in nanoseconds; 0 when its owner has deleted it meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _read(path: Path) -> Checkpoint:
    """Read one file. The digest comes first, in small pieces: only a whole file takes memory.

    Raises:
        StorageError: in one line, why this file cannot be used.
    """
    round, digest = _named(path)
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)
        if not whole:
            raise StorageError(f"{path.name} is damaged")
        with safe_open(path, framework="np") as content:
            metadata = content.metadata() or {}
            if metadata.pop(_SCHEMA_KEY, None) != SCHEMA or metadata.pop(_ROUND_KEY, None) != str(round):
                raise StorageError(f"{path.name} was written by another version of p2pnode")
            names = content.keys()
            arrays = {name: _array(content, name, path) for name in names}
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise StorageError(f"{path.name} is not a safetensors file") from error
    return Checkpoint(round, arrays, metadata, path)


def _array(content: Any, name: str, path: Path) -> NDArray[Any]:
    """One array of an open file. There are dtypes and shapes that safetensors knows, and numpy does not."""
    try:
        array: NDArray[Any] = content.get_tensor(name)
    except (AttributeError, ValueError) as error:
        raise StorageError(f"{path.name} holds an array that no checkpoint of p2pnode holds") from error
    return array
