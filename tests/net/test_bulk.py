"""A direct connection: any cut, both ways at once, and nothing accepted that was not sent next."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.net import bulk
from p2pnode.net.bulk import LEAST_PLAIN, LENGTH, MOST_PLAIN, TAG, Incoming, Outgoing, next_record
from p2pnode.net.bulk_keys import CIPHERS, agree_on, invite, preferred
from p2pnode.net.pace import Pace

from .contract import MIB, noise, receive
from .direct import both_keys, bulk_pair, exchanged

SIZES = st.sampled_from([1, LEAST_PLAIN - 1, LEAST_PLAIN, LEAST_PLAIN + 1]) | st.integers(1, 200_000)
CIPHER_NUMBERS = range(len(CIPHERS))


# Keys


@pytest.mark.parametrize("mine", CIPHER_NUMBERS)
@pytest.mark.parametrize("theirs", [*CIPHER_NUMBERS, 255])
def test_both_ends_find_the_same_keys_and_aes_only_if_both_like_it(mine: int, theirs: int) -> None:
    one, other = invite(mine), invite(theirs)
    here, there = agree_on(one, other, b"context", True), agree_on(other, one, b"context", False)
    assert (here.name, here.cipher) == (there.name, there.cipher)
    assert (here.sending, here.receiving) == (there.receiving, there.sending)
    assert CIPHERS[here.cipher].__name__ == ("AESGCM" if mine == theirs == 0 else "ChaCha20Poly1305")


def test_all_that_is_derived_differs_and_depends_on_all_that_was_said() -> None:
    one, other = invite(0, bytes(32)), invite(0, bytes([1]) * 32)
    variants = [
        agree_on(one, other, b"context", True),
        agree_on(one, other, b"another", True),
        agree_on(one, invite(0, bytes([2]) * 32), b"context", True),
        agree_on(invite(1, bytes(32)), other, b"context", True),
        agree_on(other, one, b"context", True),
    ]
    secrets = [secret for keys in variants for secret in (keys.name, keys.sending, keys.receiving)]
    assert len(set(secrets)) == 3 * len(variants)


@pytest.mark.parametrize("size", [0, 1, 32, 34, 1000])
def test_what_is_no_invitation_is_a_fault(size: int) -> None:
    with pytest.raises(PeerFault) as caught:
        agree_on(invite(0), bytes(size), b"", True)
    assert caught.value.fault == Fault.MALFORMED


def test_invitations_are_never_the_same_and_the_preference_is_a_cipher() -> None:
    assert invite(preferred()) != invite(preferred())
    assert preferred() in CIPHER_NUMBERS


# Records


def test_a_record_holds_what_passes_in_its_time_within_bounds() -> None:
    assert next_record(LEAST_PLAIN, 1e-6) == 2 * LEAST_PLAIN
    assert next_record(MOST_PLAIN, 0.0) == MOST_PLAIN
    assert next_record(MOST_PLAIN, 0.04) == MOST_PLAIN // 2
    assert next_record(MOST_PLAIN, 100.0) == LEAST_PLAIN


def records(*plain: bytes, seed: int = 0, cipher: int = 0, back: bool = False) -> list[bytes]:
    """Each as one record, as the dialler makes them, or the listener."""
    keys = both_keys(cipher, seed)[back]
    outgoing = Outgoing(socket.socket(), CIPHERS[cipher](keys.sending), Pace())
    outgoing._socket.close()
    return [bytes(outgoing._seal(memoryview(one))) for one in plain]


@contextmanager
def arriving(data: bytes, cipher: int = 0) -> Iterator[Incoming]:
    """The listener's direction, to which these bytes come, and then no more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)  # few enough for the sockets to hold
        theirs.shutdown(socket.SHUT_WR)
        yield Incoming(ours, CIPHERS[cipher](both_keys(cipher)[1].receiving))


def altered(record: bytes, place: int) -> bytes:
    return record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]


def announcing(size: int) -> bytes:
    return size.to_bytes(LENGTH, "big") + bytes(1000)


Break = Callable[[list[bytes]], list[bytes]]
BROKEN: Mapping[str, Break] = {
    "changed": lambda sent: [sent[0], altered(sent[1], LENGTH + 3), sent[2]],
    "other tag": lambda sent: [sent[0], altered(sent[1], len(sent[1]) - 1), sent[2]],
    "other length": lambda sent: [sent[0], altered(sent[1], LENGTH - 1), sent[2]],
    "a byte left out": lambda sent: [sent[0], sent[1][:-1], sent[2]],
    "repeated": lambda sent: [sent[0], sent[0]],
    "left out": lambda sent: [sent[0], sent[2]],
    "moved": lambda sent: [sent[0], sent[2], sent[1]],
    "other direction": lambda sent: [sent[0], records(bytes(100), bytes(100), back=True)[1]],
    "other secret": lambda sent: [sent[0], records(bytes(100), bytes(100), seed=7)[1]],
    "no plaintext": lambda sent: [sent[0], announcing(TAG)],
    "no tag": lambda sent: [sent[0], announcing(TAG - 1)],
    "nothing": lambda sent: [sent[0], announcing(0)],
    "too long": lambda sent: [sent[0], announcing(MOST_PLAIN + TAG + 1)],
    "four gigabytes": lambda sent: [sent[0], announcing(2**32 - 1)],
}


