"""The entry of each fuzzed part: takes any bytes; raises only when there is a bug.

They say in a few bytes what a hostile peer does, so that most inputs get past the encryption.

- `noise`: records of a byte of kind, two of size, then data. Kind 0 is sealed as the next message; 1 is
  sealed and then broken at one place; all else is what a stranger may write: any bytes.
- `yamux`: records of two bytes of size, then data: sealed with the right key, one Noise message each.
- `negotiation`: see `hostile`; `hello`: `greeting`; `offer`: `offers`; `state`: `giving`; `manifest` and
  `checkpoint`: `saved`.
- `bulk`: a first byte that is odd is followed by what a stranger says who asks for a direct connection, any
  bytes; one that is even by records as in `noise`, but of a direct connection.
"""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import cast

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2pnode.errors import Disconnected, PeerFault
from p2pnode.net.budget import Budget
from p2pnode.net.bulk import MOST_PLAIN, TAG, Incoming, Outgoing
from p2pnode.net.bulk_keys import PROTOCOL, agree_on, invite
from p2pnode.net.multistream import agree
from p2pnode.net.noise import Channel, Opener, Sealer
from p2pnode.net.pace import Pace
from p2pnode.net.yamux import Yamux, YamuxStream
from p2pnode.ports import Bytes, PeerId
from tests.fuzz.giving import state
from tests.fuzz.greeting import hello
from tests.fuzz.hostile import negotiation
from tests.fuzz.offers import offer
from tests.fuzz.saved import checkpoint, manifest

THERE, BACK = bytes(32), bytes([1]) * 32
TOKEN = f"{PROTOCOL}/{bytes(16).hex()}"
MOST_READ = 1 << 16
KEPT = 1 << 20


class Script:
    """A wire from which the peer's bytes come, and on which what is written goes nowhere."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    async def write(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()


def noise(data: bytes) -> None:
    """Bytes that a `Channel` receives."""
    sealer = Sealer(THERE)
    wire = bytearray()
    while len(data) >= 3:
        kind, size = data[0], int.from_bytes(data[1:3], "big")
        record, data = data[3 : 3 + size], data[3 + size :]
        if kind > 1:
            wire += record
            continue
        message = sealed(sealer, record)
        if kind == 1:
            message[len(record) % len(message)] ^= 1
        wire += message
    trio.run(_take_all, Channel(Script(bytes(wire)), Sealer(BACK), Opener(THERE)))


async def _take_all(channel: Channel) -> None:
    turn = 0
    try:
        while True:
            await channel.wait()
            turn += 1
            if turn % 2:
                assert channel.take(1 + turn % 100)
            else:
                assert channel.take_into(memoryview(bytearray(1 + 37 * turn % MOST_READ)))
    except (PeerFault, Disconnected):
        pass


def yamux(data: bytes) -> None:
    """Frames that a `Yamux` receives, whose streams are read, answered and closed."""
    sealer = Sealer(THERE)
    wire = bytearray()
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "big")
        wire += sealed(sealer, data[2 : 2 + size])
        data = data[2 + size :]
    trio.run(_serve, Channel(Script(bytes(wire)), Sealer(BACK), Opener(THERE)))


async def _serve(channel: Channel) -> None:
    node = Budget(KEPT)
    muxer = Yamux(channel, PeerId("stranger"), False, node)
    streams: list[YamuxStream] = [muxer.open()]
    async with trio.open_nursery() as nursery:

        def accept(stream: YamuxStream) -> None:
            streams.append(stream)
            nursery.start_soon(HANDLERS[len(streams) % len(HANDLERS)], stream)

        with suppress(PeerFault):
            await muxer.run(accept)
    for stream in streams:
        await stream.reset()
    assert not muxer.streams
    assert node._spent == 0


async def _echo(stream: YamuxStream) -> None:
    view = memoryview(bytearray(100))
    try:
        while True:
            await stream.receive_into(view)
            await stream.send(view)
    except Disconnected:
        await stream.close()


async def _read_much(stream: YamuxStream) -> None:
    try:
        await stream.receive_into(memoryview(bytearray(1_000_000)))
    except Disconnected:
        await stream.reset()


async def _ignore(stream: YamuxStream) -> None:
    await stream.close()


async def _finish(stream: YamuxStream) -> None:
    await stream.finish()


HANDLERS = (_echo, _read_much, _ignore, _finish)


def bulk(data: bytes) -> None:
    """Bytes over a connection that may become a direct one, and over one that is."""
    if data[:1] and data[0] % 2:
        trio.run(_ask, data[1:])
    else:
        _take_records(data[1:])


async def _ask(data: bytes) -> None:
    async def write(line: bytes) -> None:
        await trio.lowlevel.checkpoint()

    script = Script(data)

    async def read(size: int) -> bytes:
        line = bytearray(size)
        if await script.receive_into(memoryview(line)) < size:
            raise Disconnected("it has said all")
        return bytes(line)

    with suppress(Disconnected):
        assert await agree(read, write, ["/noise", TOKEN]) in ("/noise", TOKEN)
    with suppress(PeerFault):
        assert agree_on(invite(0, THERE), data, data, True).name != TOKEN


class ScriptSocket:
    """A socket from which the peer's bytes come."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def recv_into(self, view: memoryview, *_: int) -> int:
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _take_records(data: bytes) -> None:
    there = Outgoing(cast("socket.socket", None), AESGCM(THERE), Pace())
    wire = bytearray()
    good = b""
    while len(data) >= 3:
        kind, size = data[0], int.from_bytes(data[1:3], "big")
        record, data = data[3 : 3 + size], data[3 + size :]
        if kind > 1 or not record:
            wire += record
            continue
        message = bytearray(there._seal(memoryview(record)))
        if kind == 1:
            message[len(record) % len(message)] ^= 1
        wire += message
        good += record
    incoming = Incoming(cast("socket.socket", ScriptSocket(bytes(wire))), AESGCM(THERE))
    with suppress(PeerFault, Disconnected):
        for turn in range(1, len(wire) + 2):
            view = bytearray(1 + 37 * turn % MOST_READ)
            incoming.receive_into(memoryview(view))
            assert good.startswith(view)  # nothing that the peer did not send, nothing twice
            good = good[len(view) :]
    assert incoming.over
    assert len(incoming._sealed) <= MOST_PLAIN + TAG


def sealed(sealer: Sealer, plain: bytes) -> bytearray:
    """One message, which may be empty."""
    out = bytearray(len(plain) + 18)
    if plain:
        sealer.seal(memoryview(plain), memoryview(out))
    else:  # `Sealer` never makes it; a peer may
        out[:2] = (16).to_bytes(2, "big")
        sealer._cipher.encrypt_into(sealer._number(), b"", None, memoryview(out)[2:])
    return out


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "noise": noise,
    "yamux": yamux,
    "bulk": bulk,
    "hello": hello,
    "offer": offer,
    "negotiation": negotiation,
    "state": state,
    "manifest": manifest,
    "checkpoint": checkpoint,
}
