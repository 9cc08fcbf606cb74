"""The data directory: everything that one node keeps, owned by one process.

| file | what it is |
|---|---|
| `identity.key` | the node's private key |
| `manifest.toml` | what its swarm agreed on |
| `checkpoints/` | its last states, see `checkpoint` |
| `peers.json` | peers it knew, to find the swarm again when nothing else answers |
| `peers.json.damaged` | the same, of which something became unreadable |
| `incarnation` | the number of its last start |
| `events.jsonl` | its event log |
| `control.sock` | where it is asked and steered while it runs, see `observe/control` |
| `accepted` | hashes of the task files that a person agreed to run, one a line |
| `xla/` | compiled programs; may be deleted |
| `.lock` | held by the owner, see flock(2): the kernel lets go of it however the owner dies |
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import platformdirs
from numpy.typing import NDArray

from p2pnode.errors import UserError
from p2pnode.files import remove_leftovers
from p2pnode.ports import PeerAddress, PeerId
from p2pnode.storage import checkpoint
from p2pnode.storage.atomic import StorageError, write_atomic

MAX_PEERS = 256
"""Peers cached: far more than are needed to find one that still answers."""

MAX_ADDRESSES = 8
MAX_TEXT = 512
"""Characters of an address; one through a relay, with certificate hashes, has about 300."""

MAX_CACHE_BYTES = 8 << 20
"""What the bounds above come to when JSON escapes every character as six bytes."""

MAX_INCARNATION = 2**63 - 1
_INCARNATION = re.compile(rb"\d{1,19}\s?")

_log = logging.getLogger(__name__)


def default_data_dir(name: str) -> Path:
    """Where the node called `name` keeps its data on this system when nobody says otherwise.

    Raises:
        UserError: `name` is not a plain name.
    """
    if not name or name != Path(name).name or name == "..":
        raise UserError(f"{name!r} cannot name a node: use letters, digits and dashes")
    return platformdirs.user_data_path("p2pnode", appauthor=False) / name


class DataDirectory:
    """The files of one node. A context manager; leaving it lets go of the directory.

    Every method blocks on the disk; call them from a worker thread, one at a time.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.key = path / "identity.key"
        self.manifest = path / "manifest.toml"
        self.events = path / "events.jsonl"
        self.accepted = path / "accepted"
        self.xla = path / "xla"
        self.checkpoints = path / "checkpoints"
        self._peers = path / "peers.json"
        self._incarnation = path / "incarnation"
        self._lock = lock
        self._damaged: set[Path] = set()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the directory if need be, readable only by its owner, and take hold of it.

        Raises:
            UserError: another process holds it, or it cannot be written.
        """
        try:
            for folder in (path, path / "xla", path / "checkpoints"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = cls(path, _lock(path / ".lock"))
            directory._tidy()
        except BlockingIOError as error:
            raise UserError(
                f"another process uses {path}: stop it, or give this node a --data-dir of its own"
            ) from error
        except FileExistsError as error:
            raise UserError(f"{error.filename} is not a directory: choose another --data-dir") from error
        except OSError as error:
            raise UserError(
                f"cannot keep data in {error.filename or path} ({error.strerror}): choose another --data-dir"
            ) from error
        if directory._incarnation.exists() and not os.path.lexists(directory.key):
            _log.warning("%s is gone: this node gets a new one and another name", directory.key)
        return directory

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save_checkpoint(
        self, round: int, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
    ) -> Path:
        """Write a checkpoint, delete all but the last three whole ones, and say where it is.

        See `checkpoint.save_checkpoint` for the arguments.

        Raises:
            StorageError: the disk would not take it, or not let go of an older one.
        """
        path = checkpoint.save_checkpoint(self.checkpoints, round, arrays, metadata)
        self._damaged.discard(path)  # written anew, it is whole
        checkpoint.prune(path, self._damaged)
        return path

    def load_checkpoint(self) -> checkpoint.Checkpoint | None:
        """Read the newest whole checkpoint; None when there never was one.

        Raises:
            UserError: there are checkpoints, and not one of them is whole, or the folder cannot be
                read.
        """
        newest = checkpoint.load_checkpoint(self.checkpoints)
        if newest is not None:
            self._damaged = set(newest.skipped)
        return newest

    def save_peers(self, peers: Sequence[PeerAddress]) -> None:
        """Remember where peers were, best first; what exceeds the bounds is left out.

        Raises:
            StorageError: the disk would not take it.
        """
        kept = [
            {
                "peer": peer.peer,
                "addresses": [a for a in peer.addresses if len(a) <= MAX_TEXT][:MAX_ADDRESSES],
            }
            for peer in peers[:MAX_PEERS]
        ]
        write_atomic(self._peers, json.dumps(kept, indent=1).encode())

    def load_peers(self) -> tuple[list[PeerAddress], str | None]:
        """Where peers were, best first, and a line on what is wrong with the file, if anything is.

        Such a file is put aside: it may be all that somebody has, and the next `save_peers` needs its name.
        """
        try:
            with self._peers.open("rb") as file:
                content = file.read(MAX_CACHE_BYTES + 1)
            return _parse_peers(content), None
        except FileNotFoundError:
            return [], None
        except OSError as error:
            wrong = f"cannot read {self._peers}: {error.strerror}"
        except (ValueError, RecursionError) as error:
            wrong = f"{self._peers} is damaged: {error}"
        return [], f"{wrong}; {_put_aside(self._peers)}"

    def next_incarnation(self, wall: float) -> int:
        """A number for this start, larger than that of every earlier start with this directory.

        It is the time in milliseconds, so that a copy of the key on another machine compares with
        it, or one more than the last when the clock was set back.

        Args:
            wall: seconds since the Unix epoch.

        Raises:
            UserError: it cannot be kept.
        """
        number = max(self._last_incarnation() + 1, int(wall * 1000))
        self.keep_incarnation(number)
        return number

    def keep_incarnation(self, number: int) -> None:
        """Let the next start have a number larger than `number`.

        Raises:
            UserError: it cannot be kept.
        """
        try:
            write_atomic(self._incarnation, str(number).encode())
        except StorageError as error:
            raise UserError(f"{error}: make room, or choose another --data-dir") from error

    def _last_incarnation(self) -> int:
        try:
            with self._incarnation.open("rb") as file:
                content = file.read(32)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise UserError(f"cannot read {self._incarnation} ({error.strerror}): move it away") from error
        if _INCARNATION.fullmatch(content) and int(content) < MAX_INCARNATION:
            return int(content)
        _log.warning("%s is damaged, it says %r: the clock numbers this start", self._incarnation, content)
        return 0

    def _tidy(self) -> None:
        """Remove what an earlier owner left half-written, or let go of the directory."""
        try:
            remove_leftovers(self.path)
            remove_leftovers(self.checkpoints)
        except OSError:
            self.close()
            raise


def _lock(path: Path) -> int:
    """Take the lock and return its descriptor; BlockingIOError when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _put_aside(path: Path) -> str:
    """Keep what is at `path` under another name, and say where it is then."""
    kept = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(kept)
    except OSError as error:
        return f"it stays there: {error.strerror}"
    return f"kept as {kept.name}"


def _parse_peers(content: bytes) -> list[PeerAddress]:
    """Raises ValueError when `content` is not a cache of ours, within its bounds."""
    if len(content) > MAX_CACHE_BYTES:
        raise ValueError("too large")
    entries = json.loads(content)
    if not isinstance(entries, list) or len(entries) > MAX_PEERS:
        raise ValueError("not a list of peers")
    return [_parse_peer(entry) for entry in entries]


def _parse_peer(entry: object) -> PeerAddress:
    match entry:
        case {"peer": str(peer), "addresses": [*addresses]} if len(addresses) <= MAX_ADDRESSES:
            if all(isinstance(text, str) and len(text) <= MAX_TEXT for text in (peer, *addresses)):
                return PeerAddress(PeerId(peer), tuple(addresses))
    raise ValueError("not a peer with its addresses")
