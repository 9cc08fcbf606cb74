"""The in-memory network keeps the contract of all networks, and its own about time and harm."""

import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

from p2pnode.errors import Disconnected, Unreachable
from p2pnode.net.memory import (
    CONNECT_SECONDS,
    LOOKUP_LIMIT,
    MemoryDiscovery,
    MemoryFabric,
    MemoryNetwork,
    run_deterministic,
)
from p2pnode.net.memory_link import RETRANSMISSION_SECONDS, Link
from p2pnode.net.memory_stream import WINDOW_BYTES, MemoryStream, Verdict
from p2pnode.ports import PeerAddress, PeerId, Stream

from . import chatter
from .contract import CHECKS, PROTOCOL, Check, Start, full_address, parked_handler, receive

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")
KIB, MIB = 1024, 1024 * 1024
FAR = Link(latency=0.25)
GOOD, BAD = Link(), Link(latency=0.03, jitter=0.1, bandwidth=1e7, loss=0.05)


def start_on(fabric: MemoryFabric) -> Start:
    numbers = count()
    return lambda: fabric.network(PeerId(f"peer-{next(numbers)}"))


@pytest.mark.parametrize("link", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_memory_network_keeps_the_contract(
    check: Check, link: Link, autojump_clock: MockClock
) -> None:
    with trio.fail_after(100):
        await check(start_on(MemoryFabric(seed=1, link=link)))


@asynccontextmanager
async def alice_and_bob(fabric: MemoryFabric) -> AsyncIterator[tuple[MemoryNetwork, MemoryStream, Stream]]:
    """Alice, and both ends of a stream that she opened to Bob, who hands `PROTOCOL` streams out."""
    accept, accepted = parked_handler()
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        bob.serve(PROTOCOL, accept)
        alice.learn(PeerAddress(BOB, bob.addresses))
        stream = await alice.open(BOB, PROTOCOL)
        yield alice, stream, await accepted.receive()


async def arrival(stream: Stream, size: int = 1) -> float:
    """Receive; returns when that was done."""
    await receive(stream, size)
    return trio.current_time()


# Time


async def test_opening_takes_a_round_trip(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    fabric.set_link(BOB, ALICE, Link(latency=1.0))
    async with alice_and_bob(fabric):
        assert trio.current_time() == 1.25


async def test_so_does_finding_nobody(autojump_clock: MockClock) -> None:
    async with MemoryFabric(seed=0, link=FAR).network(ALICE) as alice:
        with pytest.raises(Unreachable):
            await alice.connect("/memory/bob")
        assert trio.current_time() == 0.5


@pytest.mark.parametrize("size", [1, KIB, MIB, 5 * MIB])
async def test_sending_takes_latency_and_size_over_bandwidth(size: int, autojump_clock: MockClock) -> None:
    link = Link(latency=0.25, bandwidth=MIB)
    async with alice_and_bob(MemoryFabric(seed=0, link=link)) as (_, near, far):
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, bytes(size))
            assert await arrival(far, size) == begun + 0.25 + size / MIB


async def test_streams_between_two_peers_share_each_direction(autojump_clock: MockClock) -> None:
    link = Link(bandwidth=MIB)
    async with alice_and_bob(MemoryFabric(seed=0, link=link)) as (alice, near, far):
        beside = await alice.open(BOB, PROTOCOL)
        for stream in beside, near, far:
            await stream.send(bytes(MIB // 2))
        assert await arrival(near, MIB // 2) == 0.5
        assert await arrival(far, MIB // 2) == 1.0


async def test_a_writer_waits_for_the_reader_with_one_window_under_way(autojump_clock: MockClock) -> None:
    async with alice_and_bob(MemoryFabric(seed=0, link=FAR)) as (_, near, far):
        with trio.fail_after(0.01):
            await near.send(bytes(WINDOW_BYTES))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, b"!")
            await trio.sleep(1000)
            assert nursery.child_tasks
            await receive(far, 1)


async def test_jitter_delays_but_does_not_reorder(autojump_clock: MockClock) -> None:
    link = Link(latency=0.25, jitter=0.5)
    async with alice_and_bob(MemoryFabric(seed=0, link=link)) as (_, near, far):
        delays = []
        for _ in range(100):
            begun = trio.current_time()
            await near.send(b"!")
            delays.append(await arrival(far) - begun)
        assert 0.25 <= min(delays) < 0.3
        assert 0.7 < max(delays) <= 0.75


async def test_what_is_late_on_one_stream_is_not_overtaken_on_another(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    async with alice_and_bob(fabric) as (alice, _, far):
        fabric.set_link(BOB, ALICE, FAR)
        await far.send(b"late")
        fabric.set_link(BOB, ALICE, Link())
        begun = trio.current_time()
        with pytest.raises(Unreachable):  # the answer comes behind
            await alice.open(BOB, "/p2pnode/unheard-of/1")
        assert trio.current_time() == begun + FAR.latency


async def test_a_lost_segment_costs_a_retransmission(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far):
        fabric.set_link(ALICE, BOB, Link(latency=0.25, loss=0.5))
        retries = set()
        for _ in range(50):
            begun = trio.current_time()
            await near.send(b"!")
            timeouts = (await arrival(far) - begun - 0.25) / (0.5 + RETRANSMISSION_SECONDS)
            retries.add(round(timeouts, 6))
        assert {0, 1, 3} <= retries <= {2**n - 1 for n in range(20)}


@pytest.mark.parametrize(
    "wrong", [{"latency": -1.0}, {"jitter": -1.0}, {"bandwidth": 0.0}, {"loss": 1.0}, {"loss": -0.1}]
)
def test_an_impossible_link_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no link"):
        Link(**wrong)


# Partitions


async def test_nothing_arrives_through_a_partition_until_it_heals(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far):
        await near.send(b"a")  # under way when the cut comes
        fabric.partition([[ALICE], [BOB]])
        await near.send(b"b")
        with trio.move_on_after(3600) as patience:
            await receive(far, 1)
        assert patience.cancelled_caught
        fabric.heal()
        healed = trio.current_time()
        assert await receive(far, 2) == b"ab"
        assert trio.current_time() == healed + FAR.latency


async def test_what_had_arrived_before_a_partition_can_be_read_during_it(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far):
        await near.send(b"a")
        await trio.sleep(1)
        fabric.partition([[ALICE], [BOB]])
        assert await receive(far, 1) == b"a"


async def test_a_waiting_reader_wakes_when_the_partition_heals(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far), trio.open_nursery() as nursery:
        nursery.start_soon(receive, far, 1)
        fabric.partition([[ALICE]])
        await near.send(b"a")
        await trio.sleep(100)
        assert nursery.child_tasks
        fabric.heal()


async def test_a_new_partition_replaces_the_old_one(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    async with alice_and_bob(fabric) as (_, near, far), fabric.network(CAROL):
        fabric.partition([[ALICE], [BOB, CAROL]])
        await near.send(b"a")
        fabric.partition([[CAROL]])
        assert await receive(far, 1) == b"a"


async def test_a_dialler_gives_up_on_a_silent_peer_at_its_deadline(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    async with alice_and_bob(fabric) as (alice, _, _):
        fabric.partition([[ALICE], [BOB]])
        for dial in (partial(alice.connect, "/memory/bob"), partial(alice.open, BOB, PROTOCOL)):
            begun = trio.current_time()
            with pytest.raises(Unreachable):
                await dial()
            assert trio.current_time() == begun + CONNECT_SECONDS


async def test_healing_twice_changes_nothing(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far):
        fabric.partition([[ALICE]])
        fabric.heal()
        await near.send(b"a")
        await trio.sleep(1)
        fabric.heal()
        begun = trio.current_time()
        assert await arrival(far) == begun


async def test_a_cut_is_one_way_and_others_go_on_when_one_ends(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, far):
        there = fabric.cut(lambda source, target: (source, target) == (ALICE, BOB))
        await far.send(b"!")
        await receive(near, 1)
        fabric.partition([[ALICE]])
        begun = trio.current_time()
        await near.send(b"!")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, far, 1)
            await trio.sleep(10)
            fabric.heal()
            await trio.sleep(10)
            assert nursery.child_tasks
            fabric.join(there)
        assert trio.current_time() == begun + 20 + FAR.latency


async def test_a_death_behind_a_partition_is_noticed_when_it_heals(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (_, near, _):
        fabric.partition([[ALICE], [BOB]])
        fabric.kill(BOB)
        with trio.move_on_after(3600) as patience:
            await receive(near, 1)
        assert patience.cancelled_caught
        fabric.heal()
        with pytest.raises(Disconnected):
            await receive(near, 1)


# Death


async def test_others_learn_of_a_death_after_the_latency_and_read_what_was_sent_before(
    autojump_clock: MockClock,
) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with alice_and_bob(fabric) as (alice, near, far):
        begun = trio.current_time()
        await far.send(b"farewell")
        fabric.kill(BOB)
        with pytest.raises(Disconnected):
            await far.send(b"from beyond")
        await near.send(b"not known yet")
        assert await receive(near, 8) == b"farewell"
        with pytest.raises(Disconnected):
            await receive(near, 1)
        assert trio.current_time() == begun + FAR.latency
        with pytest.raises(Disconnected):
            await near.send(b"known now")
        with pytest.raises(Unreachable):
            await alice.open(BOB, PROTOCOL)


async def test_a_killed_peer_reaches_nobody_and_can_be_born_again(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with fabric.network(BOB) as bob, fabric.network(ALICE) as ghost:
        fabric.kill(ALICE)
        with pytest.raises(Unreachable):
            await ghost.connect(full_address(bob))
        assert trio.current_time() == 0
        async with fabric.network(ALICE) as alice:
            assert await alice.connect(full_address(bob)) == BOB
            assert await bob.connect("/memory/alice") == ALICE


async def test_who_dies_while_dialling_reaches_nobody(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0, link=FAR)
    async with fabric.network(BOB) as bob, fabric.network(ALICE) as alice, trio.open_nursery() as nursery:

        async def dial() -> None:
            with pytest.raises(Unreachable):
                await alice.connect(full_address(bob))

        nursery.start_soon(dial)
        await trio.sleep(0.375)
        fabric.kill(ALICE)


async def test_giving_up_while_opening_ends_the_stream_at_the_far_end(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    async with alice_and_bob(fabric) as (alice, _, _), fabric.network(CAROL) as carol:
        accept, accepted = parked_handler()
        carol.serve(PROTOCOL, accept)
        await alice.connect(full_address(carol))
        fabric.set_link(CAROL, ALICE, Link(latency=5))
        with trio.move_on_after(1):
            await alice.open(CAROL, PROTOCOL)
        with pytest.raises(Disconnected):
            await receive(await accepted.receive(), 1)


async def test_streams_that_are_over_take_no_memory(autojump_clock: MockClock) -> None:
    async def answer(stream: Stream) -> None:
        await stream.send(await receive(stream, 1))

    fabric = MemoryFabric(seed=0)
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        bob.serve(PROTOCOL, answer)
        await alice.connect(full_address(bob))
        opened = []
        for _ in range(10):
            stream = await alice.open(BOB, PROTOCOL)
            await stream.send(b"?")
            assert await receive(stream, 1) == b"?"
            await stream.close()
            opened.append(weakref.ref(stream))
        assert [ref() for ref in opened[:-2]] == [None] * 8


async def test_nobody_is_there_twice(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    async with fabric.network(ALICE):
        with pytest.raises(ValueError, match="already"):
            async with fabric.network(ALICE):
                pass


# Taps


async def test_two_with_one_name_are_reached_at_places_of_their_own(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    served: list[str] = []

    async def serve(place: str, _: Stream) -> None:
        served.append(place)

    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        async with fabric.network(BOB, place="bob.2") as twin:
            bob.serve(PROTOCOL, partial(serve, "bob"))
            twin.serve(PROTOCOL, partial(serve, "bob.2"))
            for network in bob, twin:
                assert await alice.connect(full_address(network)) == BOB
                await alice.open(BOB, PROTOCOL)
        await alice.open(BOB, PROTOCOL)  # where the newer was nobody answers now
        assert served == ["bob", "bob.2", "bob"]


async def test_a_tap_sees_every_send_with_its_ends_and_protocol(autojump_clock: MockClock) -> None:
    fabric, seen = MemoryFabric(seed=0), []

    def tap(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        seen.append((source, target, protocol, data))
        return Verdict.DELIVER

    fabric.tap = tap
    async with alice_and_bob(fabric) as (_, near, far):
        await near.send(b"ping")
        assert await receive(far, 4) == b"ping"
        await far.send(memoryview(b"pong"))
        assert await receive(near, 4) == b"pong"
    assert seen == [(ALICE, BOB, PROTOCOL, b"ping"), (BOB, ALICE, PROTOCOL, b"pong")]


async def test_a_dropped_send_silences_its_direction_and_tells_nobody(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    fabric.tap = lambda source, target, protocol, data: Verdict.DROP if data == b"2" else Verdict.DELIVER
    async with alice_and_bob(fabric) as (_, near, far):
        for text in b"1", b"2", b"3", bytes(2 * WINDOW_BYTES):
            await near.send(text)
        assert await receive(far, 1) == b"1"
        await far.send(b"4")
        assert await receive(near, 1) == b"4"
        await near.reset()
        with trio.move_on_after(3600) as patience:
            await receive(far, 1)
        assert patience.cancelled_caught


async def test_a_tap_can_reset_a_stream(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    fabric.tap = lambda source, target, protocol, data: Verdict.RESET
    async with alice_and_bob(fabric) as (_, near, far):
        with pytest.raises(Disconnected):
            await near.send(b"1")
        with pytest.raises(Disconnected):
            await receive(far, 1)


# Discovery


async def test_discovery_reports_everybody_else_in_the_swarm(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    found: dict[PeerId, set[PeerId]] = {ALICE: set(), BOB: set(), CAROL: set()}
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for peer, swarm in ((ALICE, "one"), (BOB, "one"), (CAROL, "other")):
                discovery = MemoryDiscovery(fabric, peer)
                nursery.start_soon(discovery.run, swarm, lambda a, peer=peer: found[peer].add(a.peer))
    assert found == {ALICE: {BOB}, BOB: {ALICE}, CAROL: set()}


async def test_discovery_does_not_see_through_a_partition(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(seed=0)
    found: set[PeerAddress] = set()
    fabric.announce("swarm", PeerAddress(BOB, ("/memory/bob",)))
    fabric.partition([[ALICE], [BOB]])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(MemoryDiscovery(fabric, ALICE).run, "swarm", found.add)
        await trio.sleep(60)
        assert not found
        fabric.heal()
        await trio.sleep(60)
        assert found == {PeerAddress(BOB, ("/memory/bob",))}
        nursery.cancel_scope.cancel()


async def test_a_directory_that_does_not_answer_takes_no_announcements_either(
    autojump_clock: MockClock,
) -> None:
    fabric = MemoryFabric(seed=0)
    fabric.listing = False
    found: list[PeerId] = []
    async with trio.open_nursery() as nursery:
        for peer in ALICE, BOB:
            nursery.start_soon(MemoryDiscovery(fabric, peer).run, "swarm", lambda a: found.append(a.peer))
        await trio.sleep(60)
        assert not found
        fabric.listing = True
        await trio.sleep(60)
        assert set(found) == {ALICE, BOB}
        nursery.cancel_scope.cancel()


async def test_a_lookup_finds_a_bounded_number(autojump_clock: MockClock) -> None:
    fabric, moments = MemoryFabric(seed=0), []
    for number in range(2 * LOOKUP_LIMIT):
        fabric.announce("swarm", PeerAddress(PeerId(f"peer-{number}"), ()))
    with trio.move_on_after(60):
        await MemoryDiscovery(fabric, ALICE).run("swarm", lambda peer: moments.append(trio.current_time()))
    assert {moments.count(moment) for moment in moments} == {LOOKUP_LIMIT}


# Determinism


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    script = Path(chatter.__file__)
    path = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, script, "7"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    one, other = (process.communicate()[0].splitlines() for process in processes)
    assert one == other == chatter.chatter(seed=7)
    assert len(one) > 500


def test_another_seed_gives_another_run() -> None:
    assert chatter.chatter(seed=1) != chatter.chatter(seed=2)


def test_a_run_leaves_the_scheduler_as_it_was() -> None:
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    run_deterministic(trio.lowlevel.checkpoint, seed=1)
    assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()) == before
