"""A direct connection: a second TCP connection between two peers, for the bytes of one large transfer.

On a stream the event loop carries every 64 KiB through Noise and yamux. Here a whole megabyte is encrypted
at once and handed to a socket that blocks, in a thread: neither needs the interpreter, so whatever else runs
in it goes on. The connection is anonymous: its keys (`bulk_keys`) prove who is at the other end.

A record is a length of four bytes (big-endian), and so many bytes of AES-256-GCM (NIST SP 800-38D) or
ChaCha20-Poly1305 (RFC 8439): plaintext and a tag of 16. Its nonce is its number, and the length is
authenticated too, so what was changed, cut, repeated, moved or sent back fails as a forged record does.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.net.bulk_keys import CIPHERS, Keys
from p2pnode.net.pace import Pace
from p2pnode.net.wire import Meter
from p2pnode.ports import Bytes, PeerId

LENGTH, TAG = 4, 16
LEAST_PLAIN, MOST_PLAIN = 1 << 16, 1 << 20
"""Bytes of plaintext in a full record: few enough for a slow link, enough for few calls on a fast one."""

SPAN_SECONDS = 0.02
"""What passes in this time makes a record: so much must arrive before the first byte of it can be used."""

STALL_SECONDS = 5.0
"""Without one byte more, until the connection is given up; the kernel may notice after twice that."""


def next_record(size: int, seconds: float) -> int:
    """Plaintext of the next full record, when the last, of `size`, took so long: at most twice as much."""
    passes = int(size * min(2.0, SPAN_SECONDS / max(seconds, 1e-9)))
    return min(max(passes, LEAST_PLAIN), MOST_PLAIN)


class Outgoing:
    """One direction, at its sender. Blocks: for a thread.

    Attributes:
        sent: bytes that left so far, all included.
        over: nothing more can be sent.
    """

    def __init__(self, connection: socket.socket, cipher: AESGCM | ChaCha20Poly1305, pace: Pace) -> None:
        self.sent = 0
        self.over = False
        self._socket = connection
        self._cipher = cipher
        self._pace = pace
        self._number = 0
        self._size = LEAST_PLAIN
        self._out = memoryview(b"")

    def send(self, data: memoryview) -> None:
        """Send all of `data`, in records. Raises `Disconnected`."""
        if self.over:
            raise Disconnected("nothing more can be sent")
        self.over = True  # unless all of it goes well: after half a record nothing can follow
        while data:
            plain = data[: self._size]
            began = time.perf_counter()
            self._write(self._seal(plain))
            if len(plain) == self._size:
                self._size = next_record(self._size, time.perf_counter() - began)
            data = data[len(plain) :]
        self.over = False

    def _seal(self, plain: memoryview) -> memoryview:
        if not self._out:
            self._out = memoryview(bytearray(LENGTH + MOST_PLAIN + TAG))
        size = len(plain) + TAG
        self._out[:LENGTH] = size.to_bytes(LENGTH, "big")
        record = self._out[: LENGTH + size]
        nonce = self._number.to_bytes(12, "big")
        self._number += 1
        self._cipher.encrypt_into(nonce, plain, record[:LENGTH], record[LENGTH:])
        return record

    def _write(self, record: memoryview) -> None:
        """The only place where bytes leave."""
        while record:
            part = record[: self._pace.piece]
            self._pace.block(len(part))
            try:
                size = self._socket.send(part)
            except OSError as error:
                raise Disconnected(f"the direct connection takes no more: {error}") from error
            self.sent += size
            record = record[size:]


class Incoming:
    """One direction, at its receiver. Blocks: for a thread.

    Attributes:
        received: bytes that arrived so far, all included.
        over: nothing more can be received.
    """

    def __init__(self, connection: socket.socket, cipher: AESGCM | ChaCha20Poly1305) -> None:
        self.received = 0
        self.over = False
        self._socket = connection
        self._cipher = cipher
        self._number = 0
        self._header = memoryview(bytearray(LENGTH))
        self._sealed = memoryview(b"")
        self._scratch = memoryview(b"")
        self._opened = memoryview(b"")  # of a record larger than what was asked for, the rest

    def receive_into(self, view: memoryview) -> None:
        """Fill the whole of `view`.

        Raises:
            Disconnected: no more comes, or nothing for too long.
            PeerFault: `MALFORMED`: what came is not the next record. Nothing of it is in `view` then.
        """
        if self.over:
            raise Disconnected("nothing more can be received")
        self.over = True  # unless all of it goes well: after half a record nothing can follow
        while view:
            size = len(self._opened) or self._announced()
            if not self._opened and size <= len(view):
                self._open(view[:size])
            else:
                if not self._opened:
                    self._scratch = self._scratch or memoryview(bytearray(MOST_PLAIN))
                    self._open(self._scratch[:size])
                    self._opened = self._scratch[:size]
                size = min(size, len(view))
                view[:size] = self._opened[:size]
                self._opened = self._opened[size:]
            view = view[size:]
        self.over = False

    def _announced(self) -> int:
        """Plaintext of the next record."""
        self._read(self._header)
        size = int.from_bytes(self._header, "big") - TAG
        if not 0 < size <= MOST_PLAIN:
            raise PeerFault(Fault.MALFORMED, f"a record with {size} bytes of plaintext")
        return size

    def _open(self, out: memoryview) -> None:
        if len(self._sealed) < len(out) + TAG:
            self._sealed = memoryview(bytearray(MOST_PLAIN + TAG))
        sealed = self._sealed[: len(out) + TAG]
        self._read(sealed)
        nonce = self._number.to_bytes(12, "big")
        self._number += 1
        try:
            self._cipher.decrypt_into(nonce, sealed, self._header, out)
        except InvalidTag as error:
            out[:] = bytes(len(out))  # it was decrypted before it was found to be forged
            raise PeerFault(Fault.MALFORMED, "a record that its sender did not make") from error

    def _read(self, view: memoryview) -> None:
        while view:
            try:
                size = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            except OSError as error:
                raise Disconnected(f"nothing comes over the direct connection: {error}") from error
            if not size:
                raise Disconnected("the direct connection has ended")
            self.received += size
            view = view[size:]


class BulkStream:
    """Both directions; implements `ports.Stream`, except that a cancelled receive ends it too.

    Args:
        connection: between the two ends, with nothing sent over it yet that is still to be read.
        peer: who is at the other end.
        keys: of this end.
        meter: counts what is sent and received, when it is.
    """

    def __init__(self, connection: socket.socket, peer: PeerId, keys: Keys, meter: Meter) -> None:
        # The kernel keeps the time: a timeout of Python's would cost two more calls for each piece.
        connection.setblocking(True)
        limit = struct.pack("@ll", int(STALL_SECONDS), int(STALL_SECONDS % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, limit)
        self._socket = connection
        self._peer = peer
        self._meter = meter
        self._outgoing = Outgoing(connection, CIPHERS[keys.cipher](keys.sending), meter.pace)
        self._incoming = Incoming(connection, CIPHERS[keys.cipher](keys.receiving))
        self._jobs = 0
        self._over = False

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def over(self) -> bool:
        """Nothing more goes either way."""
        return self._over or (self._outgoing.over and self._incoming.over and not self._jobs)

    async def send(self, data: Bytes) -> None:
        before = self._outgoing.sent
        try:
            await self._in_thread(self._outgoing.send, memoryview(data))
        finally:
            self._meter.sent += self._outgoing.sent - before

    async def receive_into(self, view: memoryview) -> None:
        before = self._incoming.received
        try:
            await self._in_thread(self._incoming.receive_into, view)
        finally:
            self._meter.received += self._incoming.received - before

    async def _in_thread(self, job: Callable[[memoryview], None], view: memoryview) -> None:
        if self._over:
            await trio.lowlevel.checkpoint()
            raise Disconnected(f"the direct connection with {self._peer} has ended")
        self._jobs += 1
        try:
            whole = view.cast("B") if view.nbytes else memoryview(b"")  # an empty view cannot be cast
            await in_thread(partial(job, whole), self._hang_up)
        finally:
            self._jobs -= 1
            self._free()

    async def close(self) -> None:
        self._outgoing.over = True
        self._shut(socket.SHUT_WR)
        self._free()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        self._hang_up()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _hang_up(self) -> None:
        """End both directions at once; threads that send or receive return."""
        self._over = True
        self._shut(socket.SHUT_RDWR)
        self._free()

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # the peer was faster, or it is done already
            self._socket.shutdown(how)

    def _free(self) -> None:
        """Give the socket back once nobody uses it: its number may be another's then."""
        if self.over and not self._jobs:
            self._socket.close()


async def in_thread(job: Callable[[], None], give_up: Callable[[], None]) -> None:
    """Run `job` in a thread. Cancelled, call `give_up`, which makes it return, and wait until it has.

    `trio.to_thread` either waits without a word to the thread, or leaves it behind.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    task, loop = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def deliver(result: Any) -> None:  # an Outcome, which is what `reschedule` takes
        loop.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(_: object) -> trio.lowlevel.Abort:
        give_up()
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(job, deliver)
    try:
        await trio.lowlevel.wait_task_rescheduled(abort)
    finally:
        await trio.lowlevel.checkpoint_if_cancelled()
