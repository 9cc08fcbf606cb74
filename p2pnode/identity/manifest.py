"""A swarm's manifest: everything its nodes must agree on, in a TOML file that a person can edit.

The swarm's id is the SHA-256 of the manifest's canonical form: the JSON of RFC 8785, which has one
way to write anything, of every key in the file but `[hints]` and `[signature]`. Who changes a key
makes another swarm; who changes a comment, the order or a hint does not. Nothing is filled in
before hashing, so a default that changes in a later p2pnode cannot split a swarm. Canonical bytes
travel, and are hashed as received before they are parsed: what JSON parsers disagree about
(duplicate keys, large numbers) can then not mean two things under one id.

The author named in the manifest signs its canonical form with Ed25519. The id covers the author's
name, so nobody can sign for another's swarm.
"""

import hashlib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import rfc8785
import tomlkit

from p2pnode.errors import Fault, PeerFault, UserError
from p2pnode.identity.files import create_file, read_file, replace_file
from p2pnode.identity.keys import Key, public_of_did, verify
from p2pnode.identity.schema import Entry, check, integer, read, text, toml
from p2pnode.identity.sections import Admission, Bounds, Hints, RuleSpec, TaskSpec, Training

__all__ = [
    "LARGEST_MANIFEST",
    "VERSION",
    "Admission",
    "Bounds",
    "Hints",
    "Manifest",
    "RuleSpec",
    "TaskSpec",
    "Training",
    "check_signature",
    "load_manifest",
    "parse_canonical",
    "sign_manifest",
    "signed",
    "write_manifest",
]

VERSION = 1
LARGEST_MANIFEST = 256 * 1024  # bytes, as a file or in canonical form; a usual one takes 6 KiB and 1 KiB
_DEEPEST = 8  # tables and lists in each other, in canonical form; version 1 has 6 at most
_SIGNED_AS = b"p2pnode manifest signature 1\n"  # so that nothing else the author signs can be meant
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)  # one that never ends, too: no second look
_BRACKET = re.compile(rb"[][{}]")
_HEADING = "# A p2pnode swarm. Changing anything but comments and [hints] makes another swarm.\n\n"


def _is_author(value: object) -> bool:
    try:
        return value == "" or (isinstance(value, str) and bool(public_of_did(value)))
    except ValueError:
        return False


@dataclass(frozen=True)
class Manifest:
    """A valid manifest: making one with a wrong value raises `UserError`.

    Attributes:
        signature: the author's, 64 bytes, over the canonical form; see `signed` and `check_signature`.
    """

    version: Annotated[
        int, integer(VERSION, VERSION, "Version of this format and of the protocols that follow from it.")
    ]
    name: Annotated[str, text(1, 64, "What people call this swarm.")]
    task: Annotated[TaskSpec, "What is learned."]
    rule: Annotated[RuleSpec, "How nodes average."]
    training: Annotated[Training, "What a node does between exchanges, and how often."]
    admission: Annotated[Admission, "Who may join."]
    bounds: Annotated[Bounds, "What no node of this swarm goes beyond, whatever a peer says."]
    author: Annotated[
        str,
        Entry(
            "Who answers for this manifest, as a did:key, and may sign it; empty for nobody.",
            'a did:key of an Ed25519 key (did:key:z6Mk...), or "" for nobody',
            _is_author,
        ),
    ] = ""
    hints: Annotated[
        Hints, "Not part of the swarm's identity: these may be changed, here or in a copy, at any time."
    ] = field(default_factory=Hints)
    signature: bytes | None = None

    def __post_init__(self) -> None:
        check(self)

    @cached_property
    def swarm_id(self) -> str:
        """SHA-256 of the canonical form, in 64 lowercase hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def canonical(self) -> bytes:
        """The RFC 8785 JSON that is hashed and signed: at most `LARGEST_MANIFEST` bytes."""
        table = asdict(self)
        del table["hints"], table["signature"]
        return rfc8785.dumps(table)


def parse_canonical(data: bytes, expected_id: str) -> Manifest:
    """Read a manifest that a peer sent for the swarm `expected_id`. It has no hints and no signature.

    Raises:
        PeerFault: these are not the bytes that the id stands for.
        UserError: they are, but no manifest that this p2pnode understands.
    """
    if len(data) > LARGEST_MANIFEST:
        raise PeerFault(Fault.OVERSIZED, f"a manifest of more than {LARGEST_MANIFEST} bytes")
    if hashlib.sha256(data).hexdigest() != expected_id:
        raise PeerFault(Fault.FALSE_CLAIM, "the manifest does not have the swarm's id")
    try:
        return _parse_json(data)
    except UserError as error:
        raise UserError(f"swarm {expected_id[:12]} has no valid manifest: {error}") from error


def load_manifest(path: Path) -> Manifest:
    """Read a manifest's file and check its signature, if it has one.

    Raises:
        UserError: it cannot be read, is not a manifest, or is not signed by its author.
    """
    data = read_file(path, LARGEST_MANIFEST)
    try:
        manifest = _parse_toml(data)
        check_signature(manifest)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a new file with every key explained.

    Raises:
        UserError: something is at `path` already (it is untouched), or it cannot be written.
    """
    content = _HEADING + toml(manifest)
    if manifest.signature is not None:
        content += f'\n[signature]\ned25519 = "{manifest.signature.hex()}"\n'
    try:
        create_file(path, content.encode())
    except FileExistsError as error:
        raise UserError(f"{path} exists already: choose another name or remove it first") from error


