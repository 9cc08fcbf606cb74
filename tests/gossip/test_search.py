"""Looking for peers again and again, whatever a source says only once."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from p2pnode.gossip.search import FIRST_PATIENCE, LONGEST_PATIENCE, search
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.ports import PeerAddress
from tests.gossip.ends import End, key, make_end, manifest

ONE, OTHER = sorted(key(index).peer for index in range(2))


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@dataclass
class Once:
    """A source that names its peers once, and then no more; it notes when it was begun."""

    peers: list[PeerAddress]
    begun: list[float] = field(default_factory=list)

    async def run(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        self.begun.append(trio.current_time())
        for peer in self.peers:
            found(peer)
        await trio.sleep_forever()


@asynccontextmanager
async def member(fabric: MemoryFabric, index: int) -> AsyncIterator[End]:
    """A running member, found by nobody yet."""
    name = (ONE, OTHER)[index]
    async with fabric.network(name) as network, trio.open_nursery() as nursery:
        end = await make_end(network, index)
        end.membership.manifest = manifest()
        await nursery.start(end.membership.run)
        yield end
        nursery.cancel_scope.cancel()


@pytest.mark.fault("nobody there at start, then somebody")
async def test_a_node_that_is_alone_asks_all_sources_anew_until_somebody_answers(clock: MockClock) -> None:
    fabric = MemoryFabric(seed=1, link=Link(latency=0.01))
    once, other = Once([]), Once([PeerAddress(OTHER, (f"/memory/{OTHER}",))])
    async with member(fabric, 0) as end, trio.open_nursery() as nursery:
        nursery.start_soon(search, end.membership, "swarm", [once, other], [])
        await trio.sleep(3600)
        assert not len(end.membership.view)
        assert once.begun == other.begun
        pauses = [later - earlier for earlier, later in zip(once.begun, once.begun[1:], strict=False)]
        assert 8 <= len(pauses) <= 30
        assert FIRST_PATIENCE / 2 <= pauses[0] <= 1.5 * FIRST_PATIENCE
        assert max(pauses) <= 1.5 * LONGEST_PATIENCE
        async with member(fabric, 1):
            with trio.fail_after(1.5 * LONGEST_PATIENCE + 1):
                while not len(end.membership.view):
                    await end.membership.changed.wait()
            count = len(once.begun)
            await trio.sleep(3600)
            assert len(once.begun) == count  # nobody is disturbed while there is company
            fabric.kill(OTHER)
            await trio.sleep(600)
            assert len(once.begun) > count
        nursery.cancel_scope.cancel()


async def test_peers_of_the_last_time_are_tried_with_the_sources(clock: MockClock) -> None:
    fabric = MemoryFabric(seed=1, link=Link(latency=0.01))
    earlier = [PeerAddress(OTHER, (f"/memory/{OTHER}",))]
    async with member(fabric, 0) as end, trio.open_nursery() as nursery:
        nursery.start_soon(search, end.membership, "swarm", [Once([])], earlier)
        await trio.sleep(100)
        async with member(fabric, 1):
            with trio.fail_after(1.5 * LONGEST_PATIENCE + 1):
                while OTHER not in end.membership.view:
                    await end.membership.changed.wait()
        nursery.cancel_scope.cancel()
