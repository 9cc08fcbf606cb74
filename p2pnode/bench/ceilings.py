"""What bounds every path on this machine: the socket, the cipher, both together, and memory itself.

*Socket*: bytes as they are over trio's sockets. *Cipher*: ChaCha20-Poly1305 in messages of Noise's largest
size; one process encrypts and the other decrypts, and no byte goes between them. *Sealed*: encrypt and send
here, receive and decrypt there, with sockets that block and buffers that fit: what a path with Noise could
reach if nothing else cost anything. *Bulk sealed*: the same in records of a megabyte, with the cipher that is
faster here: the ceiling of direct connections. *Copy*: a block from one place to another.
"""

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2pnode.bench.transfer import BLOCK, PATIENCE, Accept, Path, Pipe, touched
from p2pnode.net.bulk import MOST_PLAIN as RECORD
from p2pnode.net.bulk_keys import CIPHERS, preferred
from p2pnode.net.noise import MOST_PLAIN, TAG
from p2pnode.ports import Bytes

HOST = "127.0.0.1"
PIECE = 1 << 18
"""Bytes for one call of the socket."""

GROUP = 4 * MOST_PLAIN
"""Plaintext for one call of the socket: four messages."""

CHACHA = CIPHERS.index(ChaCha20Poly1305)


class SocketPipe:
    """A socket of trio's."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = touched()

    async def send(self, data: Bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            await self._stream.send_all(view[start : start + PIECE])

    async def take(self, most: int) -> Bytes:
        size = await self._stream.socket.recv_into(self._buffer[: min(most, PIECE)])
        assert size, "the other process has gone"
        return self._buffer[:size]


@asynccontextmanager
async def _listen_with_trio() -> AsyncIterator[tuple[str, Accept]]:
    [listener] = await trio.open_tcp_listeners(0, host=HOST)

    async def accept() -> Pipe:
        return SocketPipe(await listener.accept())

    async with listener:
        yield str(listener.socket.getsockname()[1]), accept


@asynccontextmanager
async def _dial_with_trio(address: str, _count: int) -> AsyncIterator[Sequence[Pipe]]:
    async with await trio.open_tcp_stream(HOST, int(address)) as stream:
        yield [SocketPipe(stream)]


class Cipher:
    """Encrypts and decrypts from buffer to buffer; the key is known to everybody.

    Args:
        number: of `CIPHERS`.
        piece: bytes of plaintext in a message.
    """

    def __init__(self, number: int, piece: int) -> None:
        self._cipher = CIPHERS[number](bytes(32))
        self._piece = piece
        self._sent = self._received = 0

    def sealed_size(self, plain: int) -> int:
        """Bytes that so much plaintext becomes."""
        return plain + -(-plain // self._piece) * TAG

    def seal(self, plain: memoryview, out: memoryview) -> int:
        """Encrypt into as many messages as it takes; returns how many bytes they have."""
        end = 0
        for start in range(0, len(plain), self._piece):
            piece = plain[start : start + self._piece]
            size = len(piece) + TAG
            self._cipher.encrypt_into(self._sent.to_bytes(12, "little"), piece, None, out[end : end + size])
            self._sent += 1
            end += size
        return end

    def open(self, sealed: memoryview, out: memoryview) -> None:
        """Decrypt what `seal` made, when it has its turn."""
        for start in range(0, len(out), self._piece):
            piece = out[start : start + self._piece]
            first = start + start // self._piece * TAG
            message = sealed[first : first + len(piece) + TAG]
            self._cipher.decrypt_into(self._received.to_bytes(12, "little"), message, None, piece)
            self._received += 1

    def rewind(self) -> None:
        """Let the messages that were opened have their turn again."""
        self._received = 0


class SealedPipe:
    """Encrypts, and sends at once; receives, and decrypts at once. Both sides cut in the same places.

    Args:
        connection: blocks.
        cipher: whose messages are sent.
        group: bytes of plaintext for one call of the socket.
    """

    def __init__(self, connection: socket.socket, cipher: Cipher, group: int) -> None:
        self._socket = connection
        self._cipher = cipher
        self._group = group
        self._sealed = memoryview(bytearray(cipher.sealed_size(group)))
        self._plain = touched()

    async def send(self, data: Bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), self._group):
            size = self._cipher.seal(view[start : start + self._group], self._sealed)
            self._socket.sendall(self._sealed[:size])

    async def take(self, most: int) -> Bytes:
        most = min(most, len(self._plain))
        for start in range(0, most, self._group):
            plain = self._plain[start : min(start + self._group, most)]
            sealed = self._sealed[: self._cipher.sealed_size(len(plain))]
            size = self._socket.recv_into(sealed, flags=socket.MSG_WAITALL)
            assert size == len(sealed), "the other process has gone"
            self._cipher.open(sealed, plain)
        return self._plain[:most]


def _blocking(pipe: Callable[[socket.socket], Pipe]) -> Path:
    """A path over sockets that block."""

    @asynccontextmanager
    async def listen() -> AsyncIterator[tuple[str, Accept]]:
        async def accept() -> Pipe:
            connection, _ = listener.accept()
            connection.settimeout(None)
            return pipe(connection)

        with socket.create_server((HOST, 0)) as listener:
            listener.settimeout(PATIENCE)
            yield str(listener.getsockname()[1]), accept

    @asynccontextmanager
    async def dial(address: str, _count: int) -> AsyncIterator[Sequence[Pipe]]:
        with socket.create_connection((HOST, int(address))) as connection:
            yield [pipe(connection)]

    return Path(listen, dial)


class CipherPipe:
    """Encrypts what is sent, which goes nowhere; what is received was encrypted beforehand."""

    def __init__(self) -> None:
        self._cipher = Cipher(CHACHA, MOST_PLAIN)
        self._out = memoryview(bytearray(self._cipher.sealed_size(len(BLOCK))))
        self._sealed = memoryview(bytearray(self._cipher.sealed_size(len(BLOCK))))
        self._plain = touched()
        self._cipher.seal(memoryview(BLOCK), self._sealed)

    async def send(self, data: Bytes) -> None:
        self._cipher.seal(memoryview(data), self._out)

    async def take(self, most: int) -> Bytes:
        whole = -(-most // MOST_PLAIN) * MOST_PLAIN
        self._cipher.rewind()
        self._cipher.open(self._sealed, self._plain[:whole])
        return self._plain[:most]


class CopyPipe:
    """Copies what is sent to memory of its own, and there what is received."""

    def __init__(self) -> None:
        self._memory = touched()

    async def send(self, data: Bytes) -> None:
        self._memory[: len(data)] = data

    async def take(self, most: int) -> Bytes:
        await self.send(memoryview(BLOCK)[:most])
        return self._memory[:most]


def _alone(pipe: Callable[[], Pipe]) -> Path:
    """A path that leads nowhere: each process works for itself."""

    @asynccontextmanager
    async def listen() -> AsyncIterator[tuple[str, Accept]]:
        async def accept() -> Pipe:
            return pipe()

        yield "nowhere", accept

    @asynccontextmanager
    async def dial(_address: str, _count: int) -> AsyncIterator[Sequence[Pipe]]:
        yield [pipe()]

    return Path(listen, dial)


SOCKET = Path(_listen_with_trio, _dial_with_trio)
SEALED = _blocking(lambda connection: SealedPipe(connection, Cipher(CHACHA, MOST_PLAIN), GROUP))
BULK_SEALED = _blocking(lambda connection: SealedPipe(connection, Cipher(preferred(), RECORD), RECORD))
CIPHER = _alone(CipherPipe)
COPY = _alone(CopyPipe)
