"""The data phase of Noise: everything that crosses a connection once hands are shaken.

The handshake (pattern XX, `Noise_XX_25519_ChaChaPoly_SHA256`) is the library's, and leaves each side with
two keys, one for each direction. From then on every message is a two-byte length (big-endian) and at most
65,535 bytes: up to 65,519 of plaintext, encrypted, and a tag of 16 by which the receiver knows that
nobody changed it. The nonce of a message is its number, so a message lost, repeated or moved fails like a
forged one. Number 2^64 - 1 is reserved: a key is done before it, and the connection with it. Sources: the
Noise specification (noiseprotocol.org/noise.html), sections 5.1, 11.3 and 13; libp2p's framing
(github.com/libp2p/specs/blob/master/noise/README.md); RFC 8439 for ChaCha20-Poly1305.

The cipher costs a third of a second a gigabyte; what costs more is everything around it. So many messages
are made in one buffer that is written at once, and many are received into one buffer. A message that fits
is opened right where its bytes are wanted. The large buffers for sending are lent from a pool, so that an
idle connection holds none.
"""

from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.ports import Bytes

LENGTH, TAG = 2, 16
MOST_PLAIN = 65_535 - TAG
"""Bytes of plaintext in one message."""

LAST_NONCE = 2**64 - 1
"""Never used: the specification reserves it."""

FIRST_BUFFER = 16 * 1024
LARGE_BUFFER = 4 * (LENGTH + 65_535)
"""Received at once at most: small conversations need little, and a transfer few system calls."""

OUT_BUFFER = 512 * 1024
MOST_POOLED = 8
"""Sent at once at most, and how many such buffers wait for the next use: each connection that is busy
sending needs two."""


class Wire(Protocol):
    """The bytes below."""

    async def receive_into(self, view: memoryview) -> int:
        """Wait for some bytes; 0 when no more come."""
        ...

    async def write(self, data: Bytes) -> None:
        """Write all of `data`. Raises `Disconnected` when the peer takes no more."""
        ...


class Sealer:
    """Makes messages.

    Args:
        key: 32 bytes.
        nonce: of the first message.
    """

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = nonce

    def seal(self, plain: memoryview, out: memoryview) -> int:
        """Encrypt all of `plain` into as many messages as it takes; returns how many bytes they have.

        Raises:
            Disconnected: the key has made all the messages it may.
        """
        end = 0
        for start in range(0, len(plain), MOST_PLAIN):
            piece = plain[start : start + MOST_PLAIN]
            sealed = len(piece) + TAG
            out[end : end + LENGTH] = sealed.to_bytes(LENGTH, "big")
            end += LENGTH
            self._cipher.encrypt_into(self._number(), piece, None, out[end : end + sealed])
            end += sealed
        return end

    def _number(self) -> bytes:
        number, self._nonce = _next(self._nonce)
        return number


class Opener:
    """Opens messages, in their order.

    Args:
        key: 32 bytes.
        nonce: of the first message.
    """

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = nonce

    def open(self, sealed: memoryview, out: memoryview) -> None:
        """Decrypt a message, without its length, into `out`, which has just the plaintext's size.

        Raises:
            Disconnected: as in `Sealer.seal`.
            PeerFault: `MALFORMED`: it is not the next message of this key. `out` then holds anything.
        """
        number, self._nonce = _next(self._nonce)
        try:
            self._cipher.decrypt_into(number, sealed, None, out)
        except InvalidTag as error:
            raise PeerFault(Fault.MALFORMED, "a Noise message that its sender did not make") from error


def _next(nonce: int) -> tuple[bytes, int]:
    if nonce >= LAST_NONCE:
        raise Disconnected("a key has made all the messages it may")
    return bytes(4) + nonce.to_bytes(8, "little"), nonce + 1


