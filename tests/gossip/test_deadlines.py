"""What is learned from how long peers take, and how long they get for it."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2pnode.errors import Fault, PeerFault
from p2pnode.gossip.deadlines import FIRST, FLOOR, LEAST, MOST_KEPT, SAMPLES, Deadlines, Wait
from p2pnode.ports import PeerId

PEER, OTHER = PeerId("peer"), PeerId("other")
MB = 1_000_000


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def learned(*seconds: float, wait: Wait = Wait.EXCHANGE, size: int = 0) -> Deadlines:
    made = Deadlines()
    for one in seconds:
        made.took(PEER, wait, one, size)
    return made


def test_a_stranger_has_ten_seconds_and_one_more_for_each_megabyte() -> None:
    for wait in Wait:
        assert Deadlines().of(PEER, wait, 5 * MB) == 15.0


def test_little_is_not_gone_by() -> None:
    assert learned(*[0.1] * (LEAST - 1)).of(PEER, Wait.EXCHANGE) == FIRST
    assert learned(*[0.1] * LEAST).of(PEER, Wait.EXCHANGE) == FLOOR


def test_what_is_learned_is_of_one_peer_and_one_kind_of_wait() -> None:
    made = learned(*[0.1] * SAMPLES)
    assert made.of(OTHER, Wait.EXCHANGE) == made.of(PEER, Wait.ANSWER) == FIRST


def test_a_slow_peer_gets_four_times_what_it_usually_takes() -> None:
    assert learned(*[3.0] * SAMPLES).of(PEER, Wait.EXCHANGE) == pytest.approx(12.0)


def test_one_that_varies_gets_eight_deviations() -> None:
    assert learned(1.0, 2.0, 3.0, 4.0, 5.0).of(PEER, Wait.EXCHANGE) == pytest.approx(12.0)
    assert learned(1.0, 3.0, 5.0, 7.0, 9.0).of(PEER, Wait.EXCHANGE) == pytest.approx(5.0 + 8 * 2.0)


def test_one_long_wait_changes_nothing() -> None:
    usual = learned(*[3.0] * 9).of(PEER, Wait.EXCHANGE)
    assert learned(*[3.0] * 9, 9.9).of(PEER, Wait.EXCHANGE) == usual


def test_more_bytes_get_more_time() -> None:
    made = learned(*[30.0] * SAMPLES, size=50 * MB)
    assert made.of(PEER, Wait.EXCHANGE, 50 * MB) == pytest.approx(120.0)
    assert made.of(PEER, Wait.EXCHANGE, 110 * MB) == pytest.approx(240.0)


def test_a_line_that_became_fast_is_trusted_after_a_while() -> None:
    made = learned(*[5.0] * SAMPLES)
    for _ in range(SAMPLES):
        made.took(PEER, Wait.EXCHANGE, 0.1)
    assert made.of(PEER, Wait.EXCHANGE) == FLOOR


def test_who_misses_its_deadline_gets_twice_as_long_until_it_is_in_time() -> None:
    made = learned(*[0.1] * SAMPLES)
    granted = []
    for _ in range(6):
        granted.append(made.of(PEER, Wait.EXCHANGE))
        made.missed(PEER, Wait.EXCHANGE)
    assert granted == [2.0, 4.0, 8.0, 16.0, 32.0, 32.0]
    made.took(PEER, Wait.EXCHANGE, 0.1)
    assert made.of(PEER, Wait.EXCHANGE) == FLOOR


def test_nobody_has_longer_for_an_answer_than_a_stranger() -> None:
    made = learned(*[9.0] * SAMPLES, wait=Wait.ANSWER)
    for _ in range(9):
        made.missed(PEER, Wait.ANSWER)
        assert made.of(PEER, Wait.ANSWER) == FIRST


@given(st.lists(st.floats(0, 1e6), max_size=40), st.integers(0, 10), st.integers(0, 10**12))
def test_every_deadline_has_a_floor_and_a_ceiling(seconds: list[float], missed: int, size: int) -> None:
    made = learned(*seconds)
    for _ in range(missed):
        made.missed(PEER, Wait.EXCHANGE)
    assert FLOOR <= made.of(PEER, Wait.EXCHANGE, size) <= made.longest(size) == 16 * made.first(size)


def test_of_many_peers_those_heard_of_last_are_remembered() -> None:
    made = learned(*[0.1] * SAMPLES)
    for number in range(MOST_KEPT):
        made.took(PeerId(str(number)), Wait.ANSWER, 0.1)
    assert made.of(PEER, Wait.EXCHANGE) == FIRST
    assert len(made._past) == MOST_KEPT


async def wait(deadlines: Deadlines, seconds: float, then: Exception | None = None) -> None:
    """Be kept waiting by a peer, which then fails in some way."""
    with deadlines.within(PEER, Wait.ANSWER, "nothing"):
        await trio.sleep(seconds)
        if then is not None:
            raise then


async def test_a_block_is_timed_and_learned_from(clock: MockClock) -> None:
    made = Deadlines()
    for _ in range(LEAST):
        await wait(made, 1)
    assert made.of(PEER, Wait.ANSWER) == pytest.approx(4.0)
    for seconds in (4.0, 8.0):
        began = trio.current_time()
        with pytest.raises(PeerFault, match=rf"^stalled: nothing within {seconds:.1f} s$"):
            await wait(made, 1000)
        assert trio.current_time() - began == pytest.approx(seconds)


async def test_what_fails_by_itself_teaches_nothing(clock: MockClock) -> None:
    made = Deadlines()
    for _ in range(LEAST):
        with pytest.raises(PeerFault, match="malformed"):
            await wait(made, 0.1, PeerFault(Fault.MALFORMED, "test"))
    assert made.of(PEER, Wait.ANSWER) == FIRST


async def test_waiting_can_be_cut_short_without_blame(clock: MockClock) -> None:
    made = learned(*[0.1] * LEAST, wait=Wait.ANSWER)
    with trio.move_on_after(1):
        await wait(made, 1000)
    assert made.of(PEER, Wait.ANSWER) == FLOOR
