"""A node killed at every step of an exchange, on either side of it: the others go on at once."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2pnode.events import ExchangeAborted, ExchangeCompleted, ExchangeUnsettled, PeerFaulted, RoundFinished
from p2pnode.gossip import exchange
from p2pnode.gossip.deadlines import FLOOR
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import PeerId
from tests.nodes import Cluster, Running, cluster

STEPS = 12
"""Messages and pieces of an exchange of the small model, both ways, and a few of the next one."""

SEEDS = range(5)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


class Executioner:
    """A tap that kills one end of an exchange at its step of a number, counted from when it is armed.

    Args:
        swarm: of the nodes.
        step: from 0.
        sender: kill who sends at that step; else who is sent to.
    """

    def __init__(self, swarm: Cluster, step: int, sender: bool) -> None:
        self.victim: PeerId | None = None
        self.partner: PeerId | None = None
        self.done = trio.Event()
        self._swarm = swarm
        self._left = step
        self._sender = sender
        self._pair: set[PeerId] = set()

    def __call__(self, source: PeerId, target: PeerId, protocol: str, _: bytes) -> Verdict:
        if protocol != exchange.PROTOCOL:
            return Verdict.DELIVER
        self._pair = self._pair or {source, target}
        if self.done.is_set() or {source, target} != self._pair:
            return Verdict.DROP if source == self.victim else Verdict.DELIVER
        self._left -= 1
        if self._left < 0:
            self.victim, self.partner = (source, target) if self._sender else (target, source)
            self._swarm.fabric.kill(self.victim)
            self.done.set()
        return Verdict.DROP if source == self.victim else Verdict.DELIVER


async def goes_on(node: Running) -> None:
    """Wait for three more rounds of `node`, and an exchange."""
    last = node.of(RoundFinished)[-1].round
    seen = {event.exchange for event in node.of(ExchangeCompleted)}
    await node.until(RoundFinished, lambda event: event.round >= last + 3)
    await node.until(ExchangeCompleted, lambda event: event.exchange not in seen)


@pytest.mark.slow
@pytest.mark.fault("kill at every step of an exchange, either side")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sender", [True, False], ids=["sender", "receiver"])
@pytest.mark.parametrize("step", range(STEPS))
async def test_whoever_is_left_goes_on_within_two_deadlines(
    step: int, sender: bool, seed: int, clock: MockClock
) -> None:
    async with cluster(rounds=1000, seed=seed) as swarm:
        nodes = [await swarm.start(10 * seed + index, peers=3) for index in range(4)]
        for node in nodes:
            await node.until(RoundFinished, lambda event: event.round >= 12)
        swarm.fabric.tap = executioner = Executioner(swarm, step, sender)
        await executioner.done.wait()
        began = trio.current_time()
        left = [node for node in nodes if node.peer != executioner.victim]
        async with trio.open_nursery() as nursery:
            for node in left:
                nursery.start_soon(partial(goes_on, node))
        assert trio.current_time() - began < 2 * FLOOR
        assert not [event for node in left for event in node.of(PeerFaulted)]
        broken = [
            event
            for node in left
            for event in node.events
            if isinstance(event, ExchangeAborted | ExchangeUnsettled)
        ]
        assert len(broken) <= 1