def sign_manifest(path: Path, key: Key) -> Manifest:
    """Sign a manifest's file in place; everything else in it, comments too, stays as it is.

    Raises:
        UserError: it cannot be read or written, is not a manifest, or names another author.
    """
    data = read_file(path, LARGEST_MANIFEST)
    try:
        manifest = _parse_toml(data)
        signature = _sign(manifest, key)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    document = tomlkit.parse(data)
    document["signature"] = {"ed25519": signature.hex()}
    replace_file(path, tomlkit.dumps(document).encode())
    return replace(manifest, signature=signature)


def signed(manifest: Manifest, key: Key) -> Manifest:
    """Return `manifest` with the signature of its author.

    Raises:
        UserError: `key` is not its author's.
    """
    return replace(manifest, signature=_sign(manifest, key))


def check_signature(manifest: Manifest) -> None:
    """Look whether the signature, if there is one, is the author's.

    Raises:
        UserError: it is not.
    """
    if manifest.signature is None:
        return
    if not manifest.author:
        raise UserError("signature: there is one, but no author: remove [signature], or name the author")
    if not verify(public_of_did(manifest.author), manifest.signature, _SIGNED_AS + manifest.canonical()):
        raise UserError(
            "signature: it does not fit: the manifest was changed after its author signed it; "
            "sign it again (p2pnode swarm sign), or remove [signature]"
        )


def _sign(manifest: Manifest, key: Key) -> bytes:
    if manifest.author != key.did:
        raise UserError(f'author: this key is not the author\'s; to make it so, write author = "{key.did}"')
    return key.sign(_SIGNED_AS + manifest.canonical())


def _parse_json(data: bytes) -> Manifest:
    """Read a canonical form, without parsing anything deeper than a manifest can be."""
    depth = 0
    for mark in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if mark in b"[{" else -1
        if depth > _DEEPEST:
            raise UserError("it is nested too deeply; perhaps it needs a newer p2pnode")
    try:
        table = json.loads(data)
    except ValueError as error:  # also of numbers with thousands of digits, and of bytes that are not UTF-8
        raise UserError("not JSON") from error
    manifest = _manifest(table)
    if manifest.canonical() != data:
        raise UserError("not in canonical form")
    return manifest


def _parse_toml(data: bytes) -> Manifest:
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise UserError("not text in UTF-8") from error
    except RecursionError as error:
        raise UserError("not TOML: nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise UserError(f"not TOML: {error}") from error
    signature = _signature(table.pop("signature", None))
    return replace(_manifest(table), signature=signature)


def _signature(table: object) -> bytes | None:
    if table is None:
        return None
    match table:
        case {"ed25519": str(digits), **others} if not others and re.fullmatch("[0-9a-f]{128}", digits):
            return bytes.fromhex(digits)
    raise UserError("signature: expected ed25519 = with 128 hexadecimal digits, and nothing else")


def _manifest(table: object) -> Manifest:
    """Make a manifest of a parsed table. Its version says first whether the rest can be understood."""
    if not isinstance(table, dict):
        raise UserError("not a table")
    version = table.get("version", VERSION)
    if isinstance(version, int) and version != VERSION:
        raise UserError(f"version: this p2pnode reads version {VERSION} only; perhaps a newer one is needed")
    return read(Manifest, {"hints": asdict(Hints()), **table})
