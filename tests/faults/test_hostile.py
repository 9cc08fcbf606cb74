"""Peers that flood, lie and send nonsense, over TCP, to a whole node that averages with an honest one.

After each attack the node averages on, holds what it held before (bounds in `siege`), and has counted what
the peer did. The parsers, yamux, Noise, the exchange and membership have such tests of their own, beside
their other tests and in `tests/fuzz`; here all of it stands together.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
import trio

from p2pnode.errors import Fault, LinkError
from p2pnode.gossip import exchange, membership, state
from p2pnode.gossip.standing import claim
from p2pnode.net.limits import DIALS
from p2pnode.net.yamux import ACK, CREDIT, DATA, FIN, HEADER, PING, RST, SYN
from p2pnode.wire.messages import Begin, Commit, Decline, Hello, Message, Probe, Refused, encode
from tests.gossip.ends import key
from tests.net.libp2p_peers import dial_raw
from tests.nodes import learner

from .siege import FETCH, Hostile, frame, hostile, siege, until

pytestmark = pytest.mark.slow

SEEDS = range(5)
STREAMS = 10_000
PROTOCOLS = (membership.PROTOCOL, exchange.PROTOCOL, state.PROTOCOL)


# Floods below the messages


def half_open(number: int, _: Random) -> bytes:
    return HEADER.pack(0, CREDIT, SYN, number, 0)


def open_and_close(number: int, random: Random) -> bytes:
    size = random.choice([0, 0, 1, 40])
    opening = HEADER.pack(0, random.choice([CREDIT, DATA]), SYN, number, 0)
    return opening + HEADER.pack(0, DATA, random.choice([FIN, RST]), number, size) + random.randbytes(size)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stream", [half_open, open_and_close])
@pytest.mark.fault("10,000 streams")
async def test_ten_thousand_streams(stream: Callable[[int, Random], bytes], seed: int) -> None:
    random = Random(seed)
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            left = STREAMS
            while left > 0:
                count = min(left, random.randrange(1000, 4000))
                await enemy.pour(b"".join(stream(2 * one + 1, random) for one in range(count)))
                await enemy.network.disconnect(besieged.node)
                left -= count
            await besieged.goes_on()
            assert set(besieged.faults(enemy.peer)) == {Fault.OVERSIZED}
        await besieged.goes_on()
        assert besieged.network._served.total() < 16


@pytest.mark.parametrize("flags", [SYN, ACK])
@pytest.mark.fault("10,000 streams")
async def test_a_flood_of_small_frames_takes_nobodys_turn(flags: int) -> None:
    async with siege() as besieged, hostile(besieged) as enemy, trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                await enemy.pour(HEADER.pack(0, PING, flags, 0, 7) * 4000)

        nursery.start_soon(flood)
        before = besieged.network.traffic.received
        await until(lambda: besieged.network.traffic.received > before + 2**20)
        await besieged.goes_on()
        nursery.cancel_scope.cancel()


POLITE = b"\x13/multistream/1.0.0\n\x07/noise\n"
OPENINGS = (b"", POLITE[:7], POLITE, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("1,000 dials")
async def test_a_thousand_dials(seed: int) -> None:
    random = Random(seed)

    async def dial() -> None:
        stream = await dial_raw(besieged.network)
        try:
            await stream.send_all(random.choice(OPENINGS) + random.randbytes(random.choice([0, 0, 1, 3000])))
            if random.random() < 0.5:
                await stream.receive_some()
        except trio.BrokenResourceError:
            return
        finally:
            stream.socket.close()

    async with siege() as besieged:
        for _ in range(10):
            with trio.move_on_after(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        nursery.start_soon(dial)
        await besieged.goes_on()


# Floods of messages


@pytest.mark.fault("floods of hellos and hints")
async def test_two_thousand_hellos_of_one_peer() -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            for serial in range(2000):
                await enemy.say(membership.PROTOCOL, encode(enemy.hello(serial=serial)))
            await besieged.goes_on()
        await besieged.goes_on()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("floods of hellos and hints")
async def test_hellos_of_many_names_that_tell_of_many_more(seed: int) -> None:
    random, names = Random(seed), iter(range(1000, 60_000))

    def nobody() -> tuple[str, tuple[str, ...]]:
        ports = random.sample(range(1, 1024), 8)
        return key(next(names)).peer, tuple(f"/ip4/127.0.0.1/tcp/{port}" for port in ports)

    async with siege() as besieged:
        for number in range(20):
            async with hostile(besieged, number) as enemy:
                for serial in range(5):
                    told = tuple(nobody() for _ in range(16))
                    await enemy.say(membership.PROTOCOL, encode(enemy.hello(serial=serial, peers=told)))
        view = besieged.victim.node.membership.view
        assert len(view) <= view.limit
        await besieged.goes_on()


@pytest.mark.fault("floods of hellos and hints")
async def test_nobody_turns_a_node_into_a_port_scanner() -> None:
    knocks, began = 0, trio.current_time()

    async def count(stream: trio.SocketStream) -> None:
        nonlocal knocks
        knocks += 1
        await trio.aclose_forcefully(stream)

    async with siege() as besieged, hostile(besieged) as enemy, trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, count, 0, host="0.0.0.0"))
        port = listener.socket.getsockname()[1]
        for first in range(50):
            told = tuple(
                (
                    key(1000 + 16 * first + one).peer,
                    tuple(f"/ip4/127.{first + 1}.{one}.{last}/tcp/{port}" for last in range(1, 9)),
                )
                for one in range(16)
            )
            await enemy.say(membership.PROTOCOL, encode(enemy.hello(serial=first, peers=told)))
        await until(lambda: knocks >= DIALS.burst // 2)
        await trio.sleep(1)
        each = DIALS.burst + DIALS.second * (trio.current_time() - began) + 1
        assert knocks <= 2 * each  # the honest node hears of these names from the other
        await besieged.goes_on()
        nursery.cancel_scope.cancel()


# Messages that are none


def message(enemy: Hostile, protocol: str) -> bytes:
    """A good one that opens a conversation."""
    good: dict[str, Message] = {
        membership.PROTOCOL: enemy.hello(),
        exchange.PROTOCOL: enemy.offer(),
        state.PROTOCOL: FETCH,
    }
    return encode(good[protocol])


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


NONSENSE = {
    "oversized": b"\xff\xff\xff\xff",
    "a byte too large": (32 * 1024 + 1).to_bytes(4, "big"),
    "empty": framed(b""),
    "deep": framed(b"\x91" * 30_000),
    "a huge array": framed(b"\xdd\xff\xff\xff\xff"),
    "a huge text": framed(b"\x92\x01\xdb\xff\xff\xff\xff"),
    "a huge map": framed(b"\xdf\xff\xff\xff\xff"),
    "not msgpack": framed(b"\xc1" * 10),
    "a tag that nobody has": framed(b"\x91\x63"),
    "too few fields": framed(b"\x92\x01\x01"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.fault("messages oversized, deep, with huge counts")
async def test_messages_that_are_none(protocol: str) -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            await enemy.join()
            for number, data in enumerate(NONSENSE.values(), 1):
                assert await enemy.say(protocol, data) is None
                await until(lambda number=number: len(besieged.faults(enemy.peer)) == number)  # type: ignore[misc]
            assert set(besieged.faults(enemy.peer)) == {Fault.MALFORMED, Fault.OVERSIZED}
        await besieged.goes_on()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.fault("messages truncated")
async def test_a_message_that_ends_at_any_byte_is_nobodys_fault(protocol: str) -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            whole = message(enemy, protocol)
            for size in range(len(whole)):
                assert await enemy.say(protocol, whole[:size], close=True) is None
            assert not besieged.faults(enemy.peer)
        await besieged.goes_on()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.fault("messages with a byte changed")
async def test_messages_with_a_byte_changed(protocol: str, seed: int) -> None:
    random = Random(seed)
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            for _ in range(200):
                changed = bytearray(message(enemy, protocol))
                changed[random.randrange(4, len(changed))] = random.randrange(256)
                await enemy.say(protocol, bytes(changed), close=True)
        await besieged.goes_on()


# Messages that lie


FUTURE = 2**63


async def heard(enemy: Hostile, **changes: Any) -> Message | None:
    return await enemy.say(membership.PROTOCOL, encode(enemy.hello(**changes)))


LIES: dict[str, tuple[Callable[[Hostile], dict[str, Any]], Fault]] = {
    "a proof of somebody else's": (
        lambda enemy: {"proof": key(7).sign(claim(enemy.siege.swarm, 1))},
        Fault.FALSE_CLAIM,
    ),
    "a proof for another time": (
        lambda enemy: {"incarnation": FUTURE, "proof": enemy.sign(1)},
        Fault.FALSE_CLAIM,
    ),
    "a proof for another swarm": (
        lambda enemy: {"proof": enemy.key.sign(claim(bytes(32), 1))},
        Fault.FALSE_CLAIM,
    ),
    "another swarm": (lambda _: {"swarm": bytes(32)}, Fault.WRONG_SWARM),
    "another version": (lambda _: {"version": 2}, Fault.WRONG_VERSION),
    "another layout": (lambda _: {"layout": bytes(32)}, Fault.WRONG_LAYOUT),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.fault("hellos with a forged sender, of the wrong swarm, from the future")
async def test_a_hello_that_lies(lie: str) -> None:
    changes, fault = LIES[lie]
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            assert isinstance(await heard(enemy, **changes(enemy)), Refused)
            assert besieged.faults(enemy.peer) == [fault]
            assert enemy.peer not in besieged.victim.node.membership.view
        await besieged.goes_on()


@pytest.mark.fault("messages replayed and reflected")
async def test_hellos_of_others_prove_nothing() -> None:
    """Those of the node itself, sent back to it, and of a member, sent on."""
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            own = await heard(enemy)
            assert isinstance(own, Hello)
            honest = besieged.victim.node.membership.view.get(besieged.honest.peer)
            assert honest is not None
            for proof, incarnation in ((own.proof, own.incarnation), (honest.proof, honest.incarnation)):
                refused = await heard(enemy, proof=proof, incarnation=incarnation, serial=1)
                assert isinstance(refused, Refused)
            assert besieged.faults(enemy.peer) == [Fault.FALSE_CLAIM] * 2
        await besieged.goes_on()


@pytest.mark.fault("messages replayed and reflected")
async def test_a_hello_told_again_changes_nothing() -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            await heard(enemy, serial=7, round=7)
            for _ in range(20):
                await heard(enemy, serial=6, round=3)
            member = besieged.victim.node.membership.view.get(enemy.peer)
            assert member is not None and member.round == 7
        await besieged.goes_on()


@pytest.mark.fault("hellos with a forged sender, of the wrong swarm, from the future")
async def test_a_member_from_the_future_takes_nobody_along() -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            future = {"incarnation": FUTURE, "proof": enemy.sign(FUTURE), "serial": 2**48, "round": 2**48}
            for stage in range(4):
                await heard(enemy, stage=stage, **future)
            offer = encode(enemy.offer(round=2**48))
            assert isinstance(await enemy.say(exchange.PROTOCOL, offer), Decline)
            await enemy.say(membership.PROTOCOL, encode(Probe(besieged.node)))
        await besieged.goes_on()


@pytest.mark.fault("offers that do not fit")
async def test_offers_that_do_not_fit() -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            await enemy.join()
            for unfit in ({"weight": 1.0}, {"members": bytes(32)}, {"step": 9}, {"exchange": bytes(24)}):
                offer = encode(enemy.offer(**unfit))
                assert isinstance(await enemy.say(exchange.PROTOCOL, offer), Decline)
            assert not besieged.faults(enemy.peer)
        sizes: list[dict[str, Any]] = [{"size": size} for size in (0, 2**48, 8 * learner().size)]
        wrong = [*sizes, {"layout": bytes(32)}]
        for number, change in enumerate(wrong, 1):
            async with hostile(besieged, number) as enemy:
                await enemy.join()
                assert await enemy.say(exchange.PROTOCOL, encode(enemy.offer(**change))) is None
                assert besieged.faults(enemy.peer) == [Fault.WRONG_LAYOUT]
                again = await enemy.say(exchange.PROTOCOL, encode(enemy.offer(**change)))
                assert isinstance(again, Decline)  # for a while it gets no exchange at all
        await besieged.goes_on()


# Snapshots


def spoiled(value: float) -> Callable[[Random], bytes]:
    """Parameters of which one is `value`."""

    def make(random: Random) -> bytes:
        vector = np.random.default_rng(random.randrange(2**32)).normal(size=learner().size).astype(np.float32)
        vector[random.randrange(len(vector))] = value
        return vector.tobytes()

    return make


def of_another_kind(random: Random) -> bytes:
    """Eight bytes a number: half of them fill the node's buffer, the rest stands where a message should."""
    vector = np.random.default_rng(random.randrange(2**32)).uniform(1, 2, learner().size)
    return vector.astype(np.float64).tobytes()


