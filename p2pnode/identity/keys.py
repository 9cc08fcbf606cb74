"""A node's key, and the names that follow from it.

One Ed25519 key is all the identity there is. Its public half is written in two ways, both of which
contain the whole public key, so either can be turned back into it:

- the libp2p peer id, `12D3KooW...`: base58btc of the identity multihash of the key's protobuf form
  (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md);
- the W3C `did:key:z6Mk...`, as which the author of a manifest is named
  (https://w3c-ccg.github.io/did-key-spec/).

A key file is the PEM text of an unencrypted PKCS #8 private key (RFC 5958, RFC 8410), which
`openssl genpkey -algorithm ed25519` writes too. Only its owner may read it. Ahead of that text, where
PEM has room for an explanation (RFC 7468, section 5.2), ours says whose key it is: nothing in PKCS #8
proves itself, and of all single bits that may flip in such a file, every fourth makes another valid key.
"""

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import base58
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pnode.errors import UserError
from p2pnode.identity.files import create_file, read_file
from p2pnode.ports import PeerId

_PEER_PREFIX = bytes(
    [
        *(0x00, 36),  # multihash: identity, of 36 bytes
        *(0x08, 0x01),  # protobuf PublicKey.Type = Ed25519
        *(0x12, 32),  # protobuf PublicKey.Data, 32 bytes
    ]
)
_DID_PREFIX = bytes([0xED, 0x01])  # multicodec ed25519-pub, as a varint
_LONGEST_NAME = 64  # characters; both forms take 52 or fewer, and decoding base58 is quadratic
_LONGEST_FILE = 4096  # bytes; an Ed25519 key takes 119, and 62 the line above it
_OWNER = re.compile(rb"^p2pnode (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """A private key with everything that follows from it.

    Attributes:
        seed: the 32 bytes that are the secret (RFC 8032 calls them the private key).
    """

    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "Key":
        """Make a new key from the system's entropy."""
        return cls(secrets.token_bytes(32))

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    @cached_property
    def peer(self) -> PeerId:
        """The libp2p peer id."""
        return peer_of(self.public)

    @cached_property
    def did(self) -> str:
        """The W3C did:key."""
        return did_of(self.public)

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; returns 64 bytes."""
        return self._private.sign(data)

    def pem(self) -> bytes:
        """Write the secret as a key file holds it."""
        return b"p2pnode %b\n%b" % (
            self.peer.encode(),
            self._private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the owner of `public` (32 bytes) signed `data`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def peer_of(public: bytes) -> PeerId:
    """Name the owner of the Ed25519 key `public` (32 bytes) as libp2p does."""
    return PeerId(base58.b58encode(_PEER_PREFIX + public).decode())


def public_of(peer: PeerId) -> bytes:
    """Return the 32 bytes of the Ed25519 key that `peer` contains.

    Raises:
        ValueError: not a peer id, or one of another kind of key.
    """
    return _unwrap(peer, _PEER_PREFIX)


def did_of(public: bytes) -> str:
    """Name the owner of the Ed25519 key `public` (32 bytes) as a did:key."""
    return "did:key:z" + base58.b58encode(_DID_PREFIX + public).decode()


def public_of_did(did: str) -> bytes:
    """Return the 32 bytes of the Ed25519 key that `did` contains.

    Raises:
        ValueError: not a did:key, or one of another kind of key.
    """
    if not did.startswith("did:key:z"):
        raise ValueError("not a did:key in base58btc")
    return _unwrap(did.removeprefix("did:key:z"), _DID_PREFIX)


def _unwrap(text: str, prefix: bytes) -> bytes:
    """Decode `text` and take `prefix` off what must be `prefix` and 32 bytes."""
    if len(text) > _LONGEST_NAME:
        raise ValueError("too long for an Ed25519 key")
    data = base58.b58decode(text)
    if not data.startswith(prefix) or len(data) != len(prefix) + 32:
        raise ValueError("not an Ed25519 key")
    if base58.b58encode(data).decode() != text:  # the decoder overlooks trailing white space
        raise ValueError("not plain base58btc")
    return data.removeprefix(prefix)


def load_key(path: Path) -> Key:
    """Read a key file.

    Raises:
        UserError: it cannot be read, others may read it, it is damaged, or it holds no Ed25519 key.
    """
    pem = read_file(path, _LONGEST_FILE)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path} is a private key that other users may access: run `chmod 600 {path}`")
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        # TypeError: it has a password. InternalError: OpenSSL refuses what was read, e.g. as Ed448.
        raise UserError(
            f"{path} holds no private key without a password in PEM (PKCS #8): if it is damaged, restore it "
            "from a backup, or move it away to get a new one"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{path} holds another kind of key: p2pnode needs an Ed25519 key")
    key = Key(private.private_bytes_raw())
    owner = _OWNER.search(pem)
    if owner and owner[1] != key.peer.encode():
        raise UserError(
            f"{path} is damaged, it no longer holds the key that it names: restore it from a backup, or move "
            "it away to get a new one"
        )
    return key


def create_key(path: Path) -> Key:
    """Make a new key and its file, which only the owner may read.

    Raises:
        UserError: the file exists (it stays as it is), or cannot be written.
    """
    key = Key.generate()
    try:
        create_file(path, key.pem(), mode=0o600)
    except FileExistsError as error:
        raise UserError(f"{path} exists already: a key is never overwritten") from error
    return key


def load_or_create_key(path: Path) -> Key:
    """Read the key file, or make it when there is none.

    Raises:
        UserError: as in `load_key` and `create_key`.
    """
    return load_key(path) if os.path.lexists(path) else create_key(path)
