"""Noise's data phase: the same bytes as the library's, any cut, and nothing accepted that was not sent."""

from collections.abc import Callable, Mapping
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import NoiseConnection

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.net import noise
from p2pnode.net.noise import (
    FIRST_BUFFER,
    LAST_NONCE,
    LENGTH,
    MOST_PLAIN,
    MOST_POOLED,
    TAG,
    Channel,
    Opener,
    Sealer,
    sealed_size,
)

from .pipe import KEYS, PipeWire, channel_on, virtual, wires

SIZES = st.sampled_from([1, 15, 4096, FIRST_BUFFER, MOST_PLAIN - 1, MOST_PLAIN, MOST_PLAIN + 1, 200_000])


def sealed(plain: bytes, sealer: Sealer) -> bytes:
    out = bytearray(sealed_size(len(plain)))
    assert sealer.seal(memoryview(plain), memoryview(out)) == len(out)
    return bytes(out)


def pieces(messages: bytes) -> list[bytes]:
    """The messages, each with its length."""
    found = []
    while messages:
        end = LENGTH + int.from_bytes(messages[:LENGTH], "big")
        found.append(messages[:end])
        messages = messages[end:]
    return found


async def receiving(data: bytes, opener: Opener | None = None) -> Channel:
    """A channel to which these bytes come, and then no more."""
    theirs, ours = wires()
    await theirs.write(data)
    theirs.outward.end()
    return Channel(ours, Sealer(KEYS[1]), opener or Opener(KEYS[0]))


async def taken(channel: Channel, cuts: list[int], total: int) -> bytes:
    """Read it all, by turns into a buffer and in place, in such cuts."""
    data = b""
    for turn in range(2 * total + 1):
        if len(data) == total:
            break
        await channel.wait()
        cut = min(cuts[turn % len(cuts)], total - len(data))
        if turn % 2:
            data += channel.take(cut)
        else:
            view = bytearray(cut)
            data += view[: channel.take_into(memoryview(view))]
    return data


@given(
    st.lists(SIZES, min_size=1, max_size=4),
    st.lists(SIZES | st.integers(1000, 70_000), min_size=1, max_size=4),
    st.integers(1, 70_000),
    st.sampled_from([700, 5000, 1 << 20]),
)
def test_what_is_put_in_one_piece_or_many_comes_out_in_any_cuts(
    sizes: list[int], cuts: list[int], piece: int, room: int
) -> None:
    plain = [Random(size).randbytes(size) for size in sizes]

    async def main() -> None:
        near, far = wires(room, max(piece, 300))

        async def send() -> None:
            channel = channel_on(near, True)
            for data in plain:
                if channel.queued + sealed_size(len(data)) > noise.OUT_BUFFER:
                    await channel.write()
                channel.put(data)
            await channel.write()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await taken(channel_on(far, False), cuts, sum(sizes)) == b"".join(plain)

    virtual(main)


def shaken() -> tuple[NoiseConnection, NoiseConnection]:
    """The library's own, after a handshake."""
    ends = [NoiseConnection.from_name(b"Noise_NN_25519_ChaChaPoly_SHA256") for _ in range(2)]
    ends[0].set_as_initiator()
    ends[1].set_as_responder()
    for end in ends:
        end.start_handshake()
    ends[1].read_message(ends[0].write_message())
    ends[0].read_message(ends[1].write_message())
    return ends[0], ends[1]


def test_the_library_opens_what_is_sealed_here() -> None:
    near, far = shaken()
    plain = Random(0).randbytes(3 * MOST_PLAIN + 5)
    state = near.noise_protocol.cipher_state_encrypt
    messages = pieces(sealed(plain, Sealer(state.k, state.n)))
    assert b"".join(far.decrypt(message[LENGTH:]) for message in messages) == plain


async def test_what_the_library_sealed_is_opened_here() -> None:
    near, far = shaken()
    plain = [Random(size).randbytes(size) for size in (0, 1, 5000, MOST_PLAIN, 0)]
    messages = [near.encrypt(data) for data in plain]
    data = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    state = far.noise_protocol.cipher_state_decrypt
    channel = await receiving(data, Opener(state.k, state.n))
    assert await channel.read(5001 + MOST_PLAIN) == b"".join(plain)
    with pytest.raises(Disconnected):
        await channel.wait()


