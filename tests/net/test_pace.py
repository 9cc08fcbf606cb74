"""A node sends no faster than it may."""

import socket
import threading

import pytest
import trio
from trio.testing import MockClock

from p2pnode.net.bulk import BulkStream
from p2pnode.net.bulk_keys import agree_on, invite
from p2pnode.net.pace import SPAN_SECONDS, Pace
from p2pnode.net.wire import Meter, Wire
from p2pnode.ports import PeerId

RATE = 1e6


class Time:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds

    def pace(self) -> Pace:
        return Pace(RATE, lambda: self.now, self.sleep)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def test_without_a_limit_nobody_waits() -> None:
    free = Pace()
    assert free.wait(2**40) == free.wait(2**40) == 0.0
    assert free.piece >= 2**40


def test_what_is_sent_comes_to_the_rate() -> None:
    time = Time()
    limited = time.pace()
    for _ in range(1000):
        limited.block(limited.piece)
    assert limited.piece == RATE * SPAN_SECONDS
    sent = 1000 * limited.piece
    assert sent / RATE - 3 * SPAN_SECONDS <= time.now - 1000.0 <= sent / RATE


def test_a_long_silence_earns_no_more_than_a_short_burst() -> None:
    time = Time()
    limited = time.pace()
    for _ in range(2):
        assert limited.wait(20_000) == 0.0
        assert limited.wait(20_000) == 0.0  # what the last 20 ms would have carried
        assert limited.wait(20_000) == pytest.approx(0.02)
        time.now += 1000


async def test_all_connections_of_a_node_share_one_limit() -> None:
    """A connection and a direct one beside it: together they wait for as long as their bytes take."""
    time = Time()
    meter = Meter(pace=time.pace())
    keys = [agree_on(invite(0, bytes(32)), invite(0, bytes(32)), b"", dialled) for dialled in (True, False)]
    near, far = socket.socketpair()
    one = BulkStream(near, PeerId("a"), keys[0], meter)
    other = BulkStream(far, PeerId("b"), keys[1], Meter())
    data, found = bytes(500_000), bytearray(500_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, data)
        nursery.start_soon(other.receive_into, memoryview(found))
    assert found == data
    assert 0.5 - 2 * SPAN_SECONDS <= time.now - 1000.0 <= 0.5 * 1.05
    assert meter.pace.wait(0) > 0  # whoever comes next waits for the last of it
    await one.reset()
    await other.reset()


async def test_a_connection_waits_for_its_slots(clock: MockClock) -> None:
    left, right = trio.socket.socketpair()
    meter = Meter(pace=Pace(RATE, trio.current_time))
    wire = Wire(trio.SocketStream(left), initiator=True, meter=meter)
    reader = trio.SocketStream(right)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write, bytes(2_000_000))
        left_over = 2_000_000
        while left_over:
            left_over -= len(await reader.receive_some())
    assert 2.0 * 0.95 <= trio.current_time() - began <= 2.0 * 1.05
    await reader.aclose()
    await wire.close()
