"""A partner that is killed, or frozen for a while, in the middle of a large snapshot.

The other end then has nobody to finish with: it aborts within its deadline, keeps nothing of the exchange,
and has its next one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from p2pnode.events import ExchangeAborted, ExchangeCompleted, ExchangeUnsettled
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Result
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.ports import PeerAddress
from tests.gossip.ends import INCARNATION, End, key, make_end, member
from tests.gossip.held import held
from tests.gossip.victim import INDEX, PATIENCE, RATE, trainers
from tests.net.libp2p_peers import LOOPBACK, full_address, until

pytestmark = pytest.mark.slow

ENOUGH = 1_000_000  # bytes: the transfer is under way, and far from its end
ROOT = Path(__file__).parents[2]
VICTIM = member(key(INDEX).peer, INCARNATION + INDEX)


@asynccontextmanager
async def victim(partner: End, offers: bool) -> AsyncIterator[tuple[int, str]]:
    """Its process, and where it listens."""
    address = f"{partner.network.addresses[0]}/p2p/{partner.network.me}"
    command = [sys.executable, "-m", "tests.gossip.victim", address, "offers" if offers else "waits"]
    child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    try:
        async with child.stdout:
            yield child.pid, (await child.stdout.receive_some()).decode().strip()
    finally:
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()


@asynccontextmanager
async def survivors() -> AsyncIterator[tuple[End, End]]:
    """Two nodes that know each other; the first knows the victim, too."""
    made = await trainers(3)
    async with open_network(key(0), [LOOPBACK]) as near, open_network(key(2), [LOOPBACK]) as far:
        one = await make_end(near, 0, trainers=made, deadlines=Deadlines(PATIENCE, RATE))
        other = await make_end(far, 2, trainers=made, deadlines=Deadlines(PATIENCE, RATE))
        await near.connect(full_address(far))
        for member_ in (other.member(), VICTIM):
            one.membership.view.put(member_)
        other.membership.view.put(one.member())
        yield one, other


async def strike(one: End, pid: int, blow: signal.Signals) -> None:
    """Once a snapshot is on its way over a direct connection."""
    assert isinstance(one.network, Libp2pNetwork)
    meeting = one.network._meeting
    await until(lambda: any(direct._incoming.received > ENOUGH for direct in meeting._open))
    assert not any(direct.over for direct in meeting._open)
    os.kill(pid, blow)


async def lose(one: End, offers: bool, pid: int, blow: signal.Signals) -> None:
    """An exchange of `one` in the middle of which the victim is struck; it applies nothing."""
    before = await one.trainer.vector()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strike, one, pid, blow)
        if not offers:
            assert await one.exchanger.offer(VICTIM) in (Result.ABORTED, Result.UNREACHABLE)
    with trio.fail_after(2 * Deadlines(PATIENCE, RATE).first(2 * one.trainer.payload[0])):
        await until(lambda: not one.exchanger.slot.busy)
    assert len(one.of(ExchangeAborted)) == 1
    assert not one.of(ExchangeCompleted) + one.of(ExchangeUnsettled)
    np.testing.assert_array_equal(await one.trainer.vector(), before)


@pytest.mark.parametrize("offers", [True, False], ids=["it offered", "it was offered"])
@pytest.mark.fault("kill -9 in the middle of a transfer")
async def test_whose_partner_is_killed_in_the_middle_aborts_and_is_free(offers: bool) -> None:
    async with survivors() as (one, other):
        before = held([one, other])
        async with victim(one, offers) as (pid, _):
            await lose(one, offers, pid, signal.SIGKILL)
        assert await one.exchanger.offer(other.member()) is Result.COMPLETED
        await until(lambda: held([one, other]) == before)


@pytest.mark.parametrize("offers", [True, False], ids=["it offered", "it was offered"])
@pytest.mark.fault("freeze in the middle of a transfer")
async def test_whose_partner_is_frozen_in_the_middle_aborts_and_meets_it_again(offers: bool) -> None:
    async with survivors() as (one, other):
        before = held([one, other])
        async with victim(one, offers) as (pid, address):
            one.network.learn(PeerAddress(VICTIM.peer, (address,)))
            await lose(one, offers, pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            with trio.fail_after(60):
                while not one.of(ExchangeCompleted):
                    if not offers:
                        await one.exchanger.offer(VICTIM)
                    await trio.sleep(0.05)
        assert await one.exchanger.offer(other.member()) is Result.COMPLETED
        await until(lambda: held([one, other]) == before)
