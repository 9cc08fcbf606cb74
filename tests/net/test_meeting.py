"""Direct connections of real networks: who finds whom, who is refused, and that nothing is left."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio

from p2pnode.errors import Disconnected, PeerFault, Unreachable
from p2pnode.net import host, meeting
from p2pnode.net.bulk_keys import INVITATION, agree_on
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.net.multistream import propose
from p2pnode.net.wire import Meter, Wire
from p2pnode.ports import Handler, PeerId, Stream

from .contract import CHECKS, MIB, Check, noise, receive
from .direct import CONTEXT, exchanged, met, open_files, paired, two_streams
from .libp2p_peers import LOOPBACK, dial_raw, full_address, key, peer, two_peers, until

Streams = tuple[Stream, Stream]


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork, Streams]]:
    """Two networks, and both ends of a stream of the connection that the first has dialled."""
    async with two_peers() as (near, far), two_streams(near, far) as streams:
        yield near, far, streams


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "MEETING_SECONDS", 0.1)


async def asks(network: Libp2pNetwork, name: str) -> Wire:
    """Dial as anybody may, and ask for `name`."""
    wire = Wire(await dial_raw(network), initiator=True, meter=Meter())
    try:
        await propose(wire.read, wire.write, name)
    except BaseException:
        wire.abort()
        raise
    return wire


class OnlyDirect(Libp2pNetwork):
    """A network whose streams lead to direct connections, which are what conversations get."""

    def serve(self, protocol: str, handler: Handler) -> None:
        async def serve(stream: Stream) -> None:
            direct = await self._instead(stream)
            try:
                await handler(direct)
                await direct.close()
            finally:
                await direct.reset()

        super().serve(protocol, serve)

    async def open(self, peer: PeerId, protocol: str) -> Stream:  # type: ignore[override]
        return await self._instead(await super().open(peer, protocol))

    async def _instead(self, stream: Stream) -> Stream:
        mine = self.invitation(stream)
        await stream.send(mine)
        direct = await self.direct(stream, mine, await receive(stream, INVITATION), CONTEXT)
        if direct is None:
            raise Disconnected("no direct connection")
        return direct


NOT_PROMISED = "check_cancelling_a_receive_leaves_others_working"


@pytest.mark.parametrize(
    "check", [one for one in CHECKS if one.__name__ != NOT_PROMISED], ids=lambda check: check.__name__
)
async def test_direct_connections_keep_the_contract_of_streams(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "MOST_DIRECT", 100)
    monkeypatch.setattr(host, "Libp2pNetwork", OnlyDirect)
    numbers = count(1)
    with trio.fail_after(60):
        await check(lambda: peer(next(numbers)))


@pytest.mark.parametrize("opener", [0, 1], ids=["dialler", "dialled"])
async def test_both_ends_find_each_other_whoever_opened_the_stream(opener: int) -> None:
    async with two_peers() as (near, far):
        one, other = (near, far) if opener == 0 else (far, near)
        async with two_streams(one, other) as streams:
            ends = await paired(one, other, streams)
            assert (ends[0].peer, ends[1].peer) == (other.me, one.me)
            before = near.traffic
            await exchanged(*ends, noise(3 * MIB, 1), noise(2 * MIB, 2))
            assert near.traffic.sent + near.traffic.received - before.sent - before.received > 5 * MIB
            assert not near._meeting.awaited
            assert not far._meeting.awaited


async def test_nothing_is_left_of_many(hurried: None) -> None:
    async with joined() as (near, far, streams):
        before, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
        for turn in range(10):
            for end in await paired(near, far, streams):
                if turn % 2:
                    await end.close()
                await end.reset()
        for turn in range(10):
            with trio.move_on_after(turn / 2000):  # cancelled anywhere on the way
                await met(near, far, streams)
            for network in (near, far):  # one end may have been there already
                await network._meeting.part()
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
        gc.collect()  # a socket left open would be a warning here
        await until(lambda: open_files() <= before)
        assert not near._meeting.awaited
        assert not far._meeting.awaited


async def test_closing_a_network_ends_its_direct_connections() -> None:
    async with two_peers() as (near, far), two_streams(near, far) as streams:
        ends = await paired(near, far, streams)
        await near.disconnect(far.me)
        for end in ends:
            with pytest.raises(Disconnected):
                await receive(end, 1)
        await ends[1].reset()


async def test_a_token_serves_once_and_an_unknown_one_not_at_all(hurried: None) -> None:
    async with joined() as (near, far, streams):
        mine, theirs = far.invitation(streams[1]), near.invitation(streams[0])
        name = agree_on(mine, theirs, CONTEXT, False).name
        with pytest.raises(Unreachable):
            await asks(far, name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.direct, streams[1], mine, theirs, CONTEXT)
            await until(lambda: name in far._meeting.awaited)
            first = await asks(far, name)
            with pytest.raises(Unreachable):
                await asks(far, name)
        first.abort()


async def test_who_has_the_token_but_not_the_keys_is_not_the_peer(hurried: None) -> None:
    found: list[Stream | None] = []

    async with joined() as (near, far, streams):
        mine, theirs = far.invitation(streams[1]), near.invitation(streams[0])
        keys = agree_on(mine, theirs, CONTEXT, False)

        async def wait() -> None:
            found.append(await far.direct(streams[1], mine, theirs, CONTEXT))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: keys.name in far._meeting.awaited)
            thief = await asks(far, keys.name)
            await thief.write((100).to_bytes(4, "big") + bytes(100))
        assert found == [None]
        thief.abort()


async def test_another_context_finds_nobody(hurried: None) -> None:
    async with joined() as (near, far, streams):
        assert await met(near, far, streams, (b"one exchange", b"another")) == (None, None)


@pytest.mark.parametrize("end", [0, 1], ids=["dialler", "dialled"])
async def test_a_peer_that_does_not_come_is_none_and_not_invited_for_a_while(hurried: None, end: int) -> None:
    async with joined() as (near, far, streams):
        network, other = (near, far) if end == 0 else (far, near)
        mine, theirs = network.invitation(streams[end]), other.invitation(streams[1 - end])
        assert await network.direct(streams[end], mine, theirs, CONTEXT) is None
        assert network.invitation(streams[end]) == b""
        assert await met(near, far, streams) == (None, None)


async def test_one_end_without_direct_connections_is_enough_for_none() -> None:
    async with (
        open_network(key(1), [LOOPBACK]) as near,
        open_network(key(2), [LOOPBACK], direct=False) as far,
    ):
        await near.connect(full_address(far))
        async with two_streams(near, far) as streams:
            assert far.invitation(streams[1]) == b""
            assert await met(near, far, streams) == (None, None)
            assert near.invitation(streams[0])  # nobody failed


async def test_what_is_no_invitation_is_a_fault() -> None:
    async with joined() as (near, _far, streams):
        with pytest.raises(PeerFault):
            await near.direct(streams[0], near.invitation(streams[0]), b"come", CONTEXT)


async def test_direct_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "MOST_DIRECT", 1)
    async with joined() as (near, far, streams):
        ends = await paired(near, far, streams)
        assert near.invitation(streams[0]) == b""
        for end in ends:
            await end.reset()
        assert near.invitation(streams[0])
