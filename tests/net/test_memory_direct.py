"""Direct connections between peers in memory: as the real ones, in virtual time."""

import pytest
import trio
from trio.testing import MockClock

from p2pnode.errors import Disconnected
from p2pnode.net.bulk_keys import PROTOCOL
from p2pnode.net.meeting import AVOID_SECONDS, MEETING_SECONDS
from p2pnode.net.memory import MemoryFabric, run_deterministic
from p2pnode.net.memory_link import Link
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import PeerAddress, PeerId

from .contract import MIB, noise, receive
from .direct import exchanged, met, paired, two_streams

ALICE, BOB = PeerId("alice"), PeerId("bob")


async def test_both_ends_get_what_the_other_sends_at_once(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(1, Link(latency=0.1, bandwidth=1e6))
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        alice.learn(PeerAddress(BOB, bob.addresses))
        async with two_streams(alice, bob) as streams:
            began = trio.current_time()
            ends = await paired(alice, bob, streams)
            assert trio.current_time() - began < MEETING_SECONDS
            began = trio.current_time()
            await exchanged(*ends, noise(2 * MIB, 1), noise(MIB, 2))
            assert trio.current_time() - began >= 2 * MIB / 1e6  # the same link as everything


@pytest.mark.parametrize("verdict", [Verdict.DROP, Verdict.RESET])
async def test_a_tap_refuses_one_and_it_is_not_tried_again_for_a_while(
    verdict: Verdict, autojump_clock: MockClock
) -> None:
    fabric = MemoryFabric(1, Link(latency=0.1))
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        alice.learn(PeerAddress(BOB, bob.addresses))
        fabric.tap = lambda _source, _target, protocol, _data: (
            verdict if protocol.startswith(PROTOCOL) else Verdict.DELIVER
        )
        async with two_streams(alice, bob) as streams:
            assert await met(alice, bob, streams) == (None, None)
            assert alice.invitation(streams[0]) == bob.invitation(streams[1]) == b""
            fabric.tap = None
            await trio.sleep(AVOID_SECONDS + MEETING_SECONDS)
            await paired(alice, bob, streams)


async def test_a_tap_breaks_one_later_and_the_stream_goes_on(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(1, Link(latency=0.1))
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        alice.learn(PeerAddress(BOB, bob.addresses))
        async with two_streams(alice, bob) as streams:
            here, there = await paired(alice, bob, streams)
            await here.send(b"good")
            fabric.tap = lambda _source, _target, protocol, _data: (
                Verdict.RESET if protocol.startswith(PROTOCOL) else Verdict.DELIVER
            )
            with pytest.raises(Disconnected):
                await here.send(b"lost")
            assert await receive(there, 4) == b"good"
            with pytest.raises(Disconnected):
                await receive(there, 4)
            await streams[0].send(b"still here")
            assert await receive(streams[1], 10) == b"still here"


async def test_a_network_without_direct_connections_invites_nobody(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(1)
    async with fabric.network(ALICE) as alice, fabric.network(BOB, direct=False) as bob:
        alice.learn(PeerAddress(BOB, bob.addresses))
        async with two_streams(alice, bob) as streams:
            assert alice.invitation(streams[0])
            assert await met(alice, bob, streams) == (None, None)
            assert trio.current_time() == 0.0


async def test_a_peer_that_does_not_come_costs_no_more_than_patience(autojump_clock: MockClock) -> None:
    fabric = MemoryFabric(1)
    async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
        alice.learn(PeerAddress(BOB, bob.addresses))
        async with two_streams(alice, bob) as streams:
            for end, network in enumerate((alice, bob)):
                mine, theirs = network.invitation(streams[end]), bytes(33)
                assert await network.direct(streams[end], mine, theirs, b"") is None
                assert trio.current_time() == pytest.approx((end + 1) * MEETING_SECONDS)


def test_one_seed_makes_the_same_invitations() -> None:
    async def invited() -> None:
        fabric = MemoryFabric(1)
        async with fabric.network(ALICE) as alice, fabric.network(BOB) as bob:
            alice.learn(PeerAddress(BOB, bob.addresses))
            async with two_streams(alice, bob) as streams:
                found.append((alice.invitation(streams[0]), bob.invitation(streams[1])))

    found: list[tuple[bytes, bytes]] = []
    for _ in range(2):
        run_deterministic(invited, 0)
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