@pytest.mark.parametrize("cipher", CIPHER_NUMBERS)
@pytest.mark.parametrize("view", [10, 100, 1000], ids=["in parts", "in place", "with more"])
@pytest.mark.parametrize("broken", BROKEN)
def test_only_what_was_sent_next_is_taken(broken: str, view: int, cipher: int) -> None:
    sent = records(b"a" * 100, b"b" * 100, b"c" * 100, cipher=cipher)
    with arriving(b"".join(BROKEN[broken](sent)), cipher) as incoming:
        good = bytearray(100)
        incoming.receive_into(memoryview(good))
        assert good == b"a" * 100
        for _ in range(2):  # and it stays so
            target = bytearray(view)
            with pytest.raises((PeerFault, Disconnected)) as caught:
                incoming.receive_into(memoryview(target))
            assert b"b" not in target
            assert b"c" not in target
            assert not isinstance(caught.value, PeerFault) or caught.value.fault == Fault.MALFORMED
        assert incoming.over


@pytest.mark.parametrize("broken", set(BROKEN) - {"other length"})
def test_what_its_sender_did_not_make_is_a_fault(broken: str) -> None:
    sent = records(b"a" * 100, b"b" * 100, b"c" * 100)
    with arriving(b"".join(BROKEN[broken](sent))) as incoming:
        incoming.receive_into(memoryview(bytearray(100)))
        with pytest.raises(PeerFault):
            incoming.receive_into(memoryview(bytearray(100)))


@pytest.mark.parametrize("left", [0, 1, LENGTH, LENGTH + 50, LENGTH + TAG + 99])
def test_an_end_within_a_record_is_a_disconnect(left: int) -> None:
    with arriving(records(bytes(100))[0][:left]) as incoming, pytest.raises(Disconnected):
        incoming.receive_into(memoryview(bytearray(10)))


def test_a_record_too_long_takes_no_memory() -> None:
    with arriving(announcing(2**32 - 1)) as incoming:
        with pytest.raises(PeerFault):
            incoming.receive_into(memoryview(bytearray(10)))
        assert len(incoming._sealed) == len(incoming._scratch) == 0
        assert incoming.received == LENGTH


def test_what_was_recorded_is_worth_nothing_for_another_connection() -> None:
    with arriving(b"".join(records(b"pay a thousand", seed=3))) as incoming, pytest.raises(PeerFault):
        incoming.receive_into(memoryview(bytearray(14)))


# Streams


@given(st.lists(SIZES, min_size=1, max_size=6), st.lists(SIZES, min_size=1, max_size=6), st.booleans())
def test_bytes_come_in_order_however_they_are_cut(sent: list[int], taken: list[int], aes: bool) -> None:
    data = Random(len(sent)).randbytes(min(sum(sent), sum(taken)))

    async def main() -> None:
        near, far = bulk_pair(cipher=int(not aes))

        async def send() -> None:
            rest = data
            for size in sent:
                await near.send(rest[:size])
                rest = rest[size:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            rest = data
            for size in taken:
                assert await receive(far, min(size, len(rest))) == rest[:size]
                rest = rest[size:]
        await near.reset()
        await far.reset()

    trio.run(main)


@pytest.mark.parametrize("cipher", CIPHER_NUMBERS)
async def test_both_ends_get_what_the_other_sends_at_once(cipher: int) -> None:
    near, far = bulk_pair(cipher)
    await exchanged(near, far, noise(5 * MIB, 1), noise(4 * MIB + 17, 2))
    assert near._meter.sent == far._meter.received > 5 * MIB
    assert far._meter.sent == near._meter.received > 4 * MIB
    await near.reset()
    await far.reset()


async def test_nothing_is_sent_and_received_as_well() -> None:
    near, far = bulk_pair()
    await near.send(b"")
    await far.receive_into(memoryview(bytearray()))
    await near.send(b"!")
    assert await receive(far, 1) == b"!"
    await near.reset()
    await far.reset()


async def test_a_stalled_peer_is_a_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "STALL_SECONDS", 0.02)
    near, far = bulk_pair()
    async with trio.open_nursery() as nursery:
        for failing in (lambda: near.send(bytes(64 * MIB)), lambda: receive(near, 1)):

            async def fails(failing: Callable[[], object] = failing) -> None:
                with pytest.raises(Disconnected):
                    await failing()  # type: ignore[misc]

            nursery.start_soon(fails)
    assert near.over
    await far.reset()


@pytest.mark.parametrize("sending", [True, False])
async def test_a_cancelled_call_ends_the_connection_and_no_thread_keeps_the_view(sending: bool) -> None:
    near, far = bulk_pair()
    view = memoryview(bytearray(64 * MIB))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send if sending else near.receive_into, view)
            await trio.testing.wait_all_tasks_blocked()
            if not sending:
                await far.send(b"a part of it")
            scope.cancel()
    assert scope.cancelled_caught
    assert near.over
    assert near._jobs == 0
    assert near._socket.fileno() == -1
    before = bytes(view[:100])
    with pytest.raises(Disconnected):
        await receive(far, 64 * MIB)
    assert view[:100] == before
    for call in (near.send(b"more"), receive(near, 1)):
        with pytest.raises(Disconnected):
            await call
    await far.reset()


async def test_a_reset_ends_what_both_wait_for() -> None:
    near, far = bulk_pair()
    async with trio.open_nursery() as nursery:
        for end in (near, far):

            async def lose(end: object = end) -> None:
                with pytest.raises(Disconnected):
                    await receive(end, 1)  # type: ignore[arg-type]

            nursery.start_soon(lose)
        await trio.testing.wait_all_tasks_blocked()
        await near.reset()
    await far.reset()
    assert near._socket.fileno() == far._socket.fileno() == -1


async def test_two_ends_that_have_closed_give_their_sockets_back() -> None:
    near, far = bulk_pair()
    for one, other in ((near, far), (far, near)):
        await one.send(b"last words")
        await one.close()
        assert await receive(other, 10) == b"last words"
        with pytest.raises(Disconnected):
            await receive(other, 1)
    assert near._socket.fileno() == far._socket.fileno() == -1