def forged(messages: list[bytes]) -> list[bytes]:
    changed = bytearray(messages[1])
    changed[LENGTH] ^= 1
    return [messages[0], bytes(changed)]


def with_another_length(messages: list[bytes]) -> list[bytes]:
    size = int.from_bytes(messages[1][:LENGTH], "big") - 1
    return [messages[0], size.to_bytes(2, "big") + messages[1][LENGTH:]]


BROKEN: Mapping[str, Callable[[list[bytes]], list[bytes]]] = {
    "forged": forged,
    "another length": with_another_length,
    "repeated": lambda messages: [messages[0], messages[0]],
    "left out": lambda messages: [messages[0], messages[2]],
    "moved": lambda messages: [messages[0], messages[2], messages[1]],
    "no tag": lambda messages: [messages[0], (TAG - 1).to_bytes(2, "big") + bytes(TAG - 1)],
    "no bytes": lambda messages: [messages[0], bytes(2)],
    "other key": lambda messages: [messages[0], sealed(bytes(100), Sealer(KEYS[1], 1))],
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("view", [10, 1000], ids=["in place", "into a buffer"])
async def test_only_what_was_sent_next_is_taken(broken: str, view: int) -> None:
    sealer = Sealer(KEYS[0])
    messages = [sealed(bytes([number]) * 100, sealer) for number in range(3)]
    channel = await receiving(b"".join(BROKEN[broken](messages)))
    assert await channel.read(100) == bytes(100)
    with pytest.raises(PeerFault) as caught:  # noqa: PT012  # either of the two finds it
        await channel.wait()
        channel.take_into(memoryview(bytearray(view)))
    assert caught.value.fault == Fault.MALFORMED


@pytest.mark.parametrize("left", [0, 1, LENGTH, LENGTH + TAG + 99])
async def test_a_message_cut_short_by_the_end_is_never_taken(left: int) -> None:
    channel = await receiving(sealed(bytes(100), Sealer(KEYS[0]))[:left])
    with pytest.raises(Disconnected):
        await channel.wait()


async def test_the_last_number_is_never_used() -> None:
    sealer = Sealer(KEYS[0], LAST_NONCE - 1)
    last = sealed(b"last", sealer)
    with pytest.raises(Disconnected):
        sealed(b"one more", sealer)
    channel = await receiving(last + last, Opener(KEYS[0], LAST_NONCE - 1))
    assert await channel.read(4) == b"last"
    await channel.wait()
    with pytest.raises(Disconnected):
        channel.take(4)


async def test_idle_connections_hold_no_large_buffer_and_the_pool_is_bounded() -> None:
    noise._pool.clear()
    near, far = wires(room=1 << 26)
    senders = [channel_on(near, True) for _ in range(3 * MOST_POOLED)]
    for sender in senders:
        sender.put(bytes(100_000))
    for sender in senders:
        await sender.write()
    assert all(sender._out is None for sender in senders)
    assert len(noise._pool) == MOST_POOLED
    idle = channel_on(far, False)
    assert len(idle._received) == FIRST_BUFFER
    assert not idle._scratch


async def test_a_small_conversation_keeps_small_buffers() -> None:
    channel = await receiving(b"".join(sealed(bytes(1000), sealer) for sealer in [Sealer(KEYS[0])] * 100))
    for _ in range(100):
        await channel.wait()
        assert channel.take_into(memoryview(bytearray(1000))) == 1000
    assert len(channel._received) == FIRST_BUFFER


class Refusing(PipeWire):
    """A wire that has ended."""

    async def write(self, data: object) -> None:
        raise Disconnected("it has ended")


async def test_a_buffer_comes_back_from_a_write_that_fails() -> None:
    noise._pool.clear()
    near, _ = wires()
    channel = channel_on(Refusing(near.inward, near.outward), True)
    with pytest.raises(Disconnected):
        await channel.send(b"lost")
    assert len(noise._pool) == 1
