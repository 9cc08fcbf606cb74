"""Keys, and the names that follow from them."""

import os
from pathlib import Path

import base58
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.errors import UserError
from p2pnode.identity.keys import (
    Key,
    create_key,
    did_of,
    load_key,
    load_or_create_key,
    public_of,
    public_of_did,
    verify,
)
from p2pnode.ports import PeerId

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS)
def test_both_names_of_a_key_lead_back_to_it(seed: bytes) -> None:
    key = Key(seed)
    assert public_of(key.peer) == key.public
    assert public_of_did(key.did) == key.public


def test_the_peer_id_is_the_one_that_libp2p_computes() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for number in range(20):
        pair = create_new_key_pair(bytes([number]) * 32)
        key = Key(bytes([number]) * 32)
        assert key.public == pair.public_key.to_bytes()
        assert key.peer == str(ID.from_pubkey(pair.public_key))


def test_the_did_is_the_one_of_the_specification() -> None:
    # The first Ed25519 example of https://w3c-ccg.github.io/did-key-spec/
    did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    assert Key(bytes(32)).did == did
    assert did_of(public_of_did(did)) == did


def test_the_signature_is_the_one_of_rfc_8032() -> None:
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert Key(bytes.fromhex(seed)).sign(b"").hex() == signature


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "12D3KooW",
        Key(bytes(32)).peer + "\n",
        Key(bytes(32)).peer[:-1],
        Key(bytes(32)).peer[:-1] + "0",
        Key(bytes(32)).did,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "é" * 52,
        "1" * 1_000_000,
    ],
    ids=range(9),
)
def test_what_is_not_an_ed25519_peer_id_is_refused(peer: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for logs only
        public_of(PeerId(peer))


@pytest.mark.parametrize(
    "did",
    [
        "did:key:",
        "did:web:example.org",
        "did:key:" + Key(bytes(32)).did.removeprefix("did:key:z"),
        Key(bytes(32)).did + " ",
        "did:key:z" + base58.b58encode(bytes([0xE7, 0x01]) + bytes(33)).decode(),  # secp256k1
    ],
)
def test_what_is_not_an_ed25519_did_is_refused(did: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for logs only
        public_of_did(did)


@given(SEEDS, st.binary(max_size=64), st.integers(0, 511))
def test_a_signature_holds_for_its_key_and_its_data_only(seed: bytes, data: bytes, bit: int) -> None:
    key = Key(seed)
    signature = key.sign(data)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert verify(key.public, signature, data)
    assert not verify(key.public, bytes(flipped), data)
    assert not verify(key.public, signature, data + b"\0")
    assert not verify(Key(bytes(32)).public, signature, data) or seed == bytes(32)


def test_a_signature_or_key_of_the_wrong_size_verifies_nothing() -> None:
    key = Key(bytes(32))
    assert not verify(key.public, b"", b"")
    assert not verify(b"", key.sign(b""), b"")


def test_two_generated_keys_differ_and_the_secret_is_not_shown() -> None:
    first, second = Key.generate(), Key.generate()
    assert first != second
    assert "seed" not in repr(first)


def test_a_created_key_is_loaded_again_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    old = os.umask(0)
    try:
        key = load_or_create_key(path)
    finally:
        os.umask(old)
    assert load_key(path) == load_or_create_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    key = create_key(path)
    with pytest.raises(UserError, match="never overwritten"):
        create_key(path)
    assert load_key(path) == key
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_access_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=r"chmod 600 .*identity\.key"):
        load_or_create_key(path)


def _pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no private key"),
        (b"\xff\x00", "holds no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no private key"),
        (_pem(Ed25519PrivateKey.from_private_bytes(bytes(32)))[:60], "holds no private key"),
        (_pem(Ed25519PrivateKey.from_private_bytes(bytes(32)), b"password"), "holds no private key"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "another kind of key"),
        (b"-" * 5000, "longer than"),
    ],
)
def test_a_file_without_an_ed25519_key_is_one_clear_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "identity.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        load_key(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_key(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot read"):
        load_key(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        load_or_create_key(tmp_path / "absent" / "identity.key")


def test_a_dangling_link_is_not_taken_for_a_missing_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match="cannot read"):
        load_or_create_key(path)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException | type[BaseException]
) -> None:
    def interrupt(descriptor: int) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises((KeyboardInterrupt, UserError)):
        create_key(tmp_path / "identity.key")
    assert not list(tmp_path.iterdir())
