"""Hellos: who becomes a member, how long it stays one, and what a liar can do."""

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.events import PeerAlive, PeerFaulted, PeerLost
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.membership import HELLOS_PER_PEER, MISSES, PROTOCOL
from p2pnode.gossip.standing import DAY, VERSION, Superseded, claim
from p2pnode.gossip.view import MAX_AVOIDANCE, Stage, View, avoidance
from p2pnode.identity.keys import Key
from p2pnode.net.memory import MemoryFabric, MemoryNetwork
from p2pnode.net.memory_link import Link
from p2pnode.ports import Network, PeerAddress, PeerId, Stream
from p2pnode.wire.messages import MAX_PEERS, Goodbye, Hello, Probe, Probed, Refused, receive, send
from tests.gossip.ends import End, ends, key, key_of, make_end, manifest

SWARM = bytes(32)
LATENCY = 0.01


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric() -> MemoryFabric:
    return MemoryFabric(seed=1, link=Link(latency=LATENCY))


def address(peer: PeerId) -> PeerAddress:
    return PeerAddress(peer, (f"/memory/{peer}",))


@asynccontextmanager
async def strangers(network: MemoryFabric, count: int) -> AsyncIterator[list[End]]:
    """Running members of one swarm who know nobody yet, in the order of their peer ids."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        made = []
        for index, peer in enumerate(sorted(key(index).peer for index in range(count))):
            end = await make_end(await stack.enter_async_context(network.network(peer)), index)
            end.membership.manifest = manifest()
            await nursery.start(end.membership.run)
            made.append(end)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def outsider(network: MemoryFabric, own: Key, near: End) -> AsyncIterator[MemoryNetwork]:
    """A peer without a node behind it, whose hellos are written by hand. It knows `near`."""
    async with network.network(own.peer) as made:
        made.learn(address(near.network.me))
        yield made


def hello(own: Key, near: End, **changes: Any) -> Hello:
    """A hello from `own` with which nothing is wrong, but for `changes`."""
    incarnation = changes.pop("incarnation", 5)
    good = Hello(
        version=VERSION,
        swarm=SWARM,
        incarnation=incarnation,
        proof=own.sign(claim(SWARM, incarnation)),
        serial=0,
        stage=Stage.TRAINING,
        round=0,
        layout=near.trainer.layout,
        members=b"",
        sketch=b"",
        credential=b"",
        addresses=(f"/memory/{own.peer}",),
        known=1,
        member=True,
        peers=(),
    )
    return evolve(good, **changes)


async def ask(network: MemoryNetwork, end: End, question: Hello) -> Hello | Refused:
    stream = await network.open(end.network.me, PROTOCOL)
    await send(stream, question)
    return await receive(stream, Hello, Refused)


async def answer(with_: Hello | Refused, stream: Stream) -> None:
    await receive(stream, Hello, Goodbye)
    await send(stream, with_)


async def probe(asker: Network, witness: End, peer: PeerId) -> bool:
    stream = await asker.open(witness.network.me, PROTOCOL)
    await send(stream, Probe(peer))
    return (await receive(stream, Probed)).alive


async def lost(end: End, peer: PeerId) -> float:
    """Seconds until `peer` is out of the view of `end`."""
    started = trio.current_time()
    with trio.fail_after(600):
        while peer in end.membership.view:
            await end.membership.changed.wait()
    return trio.current_time() - started


def faults_of(end: End, peer: PeerId) -> list[str]:
    return [event.fault for event in end.events if isinstance(event, PeerFaulted) and event.peer == peer]


OUTSIDER = key(200)
WRONG = {
    "another version": ({"version": VERSION + 1}, Fault.WRONG_VERSION),
    "another swarm": ({"swarm": b"x" * 32}, Fault.WRONG_SWARM),
    "another layout": ({"layout": b"x" * 32}, Fault.WRONG_LAYOUT),
    "no proof": ({"proof": bytes(64)}, Fault.FALSE_CLAIM),
    "another's proof": ({"proof": key(201).sign(claim(SWARM, 5))}, Fault.FALSE_CLAIM),
    "a proof for another swarm": ({"proof": OUTSIDER.sign(claim(b"x" * 32, 5))}, Fault.FALSE_CLAIM),
    "a proof for another start": ({"proof": OUTSIDER.sign(claim(SWARM, 4))}, Fault.FALSE_CLAIM),
    "a credential that nobody asked for": ({"credential": b"let me in"}, Fault.NOT_ADMITTED),
}
wrong = pytest.mark.parametrize(("changes", "fault"), WRONG.values(), ids=WRONG.keys())


async def test_a_hello_that_was_overtaken_by_a_later_one_changes_nothing(clock: MockClock) -> None:
    """Both sides of two greetings speak at once, so hellos do overtake each other."""
    net = fabric()
    async with strangers(net, 1) as (one,), outsider(net, OUTSIDER, one) as network:
        await ask(network, one, hello(OUTSIDER, one, serial=8, stage=Stage.DONE, round=20))
        await ask(network, one, hello(OUTSIDER, one, serial=7, stage=Stage.TRAINING, round=19))
        seen = one.membership.view.get(OUTSIDER.peer)
        assert seen is not None
        assert (seen.stage, seen.round) == (Stage.DONE, 20)
        await ask(network, one, hello(OUTSIDER, one, serial=0, incarnation=6, round=3))  # it was restarted
        assert one.membership.view.get(OUTSIDER.peer).round == 3  # type: ignore[union-attr]


async def test_saying_goodbye_to_a_peer_that_answers_no_more_takes_a_moment_only(clock: MockClock) -> None:
    net = fabric()
    async with ends(net, 2) as (one, other):
        net.partition([[one.network.me], [other.network.me]])
        started = trio.current_time()
        await one.membership.say_goodbye()
        assert trio.current_time() - started < 3


async def test_a_hello_makes_each_a_member_of_the_others_view(clock: MockClock) -> None:
    async with strangers(fabric(), 2) as (one, other):
        one.membership.standing.round = 7
        one.network.learn(address(other.network.me))
        await one.membership.greet(other.network.me)
        seen = other.membership.view.get(one.network.me)
        assert other.network.me in one.membership.view
        assert seen is not None
        assert (seen.round, seen.stage, seen.incarnation) == (7, Stage.TRAINING, 1000)
        assert other.of(PeerAlive) == [PeerAlive(one.network.me, 7)]
        await trio.sleep(30)
        assert len(one.of(PeerAlive)) == len(other.of(PeerAlive)) == 1


@wrong
async def test_who_does_not_belong_here_is_refused_and_counted(
    changes: dict[str, Any], fault: Fault, clock: MockClock
) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as bad:
        reply = await ask(bad, end, hello(OUTSIDER, end, **changes))
        assert isinstance(reply, Refused) and reply.reason.startswith(fault)
        assert faults_of(end, bad.me) == [fault]
        assert not len(end.membership.view)
        await trio.sleep(avoidance(1))
        assert isinstance(await ask(bad, end, hello(OUTSIDER, end)), Hello)
        assert bad.me in end.membership.view


@wrong
async def test_who_answers_a_hello_without_belonging_here_is_counted(
    changes: dict[str, Any], fault: Fault, clock: MockClock
) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as bad:
        bad.serve(PROTOCOL, partial(answer, hello(OUTSIDER, end, **changes)))
        end.membership.found(address(bad.me))
        await trio.sleep(10)
        assert faults_of(end, bad.me) == [fault]  # and it is not greeted again unless found again
        assert not len(end.membership.view)


async def test_a_peer_whose_id_holds_no_ed25519_key_is_refused_and_counted(clock: MockClock) -> None:
    network = fabric()
    for name in ("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "alice", "0OIl"):
        async with strangers(network, 1) as (end,), network.network(PeerId(name)) as bad:
            bad.learn(address(end.network.me))
            assert isinstance(await ask(bad, end, hello(OUTSIDER, end)), Refused)
            assert faults_of(end, bad.me) == [Fault.NOT_ADMITTED]
            assert not len(end.membership.view)


async def test_a_newcomer_without_a_manifest_is_a_member_but_no_partner(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as new:
        await ask(new, end, hello(OUTSIDER, end, layout=b"", stage=Stage.NEWCOMER))
        assert new.me in end.membership.view
        assert not end.membership.view.partners(trio.current_time())


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\x0f"])
async def test_garbage_in_place_of_a_hello_is_counted(data: bytes, clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as bad:
        await (await bad.open(end.network.me, PROTOCOL)).send(data)
        await trio.sleep(1)
        assert len(faults_of(end, bad.me)) == 1


async def test_a_chain_of_nodes_that_know_one_other_ends_up_knowing_all(clock: MockClock) -> None:
    async with strangers(fabric(), 8) as chain:
        for one, next_one in pairwise(chain):
            one.membership.found(address(next_one.network.me))
        with trio.fail_after(60):
            for end in chain:
                while len(end.membership.view) < 7:
                    await end.membership.changed.wait()
        assert not any(end.of(PeerFaulted) + end.of(PeerLost) for end in chain)


async def test_goodbye_removes_at_once_and_for_good(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 3) as (one, *others):
        for other in others:
            one.membership.found(address(other.network.me))
        await trio.sleep(20)
        await one.membership.say_goodbye()
        network.kill(one.network.me)
        await trio.sleep(1)
        for other in others:
            assert other.of(PeerLost) == [PeerLost(one.network.me, "goodbye")]
        await trio.sleep(60)
        for other in others:
            assert len(other.of(PeerAlive)) == 2  # nobody brought it back by hearsay


async def test_a_hello_that_was_overtaken_by_a_goodbye_brings_nobody_back(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as leaver:
        await ask(leaver, end, hello(OUTSIDER, end, incarnation=5))
        stream = await leaver.open(end.network.me, PROTOCOL)
        await send(stream, Goodbye(stays=False))
        await trio.sleep(1)
        await ask(leaver, end, hello(OUTSIDER, end, incarnation=5, serial=7))
        assert leaver.me not in end.membership.view
        await ask(leaver, end, hello(OUTSIDER, end, incarnation=6))
        assert leaver.me in end.membership.view
        await trio.sleep(1)
        assert leaver.me in end.membership._greeting


async def test_silence_removes_within_a_bounded_time(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 3) as (one, *others):
        for other in others:
            one.membership.found(address(other.network.me))
        await trio.sleep(20)
        network.kill(one.network.me)
        for other in others:
            assert await lost(other, one.network.me) <= MISSES * 1.5 * other.membership.interval + 1
            assert other.of(PeerLost) == [PeerLost(one.network.me, "silent")]
        await trio.sleep(60)
        assert all(one.network.me not in other.membership.view for other in others)


async def test_a_suspected_peer_that_is_gone_is_lost_at_once_and_a_living_one_is_kept(
    clock: MockClock,
) -> None:
    network = fabric()
    async with strangers(network, 2) as (one, other):
        one.membership.found(address(other.network.me))
        await trio.sleep(1)
        one.membership.suspect(other.network.me)
        await trio.sleep(0.5)
        assert other.network.me in one.membership.view
        network.kill(other.network.me)
        one.membership.suspect(other.network.me)
        assert await lost(one, other.network.me) < 1


async def test_a_frozen_peer_costs_a_deadline_a_hello_and_is_dropped(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 2) as (end, other), outsider(network, OUTSIDER, end) as frozen:

        async def freeze(stream: Stream) -> None:
            await trio.sleep_forever()

        frozen.serve(PROTOCOL, freeze)
        await ask(frozen, end, hello(OUTSIDER, end))
        end.membership.found(address(other.network.me))
        started = trio.current_time()
        with pytest.raises(PeerFault, match="stalled"):
            await end.membership.greet(frozen.me)
        assert trio.current_time() - started == pytest.approx(Deadlines().first())
        bound = MISSES * (1.5 * end.membership.interval + Deadlines().first())
        assert await lost(end, frozen.me) + Deadlines().first() <= bound + 1
        assert other.network.me in end.membership.view


async def test_who_opens_a_stream_and_says_nothing_is_counted_after_one_deadline(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as silent:
        await silent.open(end.network.me, PROTOCOL)
        await trio.sleep(Deadlines().first() + 1)
        assert faults_of(end, silent.me) == [Fault.STALLED]


async def test_a_peer_that_comes_back_is_alive_again(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as peer:
        for incarnation in (5, 5, 6):
            await ask(peer, end, hello(OUTSIDER, end, incarnation=incarnation, round=incarnation))
        assert end.of(PeerAlive) == [PeerAlive(peer.me, 5), PeerAlive(peer.me, 6)]
        member = end.membership.view.get(peer.me)
        assert member is not None and member.incarnation == 6


async def test_the_earlier_of_two_processes_with_one_key_stops(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (witness,):
        async with outsider(network, OUTSIDER, witness) as later:
            await ask(later, witness, hello(OUTSIDER, witness, incarnation=2000))
        async with outsider(network, OUTSIDER, witness) as same:
            reply = await ask(same, witness, hello(OUTSIDER, witness, incarnation=1999))
            assert isinstance(reply, Refused)
            assert (reply.incarnation, reply.proof) == (2000, OUTSIDER.sign(claim(SWARM, 2000)))
            member = witness.membership.view.get(same.me)
            assert member is not None and member.incarnation == 2000
            assert not faults_of(witness, same.me)
            earlier = await make_end(same, 200)
            with pytest.RaisesGroup(pytest.RaisesExc(Superseded, match="--data-dir"), flatten_subgroups=True):
                async with trio.open_nursery() as nursery:
                    await nursery.start(earlier.membership.run)
                    earlier.membership.found(address(witness.network.me))


def test_a_start_far_in_the_future_is_called_by_its_clock() -> None:
    assert "clock" not in str(Superseded(2000, 1000))
    assert "(by its clock 10 days later: if that was wrong" in str(Superseded(10 * DAY + 5, 5))


async def test_whoever_was_silent_may_come_back_with_an_earlier_clock(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (witness,):
        async with outsider(network, OUTSIDER, witness) as ahead:
            await ask(ahead, witness, hello(OUTSIDER, witness, incarnation=2**62))
        await lost(witness, OUTSIDER.peer)
        async with outsider(network, OUTSIDER, witness) as back:
            assert isinstance(await ask(back, witness, hello(OUTSIDER, witness, incarnation=5)), Hello)


async def test_a_claim_of_being_superseded_that_is_not_signed_stops_nobody(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 1) as (end,), outsider(network, OUTSIDER, end) as liar:
        me, own = end.membership.incarnation, key_of(end.network.me)
        forgeries = [
            Refused("superseded", 2**50, b""),
            Refused("superseded", 2**50, bytes(64)),
            Refused("superseded", 2**50, OUTSIDER.sign(claim(SWARM, 2**50))),
            Refused("superseded", 2**50, own.sign(claim(b"x" * 32, 2**50))),
            Refused("superseded", me, own.sign(claim(SWARM, me))),  # its own word, of this very start
            Refused("superseded", me - 1, own.sign(claim(SWARM, me - 1))),  # of a start before
        ]
        for count, forged in enumerate(forgeries, start=1):
            liar.serve(PROTOCOL, partial(answer, forged))
            end.membership.found(address(liar.me))
            await trio.sleep(MAX_AVOIDANCE + 1)
            assert len(faults_of(end, liar.me)) == count


async def test_a_flood_of_hints_stays_within_the_bounds(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 2) as (end, other), outsider(network, OUTSIDER, end) as flood:
        flood.serve(PROTOCOL, partial(answer, hello(OUTSIDER, end)))
        membership, limit = end.membership, 8
        membership.view.limit = limit
        for wave in range(50):
            names = [f"nobody {wave} {number}" for number in range(MAX_PEERS)]
            peers = tuple((name, (f"/memory/{name}",) * 8) for name in names)
            await ask(flood, end, hello(OUTSIDER, end, peers=peers))
            assert len(membership._greeting) <= 2 * limit + 1
        assert len(end.network._known) < 50 * MAX_PEERS  # type: ignore[attr-defined]
        other.membership.found(address(end.network.me))
        await trio.sleep(60)
        assert [member.peer for member in membership.view.all()] == sorted([flood.me, other.network.me])
        assert set(membership._greeting) == {flood.me, other.network.me}


async def test_a_member_that_fills_the_view_is_missed_when_it_goes(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 4) as (end, other, third, fourth):
        end.membership.view.limit = 1
        other.membership.found(address(end.network.me))
        third.membership.found(address(fourth.network.me))
        await trio.sleep(1)
        third.membership.found(address(end.network.me))
        await trio.sleep(10)
        assert [member.peer for member in end.membership.view.all()] == [other.network.me]
        network.kill(other.network.me)
        await lost(end, other.network.me)
        await trio.sleep(20)
        [member] = end.membership.view.all()
        assert member.peer in (third.network.me, fourth.network.me)


def test_faults_of_many_strangers_are_forgotten_oldest_first() -> None:
    view = View(8)
    for index in range(1000):
        view.fault(PeerId(str(index)), now=float(index))
        assert len(view._faults) <= 4 * 8
    assert view.avoided(PeerId("999"), now=999.0)


def test_avoidance_doubles_up_to_a_minute() -> None:
    assert [avoidance(count) for count in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert avoidance(6) == avoidance(10_000) == MAX_AVOIDANCE


async def test_a_member_that_misbehaves_is_avoided_for_its_time_and_no_longer(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        view, peer = one.membership.view, other.network.me
        for count in range(1, 9):
            one.membership.fault(peer, PeerFault(Fault.STALLED, "test"))
            await trio.sleep(avoidance(count) - 0.01)
            assert not view.partners(trio.current_time())
            await trio.sleep(0.02)
            assert [member.peer for member in view.partners(trio.current_time())] == [peer]
        assert peer in view


async def test_a_stranger_that_misbehaved_is_met_again_after_its_time(clock: MockClock) -> None:
    async with strangers(fabric(), 2) as (one, other):
        one.membership.fault(other.network.me, PeerFault(Fault.STALLED, "test"))
        one.membership.found(address(other.network.me))
        await trio.sleep(avoidance(1))
        assert not len(one.membership.view)
        one.membership.found(address(other.network.me))
        await trio.sleep(1)
        assert other.network.me in one.membership.view


def test_a_full_view_takes_nobody_in_and_still_keeps_its_members_up_to_date() -> None:
    view = View(0)
    assert view.full() and not view.all()
    assert view.missed(PeerId("x"), 0, 1) == 0
    assert not view.remove(PeerId("x"))


async def test_hellos_beyond_a_rate_are_not_answered_and_those_of_others_are(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 2) as (end, other), outsider(network, OUTSIDER, end) as flood:
        answered = 0
        for _ in range(3 * HELLOS_PER_PEER.burst):
            with suppress(Disconnected):
                await ask(flood, end, hello(OUTSIDER, end))
                answered += 1
        passed = trio.current_time() * HELLOS_PER_PEER.second
        assert HELLOS_PER_PEER.burst <= answered <= HELLOS_PER_PEER.burst + passed + 1
        other.membership.found(address(end.network.me))
        await trio.sleep(1)
        assert end.network.me in other.membership.view


# --- suspicion ---


async def meet_all(members: list[End]) -> None:
    """Let all of them know the first, and wait until all know all."""
    for end in members[1:]:
        end.membership.found(address(members[0].network.me))
    with trio.fail_after(60):
        for end in members:
            while len(end.membership.view) < len(members) - 1:
                await end.membership.changed.wait()


async def test_who_misses_a_hello_is_no_partner_until_it_answers(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 3) as members:
        await meet_all(members)
        one, other, _ = members
        network.partition([[other.network.me]])
        one.membership.suspect(other.network.me)
        while one.membership.view.get(other.network.me).misses == 0:  # type: ignore[union-attr]
            await one.membership.changed.wait()
        assert other.network.me not in [m.peer for m in one.membership.view.partners(trio.current_time())]
        network.heal()
        await trio.sleep(15)
        assert other.network.me in [m.peer for m in one.membership.view.partners(trio.current_time())]
        assert not one.of(PeerLost)


async def test_a_member_that_others_reach_is_kept_longer_and_one_that_nobody_reaches_is_not(
    clock: MockClock,
) -> None:
    network = fabric()
    async with strangers(network, 5) as members:
        await meet_all(members)
        one, other, third, fourth, dead = members
        apart = {one.network.me, other.network.me}
        network.cut(lambda source, target: {source, target} == apart)
        network.kill(dead.network.me)
        missed = await lost(one, dead.network.me)
        assert other.network.me in one.membership.view
        assert missed + await lost(one, other.network.me) > 2 * missed
        await lost(other, one.network.me)
        for end in (third, fourth):
            assert {member.peer for member in end.membership.view.all()} >= apart


async def test_who_is_reached_one_way_only_is_no_member(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 2) as members:
        await meet_all(members)
        one, other = members
        outage = network.cut(lambda source, target: (source, target) == (other.network.me, one.network.me))
        await lost(one, other.network.me)
        await lost(other, one.network.me)
        for _ in range(60):
            await trio.sleep(5)
            assert not [*one.membership.view.all(), *other.membership.view.all()]
        network.join(outage)
        with trio.fail_after(2 * MAX_AVOIDANCE):
            while not (len(one.membership.view) and len(other.membership.view)):
                await one.membership.changed.wait()


async def test_a_witness_answers_its_members_only_and_of_members_only(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 3) as members, outsider(network, OUTSIDER, members[0]) as stranger:
        await meet_all(members)
        one, other, third = members
        assert await probe(other.network, one, third.network.me)
        assert not await probe(other.network, one, OUTSIDER.peer)
        assert not await probe(stranger, one, other.network.me)
        network.kill(third.network.me)
        assert not await probe(other.network, one, third.network.me)


@pytest.mark.fault("half/half split for an hour, heal")
async def test_halves_that_were_cut_apart_for_an_hour_meet_again(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 6) as members:
        await meet_all(members)
        network.partition([[end.network.me for end in members[:3]], [end.network.me for end in members[3:]]])
        await trio.sleep(3600)
        assert [len(end.membership.view) for end in members] == [2] * 6
        network.heal()
        healed = trio.current_time()
        with trio.fail_after(600):
            for end in members:
                while len(end.membership.view) < 5:
                    await end.membership.changed.wait()
        assert trio.current_time() - healed < 2 * MAX_AVOIDANCE


# --- more nodes than a view holds ---


def reached(members: list[End]) -> int:
    """How many can be reached from the first over views, in either direction."""
    names = {end.network.me: end for end in members}
    edges: dict[PeerId, set[PeerId]] = {peer: set() for peer in names}
    for end in members:
        for member in end.membership.view.all():
            edges[end.network.me].add(member.peer)
            edges.setdefault(member.peer, set()).add(end.network.me)
    found, rest = {members[0].network.me}, [members[0].network.me]
    while rest:
        for peer in edges[rest.pop()] - found:
            found.add(peer)
            rest.append(peer)
    return len(found & names.keys())


@pytest.mark.fault("half of the nodes die at once")
async def test_a_swarm_larger_than_a_view_is_one_piece_and_stays_so_when_many_die(clock: MockClock) -> None:
    network, limit = fabric(), 6
    async with strangers(network, 24) as members:
        for end in members:
            end.membership.view.limit = limit
        for end in members[1:]:  # all know only one
            end.membership.found(address(members[0].network.me))
        await trio.sleep(120)
        assert max(len(end.membership.view) for end in members) <= limit
        assert min(len(end.membership.view) for end in members) >= 2
        assert reached(members) == 24
        living = members[::2]
        for end in members[1::2]:
            network.kill(end.network.me)
        await trio.sleep(200)
        assert reached(living) == 12
        names = {end.network.me for end in living}
        assert all(member.peer in names for end in living for member in end.membership.view.all())
        assert min(len(end.membership.view) for end in living) >= 2
        assert max(len(end.membership._greeting) for end in living) <= 2 * limit


async def test_who_makes_room_for_a_stranger_hears_of_it(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 4) as (end, *others):
        end.membership.view.limit = 2
        for other in others:
            other.membership.view.limit = 2
        for other in others:
            other.membership.found(address(end.network.me))
            await trio.sleep(30)
        assert len(end.membership.view) == 2
        for other in others:
            mutual = end.network.me in other.membership.view
            assert mutual == (other.network.me in end.membership.view)
            assert len(other.membership.view) >= 1


async def test_whoever_lacks_a_member_that_nobody_has_room_for_does_not_ask_all_the_time(
    clock: MockClock,
) -> None:
    interval, limit, count = 60.0, 3, 31  # an odd number of places: there is always one too many
    async with strangers(fabric(), count) as members:
        for end in members:
            end.membership.view.limit = limit
            end.membership.interval = interval
        for end in members[1:]:
            end.membership.found(address(members[0].network.me))
        await trio.sleep(600)
        before = sum(end.membership._hellos for end in members)
        await trio.sleep(600)
        said = sum(end.membership._hellos for end in members) - before
        assert said < 1.05 * 2 * count * limit * 600 / interval  # each greeting is answered


async def test_addresses_that_no_message_has_room_for_are_kept_and_not_told(clock: MockClock) -> None:
    """They come from the DHT, from the local network or from a person."""
    async with strangers(fabric(), 2) as (one, other):
        one.membership.view._crowded = math.inf  # so that they are only kept
        long = f"/dns4/{190 * 'a'}/tcp/1"
        one.membership.found(PeerAddress(key(9).peer, (long, *(9 * ("/ip4/192.0.2.1/tcp/1",)))))
        one.membership.found(PeerAddress(key(8).peer, (long,)))
        for _ in range(20):
            [(told, addresses)] = one.membership._hello(other.network.me, agreed=True).peers
            assert (told, set(addresses)) == (key(9).peer, {"/ip4/192.0.2.1/tcp/1"})


async def test_a_member_that_answers_hellos_wrongly_is_one_no_longer(clock: MockClock) -> None:
    async with strangers(fabric(), 3) as members:
        await meet_all(members)
        one, other, _ = members
        other.membership.standing.layout = b"x" * 32
        one.membership.suspect(other.network.me)
        await trio.sleep(60)
        assert other.network.me not in one.membership.view
        assert not one.membership._suspected
        assert len(one.of(PeerFaulted)) < 30


async def test_who_answers_while_witnesses_are_asked_is_not_lost(clock: MockClock) -> None:
    network = fabric()
    async with strangers(network, 2) as (one, other):
        one.membership.found(address(other.network.me))
        await trio.sleep(1)
        membership = one.membership

        async def lives(peer: PeerId) -> bool:
            network.heal()
            await membership.greet(peer)
            return False

        membership._lives = lives  # type: ignore[method-assign]
        network.partition([[other.network.me]])
        began = trio.current_time()
        for _ in range(MISSES):
            await trio.sleep(1)
            await membership._missed(other.network.me, trio.current_time())
        assert trio.current_time() > began
        assert other.network.me in membership.view
        assert not one.of(PeerLost)


async def test_greetings_that_fail_together_are_one_miss(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (one, other):
        view, now = one.membership.view, trio.current_time()
        assert [view.missed(other.network.me, now, now + 10) for _ in range(3)] == [1, 1, 1]
        assert view.missed(other.network.me, now + 10, now + 20) == 2


async def test_a_strangers_goodbye_makes_nobody_crowded(clock: MockClock) -> None:
    async with strangers(fabric(), 2) as (one, other):
        other.network.learn(address(one.network.me))
        await other.membership._tell(one.network.me, Goodbye(stays=True))
        assert not one.membership.view.crowded(trio.current_time())


@pytest.mark.slow
async def test_halves_larger_than_a_view_meet_again(clock: MockClock) -> None:
    network, limit = fabric(), 3
    async with strangers(network, 8) as members:
        for end in members:
            end.membership.view.limit = limit
        for end in members[1:]:
            end.membership.found(address(members[0].network.me))
        await trio.sleep(60)
        assert reached(members) == 8
        half = [end.network.me for end in members[:4]]
        network.partition([half, [end.network.me for end in members[4:]]])
        await trio.sleep(400)
        assert reached(members) == 4
        network.heal()
        with trio.fail_after(1200):
            while reached(members) < 8:  # noqa: ASYNC110 - of many views together
                await trio.sleep(5)
