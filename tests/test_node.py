"""Whole nodes over the memory network: they find each other, learn, settle, leave, and come back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from p2pnode.errors import UserError
from p2pnode.events import (
    Alone,
    CaughtUp,
    Checkpointed,
    ExchangeCompleted,
    ExchangeUnsettled,
    InCompany,
    NodeReady,
    Paused,
    PeerAlive,
    PeerFaulted,
    PeerLost,
    Restored,
    Resumed,
    RoundFinished,
    Settled,
    Stopped,
)
from p2pnode.gossip import exchange
from p2pnode.gossip.view import Stage
from p2pnode.net.memory import run_deterministic
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import PeerId
from p2pnode.wire.messages import Commit, encode
from tests.nodes import Running, cluster


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def checkpoints(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "checkpoints").iterdir())


async def accuracy_alone() -> float:
    """Of the best of four nodes that never met."""
    async with cluster(rounds=30) as swarm:
        nodes = [await swarm.start(index, peers=0) for index in range(4)]
        swarm.fabric.partition([[node.peer] for node in nodes])
        return max([(await node.until(Settled)).metrics["test_accuracy"] for node in nodes])


async def test_four_nodes_find_each_other_train_and_settle(clock: MockClock) -> None:
    alone = await accuracy_alone()
    async with cluster(rounds=30) as swarm:
        nodes = [await swarm.start(index, peers=3) for index in range(4)]
        for node in nodes:
            settled = await node.until(Settled)
            assert (settled.members, settled.counted) == (4, 4)
            assert settled.spread < 1e-6
            assert settled.metrics["test_accuracy"] > alone + 0.2
            await node.stopped.wait()
            assert [event.round for event in node.of(RoundFinished)] == list(range(1, 31))
            assert len(node.of(ExchangeCompleted)) > 20
            assert not node.of(PeerFaulted)
            assert node.of(Stopped)[0].reason == "finished"
        models = [await node.model() for node in nodes]
        for model in models[1:]:
            np.testing.assert_allclose(model, models[0], rtol=0, atol=1e-6)


async def test_a_node_alone_trains_to_the_end(clock: MockClock) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, peers=0)
        assert (await node.until(Settled)).members == 1
        await node.stopped.wait()
        assert len(node.of(RoundFinished)) == 10
        assert not node.of(PeerAlive) + node.of(ExchangeCompleted)


async def test_a_node_says_when_it_is_alone_and_when_it_no_longer_is(clock: MockClock) -> None:
    async with cluster(rounds=60) as swarm:
        node = await swarm.start(0, peers=0)
        await node.until(Alone)
        other = await swarm.start(1)
        await node.until(InCompany)
        other.node.stop()
        await node.until(Settled)
        assert [type(e) for e in node.events if isinstance(e, Alone | InCompany)] == [Alone, InCompany, Alone]
        assert len(node.of(RoundFinished)) == 60


async def test_a_partner_killed_before_it_said_what_it_decided_holds_nobody_up(clock: MockClock) -> None:
    async with cluster(rounds=200) as swarm:
        nodes = {node.peer: node for node in [await swarm.start(index, peers=2) for index in range(3)]}
        await next(iter(nodes.values())).until(RoundFinished, lambda event: event.round == 10)
        killed: list[tuple[PeerId, PeerId]] = []
        happened = trio.Event()

        def kill(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
            if not killed and protocol == exchange.PROTOCOL and encode(Commit()) in data:
                killed.append((source, target))
                swarm.fabric.kill(source)
                happened.set()
            return Verdict.DROP if killed and source == killed[0][0] else Verdict.DELIVER

        swarm.fabric.tap = kill
        await happened.wait()
        [(_, left)] = killed
        began = trio.current_time()
        await nodes[left].until(ExchangeUnsettled)
        rounds = len(nodes[left].of(RoundFinished))
        await nodes[left].until(RoundFinished, lambda event: event.round > rounds)
        assert trio.current_time() - began < 1


async def test_who_comes_late_with_the_link_alone_is_given_all_it_needs(clock: MockClock) -> None:
    async with cluster(rounds=40) as swarm:
        nodes = [await swarm.start(index, peers=3) for index in range(4)]
        await nodes[0].until(RoundFinished, lambda event: event.round == 10)
        late = await swarm.start(4, invited=False)
        caught_up = await late.until(CaughtUp)
        ahead = max(event.round for event in nodes[0].of(RoundFinished))
        assert 8 <= caught_up.round <= ahead
        assert caught_up.peer in [node.peer for node in nodes]
        await late.until(RoundFinished, lambda event: event.round == 40)
        assert late.of(RoundFinished)[0].round == caught_up.round + 1
        for node in [*nodes, late]:
            settled = await node.until(Settled)
            assert (settled.members, settled.counted) == (5, 5)
            assert settled.spread < 1e-6
        np.testing.assert_allclose(await late.model(), await nodes[0].model(), rtol=0, atol=1e-6)


async def test_a_donor_with_no_finished_round_gives_the_manifest_only(clock: MockClock) -> None:
    async with cluster() as swarm:
        donor = await swarm.start(0, peers=2)
        await donor.until(NodeReady)
        late = await swarm.start(1, peers=2, invited=False)
        assert (await late.until(NodeReady)).swarm == swarm.manifest.swarm_id
        assert (await late.until(RoundFinished)).round == 1  # after both have waited long enough
        assert not late.of(CaughtUp) + donor.of(CaughtUp)
        for node in (donor, late):
            assert (await node.until(Settled)).counted == 2


# --- stopping ---


async def assert_left_in_order(node: Running, others: list[Running]) -> None:
    """It said goodbye, and nobody sees or blames it afterwards."""
    with trio.fail_after(30):
        await node.stopped.wait()
    assert isinstance(node.events[-1], Stopped) and node.events[-1].reason == "signal"
    assert not node.of(Settled)
    for other in others:
        assert await other.until(PeerLost, lambda event: event.peer == node.peer) == PeerLost(
            node.peer, "goodbye"
        )
        last = [e for e in other.events if isinstance(e, PeerAlive | PeerLost) and e.peer == node.peer][-1]
        assert isinstance(last, PeerLost)
        assert not other.of(PeerFaulted)


async def test_stopping_before_there_are_peers(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        before = trio.lowlevel.current_statistics().tasks_living
        node = await swarm.start(0, path=tmp_path)
        await node.until(NodeReady)
        node.node.stop()
        await assert_left_in_order(node, [])
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert len(checkpoints(tmp_path)) == len(node.of(Checkpointed)) == 1


async def test_stopping_before_there_is_a_manifest(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, invited=False, path=tmp_path)
        await trio.sleep(20)
        node.node.stop()
        await assert_left_in_order(node, [])
        assert not node.of(NodeReady) and not checkpoints(tmp_path)


async def test_stopping_at_once(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, path=tmp_path)
        node.node.stop()
        await assert_left_in_order(node, [])


async def test_stopping_while_training(clock: MockClock, tmp_path: Path) -> None:
    async with cluster(rounds=20) as swarm:
        nodes = [await swarm.start(index, peers=2, path=tmp_path / str(index)) for index in range(3)]
        stopping, *others = nodes
        await stopping.until(RoundFinished, lambda event: event.round == 5)
        stopping.node.stop()
        await assert_left_in_order(stopping, others)
        assert stopping.of(Checkpointed)[-1].round >= 5
        assert Path(stopping.of(Checkpointed)[-1].path).name in checkpoints(tmp_path / "0")
        for node in others:
            assert (await node.until(Settled)).counted == 2


async def first_to_begin(nodes: list[Running]) -> Running:
    """The initiator of the first exchange, as it begins."""
    with trio.fail_after(60):
        while True:
            for node in nodes:
                if node.node._exchanger is not None and node.node._exchanger.slot.pending:
                    return node
            await trio.sleep(0.01)


@pytest.mark.parametrize("role", [0, 1], ids=["initiator", "acceptor"])
async def test_stopping_in_an_exchange(role: int, clock: MockClock, tmp_path: Path) -> None:
    """At every moment of it, in turn: both apply or neither, and what was applied is saved."""
    for moment in np.arange(0.0, 2.2, 0.4):
        async with cluster(rounds=20, latency=0.2) as swarm:
            folder = tmp_path / f"{role} {moment:.1f}"
            nodes = [await swarm.start(i, path=folder / str(i)) for i in range(2)]
            initiator = await first_to_begin(nodes)
            nodes.sort(key=lambda node: node is not initiator)
            await trio.sleep(float(moment))
            stopping, other = nodes[role], nodes[1 - role]
            stopping.node.stop()
            await assert_left_in_order(stopping, [other])
            await trio.sleep(60)
            done = [{event.exchange for event in node.of(ExchangeCompleted)} for node in nodes]
            assert done[0] == done[1]
            assert not stopping.of(ExchangeUnsettled) + other.of(ExchangeUnsettled)


async def test_stopping_while_settling(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        quick = await swarm.start(0, path=tmp_path)
        slow_one = await swarm.start(1, seconds=1.0)
        await quick.until(RoundFinished, lambda event: event.round == 10)
        await trio.sleep(5)  # for a last exchange, or for finding nobody free
        assert slow_one.node.membership.standing.stage == Stage.TRAINING
        assert quick.node.membership.standing.stage == Stage.DONE
        quick.node.stop()
        await assert_left_in_order(quick, [slow_one])
        assert quick.of(Checkpointed)[-1].round == 10
        assert (await slow_one.until(Settled)).members == 1


# --- pausing ---


async def test_a_paused_node_waits_while_the_others_go_on_without_losing_it(clock: MockClock) -> None:
    async with cluster(rounds=60) as swarm:
        nodes = [await swarm.start(index, peers=2) for index in range(3)]
        paused, *others = nodes
        await paused.until(RoundFinished, lambda event: event.round == 5)
        await paused.steering.pause()
        assert (await paused.steering.status())["paused"]
        await trio.sleep(1)  # for the chunk and the exchange under way
        rounds, exchanges = len(paused.of(RoundFinished)), len(paused.of(ExchangeCompleted))
        before = [len(node.of(RoundFinished)) for node in others]
        pace = [event.seconds for event in others[0].of(RoundFinished)[-5:]]
        await trio.sleep(5)
        assert len(paused.of(RoundFinished)) == rounds
        assert len(paused.of(ExchangeCompleted)) == exchanges
        for node, had in zip(others, before, strict=True):
            assert len(node.of(RoundFinished)) - had > 0.5 * 5 / max(pace)
            assert not node.of(PeerLost) + node.of(PeerFaulted)
            assert paused.peer in node.node.membership.view
        assert {peer["peer"] for peer in (await paused.steering.peers())["peers"]} == {
            node.peer for node in others
        }
        await paused.steering.resume()
        for node in nodes:
            assert (await node.until(Settled)).counted == 3
        assert len(paused.of(ExchangeCompleted)) > exchanges
        assert [type(event) for event in paused.events if isinstance(event, Paused | Resumed)] == [
            Paused,
            Resumed,
        ]


async def test_whose_only_peer_is_paused_trains_on_at_its_own_pace(clock: MockClock) -> None:
    async with cluster(rounds=60) as swarm:
        paused, other = [await swarm.start(index) for index in range(2)]
        await paused.until(RoundFinished, lambda event: event.round == 5)
        await paused.steering.pause()
        await other.until(RoundFinished, lambda event: event.round == 60)
        alone = [event for event in other.of(RoundFinished) if event.round > 20]
        assert max(event.seconds for event in alone) < 0.5  # a round's computation takes 0.06 s here
        assert not other.of(PeerLost)


async def test_a_node_paused_from_the_start_takes_no_step_until_it_is_resumed(clock: MockClock) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, peers=0)
        await node.steering.pause()
        await node.steering.pause()  # twice is once
        await trio.sleep(100)
        assert not node.of(RoundFinished)
        await node.steering.resume()
        await node.until(Settled)
        with pytest.raises(UserError, match="all rounds are done"):
            await node.steering.pause()


async def test_a_node_paused_in_its_last_round_settles_once_it_is_resumed(clock: MockClock) -> None:
    async with cluster() as swarm:
        paused, other = [await swarm.start(index) for index in range(2)]
        await paused.until(RoundFinished, lambda event: event.round == 10)
        await paused.steering.pause()
        await trio.sleep(20)
        assert paused.node.membership.standing.stage == Stage.TRAINING
        assert other.node.membership.standing.stage == Stage.DONE
        await paused.steering.resume()
        for node in (paused, other):
            assert (await node.until(Settled)).counted == 2


async def test_a_paused_node_can_be_stopped(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, peers=0, path=tmp_path)
        await node.until(RoundFinished, lambda event: event.round == 3)
        await node.steering.pause()
        await node.steering.stop()
        await node.stopped.wait()
        assert node.of(Stopped)[0].reason == "command"
        assert node.of(Checkpointed)[-1].round >= 3


async def test_a_node_is_asked_where_it_stands_and_saves_when_told(clock: MockClock, tmp_path: Path) -> None:
    async with cluster() as swarm:
        node = await swarm.start(0, peers=0, path=tmp_path)
        with pytest.raises(UserError, match="no model to save yet"):
            await node.steering.checkpoint()
        assert (await node.steering.status())["stage"] == "newcomer"
        await node.until(RoundFinished, lambda event: event.round == 4)
        saved = await node.steering.checkpoint()
        assert saved == {"round": saved["round"], "path": node.of(Checkpointed)[-1].path}
        assert Path(saved["path"]).name in checkpoints(tmp_path)
        status = await node.steering.status()
        assert (status["peer"], status["swarm"]) == (node.peer, swarm.manifest.swarm_id)
        assert (status["stage"], status["rounds"]) == ("training", 10)
        assert status["round"] >= 4
        assert status["checkpoint"] == saved
        await node.stopped.wait()
        assert (await node.steering.status())["stage"] == "settled"


# --- coming back ---


async def test_a_node_goes_on_from_its_checkpoint_with_the_same_identity(
    clock: MockClock, tmp_path: Path
) -> None:
    async with cluster() as swarm:
        first = await swarm.start(0, peers=0, path=tmp_path)
        await first.until(RoundFinished, lambda event: event.round == 4)
        first.node.stop()
        await first.stopped.wait()
        saved = first.of(Checkpointed)[-1]
        second = await swarm.start(0, peers=0, path=tmp_path)
        await second.stopped.wait()
        assert second.peer == first.peer
        assert second.node.membership.incarnation > first.node.membership.incarnation
        assert second.of(Restored) == [Restored(saved.round, saved.path)]
        assert second.of(NodeReady)[0].round == saved.round
        rounds = [event.round for event in first.of(RoundFinished) + second.of(RoundFinished)]
        assert rounds == list(range(1, 11))
        assert second.of(RoundFinished)[-1].steps == 100


async def test_a_node_that_was_stopped_catches_up_with_those_who_went_on(
    clock: MockClock, tmp_path: Path
) -> None:
    async with cluster(rounds=40) as swarm:
        stopping = await swarm.start(0, path=tmp_path)
        other = await swarm.start(1)
        await stopping.until(RoundFinished, lambda event: event.round == 3)
        stopping.node.stop()
        await stopping.stopped.wait()
        saved = stopping.of(Checkpointed)[-1].round
        await other.until(RoundFinished, lambda event: event.round == 20)
        back = await swarm.start(0, path=tmp_path)
        assert (await back.until(Restored)).round == saved
        assert (await back.until(RoundFinished)).round >= 20
        for node in (back, other):
            assert (await node.until(Settled)).counted == 2
        alive = [event for event in other.of(PeerAlive) if event.peer == back.peer]
        assert len(alive) == 2


async def test_a_settled_node_that_is_started_again_has_nothing_to_do(
    clock: MockClock, tmp_path: Path
) -> None:
    async with cluster() as swarm:
        await (await swarm.start(0, peers=0, path=tmp_path)).stopped.wait()
        node = await swarm.start(0, peers=0, path=tmp_path)
        await node.stopped.wait()
        assert node.of(Restored)[0].round == 10
        assert not node.of(RoundFinished)
        assert node.of(Stopped)[0].reason == "finished"


async def test_the_data_directory_of_another_swarm_is_a_persons_mistake(
    clock: MockClock, tmp_path: Path
) -> None:
    async with cluster(rounds=1) as swarm:
        await (await swarm.start(0, peers=0, path=tmp_path)).stopped.wait()
    with pytest.RaisesGroup(
        pytest.RaisesExc(UserError, match="another swarm: choose another --data-dir"),
        flatten_subgroups=True,
    ):
        async with cluster(rounds=2) as swarm:
            node = await swarm.start(0, peers=0, path=tmp_path)
            await node.stopped.wait()


# --- the same again ---


async def _trace() -> list[str]:
    async with cluster(rounds=5, latency=0.01) as swarm:
        nodes = [await swarm.start(index, peers=2) for index in range(3)]
        for node in nodes:
            await node.stopped.wait()
        return [f"{node.peer} {event}" for node in nodes for event in node.events]


def trace(seed: int) -> list[str]:
    """Every event of a small swarm's whole life."""
    return run_deterministic(_trace, seed)


def test_the_same_seed_gives_the_same_events() -> None:
    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_events_in_every_process() -> None:
    code = f"from tests.{Path(__file__).stem} import trace; print(*trace(7), sep='\\n')"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    one, other = (process.communicate()[0] for process in processes)
    assert one == other
    assert one.count("Settled(members=3, counted=3") == 3
