"""The keys of a direct connection, `/p2pnode/bulk/1`, made of what two peers have told each other.

Both ends tell each other an *invitation*, 32 random bytes, over a stream that is encrypted and authenticated
already. From the two and a context that both know, HKDF-SHA256 (RFC 5869) makes one key for each direction,
used nowhere else, and the token by which the connection is recognized (`meeting`). So the keys are all the
proof of who is at the other end, and what was recorded of one connection is worth nothing for another.
"""

import os
import time
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pnode.errors import Fault, PeerFault

PROTOCOL = "/p2pnode/bulk/1"

CIPHERS = (AESGCM, ChaCha20Poly1305)
"""By the number with which an invitation names the one that its end prefers."""

SEED = 32
INVITATION = 1 + SEED

KEY, TOKEN = 32, 16

_SAMPLE = 1 << 16


@cache
def preferred() -> int:
    """Which of `CIPHERS` is faster here; looks once, for about a millisecond.

    With AES in the processor the first is four times as fast, without it ten times as slow.
    """
    sample, out = bytes(_SAMPLE), memoryview(bytearray(_SAMPLE + 16))

    def seconds(number: int) -> float:
        cipher = CIPHERS[number](bytes(KEY))
        began = time.perf_counter()
        cipher.encrypt_into(bytes(12), sample, None, out)
        return time.perf_counter() - began

    return min(range(len(CIPHERS)), key=lambda number: min(seconds(number) for _ in range(3)))


def invite(cipher: int, seed: bytes = b"") -> bytes:
    """One end's part in the keys: `INVITATION` bytes, for one use.

    Args:
        cipher: which of `CIPHERS` this end prefers.
        seed: 32 bytes that nobody can guess; else new ones.
    """
    return bytes([cipher]) + (seed or os.urandom(SEED))


@dataclass(frozen=True)
class Keys:
    """What both ends of one direct connection know, and nobody else.

    Attributes:
        name: of the protocol that is asked for when it is dialled; holds the token.
        cipher: which of `CIPHERS`.
        sending, receiving: 32 bytes each.
    """

    name: str
    cipher: int
    sending: bytes
    receiving: bytes


def agree_on(mine: bytes, theirs: bytes, context: bytes, dialled: bool) -> Keys:
    """The keys of one end, of two whose invitations these are.

    AES only where both prefer it: an end that does better without is much slower with it.

    Args:
        mine: this end's invitation.
        theirs: the other's.
        context: what the connection is for.
        dialled: whether this end dials.

    Raises:
        PeerFault: `MALFORMED`: theirs is no invitation.
    """
    if len(theirs) != INVITATION:
        raise PeerFault(Fault.MALFORMED, f"an invitation of {len(theirs)} bytes")
    secret = mine + theirs if dialled else theirs + mine

    def derive(purpose: str, size: int) -> bytes:
        info = f"{PROTOCOL} {purpose} ".encode() + context
        return HKDF(SHA256(), size, None, info).derive(secret)

    there, back = derive("dialler to listener", KEY), derive("listener to dialler", KEY)
    name = f"{PROTOCOL}/{derive('token', TOKEN).hex()}"
    cipher = int(any((mine[0], theirs[0])))
    return Keys(name, cipher, there, back) if dialled else Keys(name, cipher, back, there)