async def exchanged(enemy: Hostile, snapshot: bytes) -> None:
    """Begin an exchange, and send this in it."""
    stream = await enemy.accepted()
    try:
        await stream.send(encode(Begin(b"")))
        await stream.send(snapshot)
        await stream.close()
        await stream.receive_into(memoryview(bytearray(4 * learner().size)))
        while True:
            await frame(stream)
    except LinkError:
        await stream.reset()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("snapshots with NaN or infinity")
async def test_snapshots_that_are_not_finite(seed: int) -> None:
    random = Random(seed)
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            for count, value in enumerate((np.nan, np.inf, -np.inf), 1):
                await exchanged(enemy, spoiled(value)(random))
                await until(lambda count=count: len(besieged.faults(enemy.peer)) == count)  # type: ignore[misc]
            assert set(besieged.faults(enemy.peer)) == {Fault.NOT_FINITE}
        await besieged.goes_on()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.fault("snapshots with denormals")
async def test_the_smallest_numbers_there_are_do_no_harm(seed: int) -> None:
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            await exchanged(enemy, spoiled(1e-45)(Random(seed)) + encode(Commit()))
            await until(lambda: len(besieged.completed(enemy.peer)) == 1)
            assert not besieged.faults(enemy.peer)
        await besieged.goes_on()


def half(random: Random) -> bytes:
    return spoiled(1.0)(random)[: random.randrange(4 * learner().size)]


UNFIT: dict[str, tuple[Callable[[Random], bytes], set[str]]] = {
    "cut short": (half, set()),
    "of length zero": (lambda _: b"", set()),
    "of another kind": (of_another_kind, {Fault.OVERSIZED, Fault.MALFORMED, Fault.NOT_FINITE}),
    "with more behind it": (lambda random: spoiled(1.0)(random) + framed(b"\xc1"), {Fault.MALFORMED}),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.fault("snapshots of a wrong dtype or length, or empty")
async def test_snapshots_that_do_not_fit(kind: str, seed: int) -> None:
    make, faults = UNFIT[kind]
    async with siege() as besieged:
        async with hostile(besieged) as enemy:
            await exchanged(enemy, make(Random(seed)))
            await until(lambda: besieged.over_with(enemy.peer))
            assert set(besieged.faults(enemy.peer)) <= faults
            assert bool(besieged.faults(enemy.peer)) == bool(faults)
            assert not besieged.completed(enemy.peer)
        await besieged.goes_on()
