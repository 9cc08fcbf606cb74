"""Files that anybody may have written: manifests and checkpoints.

- `manifest`: a first byte that is even is followed by a TOML file; one that is odd, by a canonical form.
- `checkpoint`: files of a byte, two of size, then content. The byte halved is the round in the file's name,
  which has the content's digest where the byte is even.
"""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from p2pnode.errors import PeerFault, UserError
from p2pnode.identity.manifest import (
    Hints,
    Manifest,
    load_manifest,
    parse_canonical,
    sign_manifest,
    write_manifest,
)
from p2pnode.net.memory import run_deterministic
from p2pnode.storage import Checkpoint, load_checkpoint
from p2pnode.trainer import Trainer, inline
from tests.gossip import ends

AUTHOR = ends.key(0)


def manifest(data: bytes) -> None:
    """What can be read has one canonical form and one id, is written as it was read, and can be signed."""
    content = data[1:]
    with tempfile.TemporaryDirectory() as folder:
        file, written = Path(folder, "manifest.toml"), Path(folder, "written.toml")
        try:
            if data[:1] and data[0] % 2:
                found = parse_canonical(content, hashlib.sha256(content).hexdigest())
                assert found.canonical() == content
            else:
                file.write_bytes(content)
                found = load_manifest(file)
        except PeerFault:
            return
        except UserError as error:
            _check_line(error)
            return
        _check(found, file, written)


def _check(found: Manifest, file: Path, written: Path) -> None:
    received = parse_canonical(found.canonical(), found.swarm_id)
    assert received == replace(found, hints=Hints(), signature=None)
    write_manifest(written, found)
    assert load_manifest(written) == found
    if found.author == AUTHOR.did:
        for path in filter(Path.exists, (file, written)):
            assert load_manifest(path).swarm_id == sign_manifest(path, AUTHOR).swarm_id == found.swarm_id
            assert load_manifest(path).signature


def _check_line(error: Exception) -> None:
    """It can be shown in a terminal, and does nothing to it."""
    assert str(error).isprintable()


def checkpoint(data: bytes) -> None:
    """A node goes on from one of these files, or it is said why not."""
    with tempfile.TemporaryDirectory() as folder:
        largest = 0
        while len(data) >= 3:
            kind, size = data[0], int.from_bytes(data[1:3], "big")
            content, data = data[3 : 3 + size], data[3 + size :]
            digest = bytes(8).hex() if kind % 2 else hashlib.sha256(content).hexdigest()[:16]
            Path(folder, f"round-{kind // 2:08d}-{digest}.safetensors").write_bytes(content)
            largest = max(largest, len(content))
        try:
            found = load_checkpoint(Path(folder))
        except UserError as error:
            _check_line(error)
            return
    assert (found is None) == (largest == 0)  # nobody starts anew because a file is damaged
    if found is not None:
        assert sum(array.nbytes for array in found.arrays.values()) < largest
        run_deterministic(lambda: _go_on(found), seed=0)


async def _go_on(found: Checkpoint) -> None:
    trainer = Trainer(ends.learner(), ends.rows(0), {}, inline, inline, 0, 0)
    try:
        await trainer.restore(found.arrays)
    except ValueError as error:
        _check_line(error)
