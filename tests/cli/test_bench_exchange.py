"""`p2pnode bench exchange`, `mean` and `overlap`: what is measured is there, and nothing of it stays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pnode.bench import exchange, mean, overlap
from p2pnode.bench.averager import Plan
from p2pnode.bench.exchange import CEILING, DIRECT, SMALL, STREAM, Case, Turn, plan, summary
from p2pnode.bench.group import Peer, group
from p2pnode.bench.overlap import Phase

PARAMETERS = 5_000_000


@contextmanager
def watched(plans: Sequence[Plan]) -> Iterator[list[Peer]]:
    """A group none of which is there afterwards."""
    with group(plans) as peers:
        yield peers
        pids = [peer.pid for peer in peers]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_ratios_to_the_ceiling_are_taken_within_a_turn() -> None:
    found = {case: [Turn([2.0], 1.0, 10, [5]), Turn([4.0], 2.0, 10, [7])] for case in plan(PARAMETERS)}
    found[Case(CEILING, "float32", PARAMETERS)] = [Turn([1.0], 1.0, 10, [0]), Turn([1.0], 1.0, 10, [0])]
    report = summary(found)
    assert (report.of_ceiling.least, report.of_ceiling.most) == (0.25, 0.5)
    assert {row.path for row in report.cases} == {DIRECT, STREAM, CEILING}
    assert report.cases[0].rate.most == pytest.approx(4e-6 * PARAMETERS / 2)
    assert report.cases[0].allowed == 20 + (64 << 20)
    assert report.small.parameters == SMALL
    assert report.small.slow.median == 3000


def test_what_training_loses_is_taken_within_a_turn() -> None:
    turns = [[Phase(4, 1, 0), Phase(3, 2, 5)], [Phase(2, 1, 0), Phase(2, 4, 3)]]
    found = overlap.summary(7, turns)
    assert (found.ratio.least, found.ratio.most) == (0.75, 1)
    assert (found.late.most, found.late_alone.most, found.exchanges.median) == (4, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("codec", ["float32", "int4"])
def test_an_exchange_of_two_processes_takes_no_more_memory_than_it_may(direct: bool, codec: str) -> None:
    turn = exchange.measured(Case(DIRECT if direct else STREAM, codec, PARAMETERS))
    assert len(turn.seconds) == exchange.ROUNDS
    assert min(turn.seconds) > 0
    assert turn.cpu > 0
    assert max(turn.memory) <= 2 * turn.sent + (64 << 20)


@pytest.mark.slow
def test_several_processes_come_to_their_mean_and_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mean, "group", watched)
    found = mean.run(3, PARAMETERS, 1, lambda turn: None)
    assert found.seconds.median > 0
    assert found.cpu.median > 0


@pytest.mark.slow
def test_training_and_exchanges_share_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SECONDS", 0.5)
    found = overlap.run(1, lambda turn: None)
    assert found.alone.median > 0
    assert found.together.median > 0
    assert found.exchanges.median > 0