def sealed_size(plain: int) -> int:
    """Bytes that so much plaintext takes on the wire."""
    return plain + -(-plain // MOST_PLAIN) * (LENGTH + TAG)


_pool: list[bytearray] = []


class Channel:
    """A connection's plaintext, both ways. One task reads it, and one writes what others have put in.

    Args:
        wire: the bytes below.
        sealer: for what goes out.
        opener: for what comes in.
    """

    def __init__(self, wire: Wire, sealer: Sealer, opener: Opener) -> None:
        self._wire = wire
        self._sealer = sealer
        self._opener = opener
        self._received = memoryview(bytearray(FIRST_BUFFER))
        self._start, self._end = 0, 0  # of what is received and not opened yet
        self._opened = memoryview(b"")  # of the last message, what nobody has taken yet
        self._scratch = memoryview(b"")
        self._out: bytearray | None = None
        self._filled = 0

    # --- receiving ---

    async def wait(self) -> None:
        """Wait until there is something to take.

        Raises:
            Disconnected: no more comes.
            PeerFault: `MALFORMED`: what came was not sent by the peer.
        """
        while not self._opened:
            if not (size := self._next()):
                await self._receive()
            elif size > TAG:
                return
            elif size == TAG:
                self._open(memoryview(bytearray()))  # empty, which the specification allows
            else:
                raise PeerFault(Fault.MALFORMED, f"a Noise message of {size} bytes")

    def take_into(self, view: memoryview) -> int:
        """Fill `view` as far as one message goes; returns how far. Only after `wait`."""
        size = self._next() - TAG
        if not self._opened and size <= len(view):
            self._open(view[:size])
            return size
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    def take(self, most: int) -> memoryview:
        """Some bytes, at most so many, at least one; they stay until the next `wait`. Only after `wait`."""
        if not self._opened:
            if not self._scratch:
                self._scratch = memoryview(bytearray(MOST_PLAIN))
            self._opened = self._scratch[: self._next() - TAG]
            self._open(self._opened)
        taken, self._opened = self._opened[:most], self._opened[most:]
        return taken

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes; raises as `wait` does."""
        data = b""
        while len(data) < size:
            await self.wait()
            data += self.take(size - len(data))
        return data

    def _next(self) -> int:
        """Size of the next message, with its tag; 0 if not all of it is here."""
        if self._end - self._start < LENGTH:
            return 0
        size = int.from_bytes(self._received[self._start : self._start + LENGTH], "big")
        if size < TAG:
            return size or 1  # too short for a tag: no message has this size
        return size if self._end - self._start >= LENGTH + size else 0

    def _open(self, out: memoryview) -> None:
        first = self._start + LENGTH
        self._start = first + len(out) + TAG
        self._opener.open(self._received[first : self._start], out)

    async def _receive(self) -> None:
        """Receive some bytes, behind what is already here."""
        if self._start:
            rest = self._end - self._start
            self._received[:rest] = self._received[self._start : self._end]
            self._start, self._end = 0, rest
        if self._end == len(self._received):  # a message larger than the first buffer
            larger = memoryview(bytearray(LARGE_BUFFER))
            larger[: self._end] = self._received[: self._end]
            self._received = larger
        size = await self._wire.receive_into(self._received[self._end :])
        if not size:
            raise Disconnected("the connection has ended")
        self._end += size

    # --- sending ---

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        return self._filled

    def put(self, plain: Bytes) -> None:
        """Encrypt `plain` behind all else that waits. It is the caller's again at once.

        Raises:
            Disconnected: as in `Sealer.seal`.
        """
        view = memoryview(plain)
        if self._out is None:
            self._out = _pool.pop() if _pool else bytearray(OUT_BUFFER)
        assert self._filled + sealed_size(len(view)) <= OUT_BUFFER  # who puts looks at `queued` first
        self._filled += self._sealer.seal(view, memoryview(self._out)[self._filled :])

    async def write(self) -> None:
        """Write what waits; more may be put meanwhile. Raises `Disconnected`."""
        out, size = self._out, self._filled
        if out is None:
            return
        self._out, self._filled = None, 0
        try:
            await self._wire.write(memoryview(out)[:size])
        finally:
            if len(_pool) < MOST_POOLED:
                _pool.append(out)

    async def send(self, plain: bytes) -> None:
        """Put a few bytes and write them."""
        self.put(plain)
        await self.write()
