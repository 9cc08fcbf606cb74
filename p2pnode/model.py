"""A trained model outside of its node: read from a data directory, or from a file made of one.

An exported file is a safetensors file: the parameters by name, and in its metadata all that it takes to
use them, the swarm's manifest above all. Two hashes make it prove itself: the manifest's is the
swarm's id, and the parameters' stands beside them. Reading one never runs code; a task in a person's
own file has to be brought again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from p2pnode.errors import PeerFault, UserError
from p2pnode.events import RoundFinished, Settled
from p2pnode.identity.files import replace_file
from p2pnode.identity.manifest import Manifest, load_manifest, parse_canonical
from p2pnode.learning import model as models
from p2pnode.learning import registry
from p2pnode.learning.model import Model
from p2pnode.learning.own import Own
from p2pnode.observe.journal import read_journal
from p2pnode.storage.checkpoint import load_checkpoint

FORMAT = "1"
_FORMAT_KEY = "p2pnode.model"

LARGEST = 8 << 30
"""Bytes of a file: all the parameters that a manifest may bound, and more."""

Bring = Callable[[Manifest], Own | None]
"""Brings the task in a person's own file, for a swarm that has one."""


@dataclass(frozen=True)
class Trained:
    """A model and where it comes from.

    Attributes:
        model: to be used.
        manifest: of its swarm.
        round: after which it was saved.
        settled: whether it is what the swarm has settled on.
        metrics: the last ones that its node had of it.
        members: whose training is in it, for certain; None where that is not known.
    """

    model: Model
    manifest: Manifest
    round: int
    settled: bool
    metrics: dict[str, float]
    members: int | None


def load(path: Path, bring: Bring = lambda _manifest: None) -> Trained:
    """The model in a node's data directory, whether or not the node runs, or in an exported file.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    return _from_directory(path, bring) if path.is_dir() else _from_file(path, bring)


def _from_directory(path: Path, bring: Bring) -> Trained:
    if not (path / "manifest.toml").exists():
        raise UserError(f"{path} is no data directory of a node: it holds no manifest.toml")
    manifest = load_manifest(path / "manifest.toml")
    checkpoint = load_checkpoint(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    if checkpoint is None:
        raise UserError(f"{path} holds no saved model yet: wait for the node's first checkpoint")
    learner = registry.build(manifest, bring(manifest))
    settled = checkpoint.metadata.get("settled") == "yes"
    try:
        model = models.of_checkpoint(learner, checkpoint.arrays, settled)
    except ValueError as error:
        raise UserError(f"{checkpoint.path} does not fit this version ({error})") from error
    metrics, members = _last_metrics(path / "events.jsonl", checkpoint.round, settled)
    return Trained(model, manifest, checkpoint.round, settled, metrics, members)


def _last_metrics(log: Path, round: int, settled: bool) -> tuple[dict[str, float], int | None]:
    found: dict[str, float] = {}
    members = None
    for stamped in read_journal(log, lambda _line: None):
        match stamped.event:
            case RoundFinished() as event if event.metrics and event.round <= round and not settled:
                found = event.metrics
            case Settled() as event if settled:
                found, members = event.metrics, event.counted
    return found, members


def _from_file(path: Path, bring: Bring) -> Trained:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 30} GiB: it is no exported model")
        with safe_open(path, framework="np") as content:
            metadata = content.metadata() or {}
            if metadata.get(_FORMAT_KEY) != FORMAT:
                raise UserError(f"{path} is no model that this p2pnode exported")
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is neither a data directory nor an exported model") from error
    try:
        manifest = parse_canonical(metadata["manifest"].encode(), metadata["swarm"])
        facts = json.loads(metadata["facts"])
        if metadata["sha256"] != digest(arrays):
            raise UserError(f"{path} is damaged: its parameters do not have the hash beside them")
        model = models.of_arrays(registry.build(manifest, bring(manifest)).task, arrays)
        return Trained(model, manifest, facts["round"], facts["settled"], facts["metrics"], facts["members"])
    except (KeyError, TypeError, ValueError, PeerFault) as error:
        raise UserError(f"{path} is damaged, or was exported by another version ({error})") from error


def export(trained: Trained, path: Path) -> str:
    """Write the model to `path`; the SHA-256 of the file.

    Raises:
        UserError: it cannot be written.
    """
    # safetensors writes the memory behind an array as it lies, so it must lie in order.
    arrays = {name: np.asarray(array, order="C") for name, array in trained.model.arrays().items()}
    facts = {
        "round": trained.round,
        "settled": trained.settled,
        "metrics": trained.metrics,
        "members": trained.members,
    }
    metadata = {
        _FORMAT_KEY: FORMAT,
        "swarm": trained.manifest.swarm_id,
        "manifest": trained.manifest.canonical().decode(),
        "facts": json.dumps(facts),
        "sha256": digest(arrays),
    }
    content = save(arrays, metadata)
    replace_file(path, content)
    return hashlib.sha256(content).hexdigest()


def digest(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    heading = [[name, str(array.dtype), list(array.shape)] for name, array in sorted(arrays.items())]
    found = hashlib.sha256(json.dumps(heading).encode())
    for _, array in sorted(arrays.items()):
        found.update(array.tobytes())
    return found.hexdigest()
