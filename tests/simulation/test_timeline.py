"""What happens when: nobody merges what was not sent for it, and nobody runs further ahead than allowed."""

from typing import Any

import numpy as np
import pytest

from p2pnode.learning.schedule import Schedule, averaged
from p2pnode.learning.topology.table import scheduled
from p2pnode.simulation.links import Links
from p2pnode.simulation.swarm import Ticks
from p2pnode.simulation.timeline import Play, Timeline, in_step


def links(n: int, **chosen: Any) -> Links:
    usual: dict[str, Any] = {"latency": 0.001, "bandwidth": 1e6, "slow": 0.2, "factor": 20.0, "drop": 0.0}
    return Links(step=np.linspace(0.001, 0.003, n), seed=7, **{**usual, **chosen})


def play(n: int = 9, overlap: int = 0, away: float = 0.0, **chosen: Any) -> Timeline:
    return Play(
        n=n,
        links=links(n, **chosen),
        rounds=20,
        chunks=2,
        chunk=5,
        overlap=overlap,
        payload=20_000,
        every=5,
        away=away,
        seed=3,
    ).timeline()


def carried_out(ticks: Ticks, values: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Values averaged as the ticks say, and for each merge the turns of the two snapshots."""
    sent, turns, met = values.copy(), np.zeros(len(values), int), []
    for tick in range(len(ticks.steps)):
        sent[ticks.shares[tick]] = values[ticks.shares[tick]]
        turns[ticks.shares[tick]] = ticks.turns[tick][ticks.shares[tick]]
        change = np.zeros_like(values)
        for node in np.flatnonzero(ticks.present[tick, :, 0]):
            partner = ticks.partners[tick, node, 0]
            change[node] = 0.5 * (sent[partner] - sent[node])
            met.append((turns[node], turns[partner]))
        values = values + change
    return values, met


@pytest.mark.parametrize("overlap", [0, 5, 10, 25])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_every_node_does_all_its_rounds_and_conserves_what_is_averaged(n: int, overlap: int) -> None:
    made = play(n, overlap)
    assert (made.ticks.ends.sum(axis=0) == 20).all()
    assert (made.ticks.steps.sum(axis=0) == 40).all()
    values = np.random.default_rng(0).normal(size=n)
    after, met = carried_out(made.ticks, values)
    assert after.mean() == pytest.approx(values.mean(), abs=1e-12)
    assert after.std() < 0.3 * values.std()
    assert all(one == other for one, other in met)  # both took their snapshots for this very exchange
    assert made.marks[-1].exchanges == pytest.approx(len(met) / n)


@pytest.mark.parametrize("overlap", [0, 5, 10, 25])
def test_nobody_trains_further_ahead_of_its_open_exchange_than_it_may(overlap: int) -> None:
    ticks = play(overlap=overlap).ticks
    for node in range(9):
        ahead, is_open = 0, False
        for tick in range(len(ticks.steps)):
            ahead += 5 * int(ticks.steps[tick, node]) * is_open
            if ticks.shares[tick, node]:
                assert not is_open, "one snapshot at a time"
                ahead, is_open = 0, True
            assert ahead <= overlap
            if ticks.present[tick, node, 0]:
                assert is_open
                is_open = False


def test_overlap_hides_slow_links() -> None:
    assert play(overlap=20).marks[-1].seconds < 0.8 * play(overlap=0).marks[-1].seconds


def test_lost_exchanges_move_nobody_and_hold_up_nobody() -> None:
    made = play(drop=1.0)
    assert not made.ticks.present.any()
    assert (made.ticks.ends.sum(axis=0) == 20).all()


def test_who_is_away_misses_whole_rounds_and_what_was_open_comes_to_nothing_at_both_ends() -> None:
    made = play(n=40, overlap=10, away=0.4)
    rounds = made.ticks.ends.sum(axis=0)
    assert 0.5 < rounds.mean() / 20 < 0.7
    np.testing.assert_array_equal(made.ticks.steps.sum(axis=0), 2 * rounds)
    values = np.random.default_rng(0).normal(size=40)
    after, met = carried_out(made.ticks, values)
    assert after.mean() == pytest.approx(values.mean(), abs=1e-12)
    assert after.std() < 0.3 * values.std()
    assert all(one == other for one, other in met)
    assert len(met) / 40 < made.marks[-1].exchanges  # some were broken off


def test_the_same_seed_plays_the_same() -> None:
    one, other = play(overlap=5), play(overlap=5)
    for ours, theirs in zip(one.ticks, other.ticks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert one.marks == other.marks


def test_what_comes_after_a_mark_is_in_later_ticks() -> None:
    made = play(overlap=5)
    ends = made.ticks.ends.cumsum(axis=0)
    for mark in made.marks[1:]:
        assert ends[mark.tick - 1].mean() == pytest.approx(mark.rounds)
    assert [mark.tick for mark in made.marks] == sorted(mark.tick for mark in made.marks)
    assert made.marks[-1].tick == len(made.ticks.steps)


def test_segments_hold_all_ticks_and_fill_up_with_nothing() -> None:
    made = play(overlap=5)
    parts = [ticks for ticks, _ in made.segments()]
    assert len({len(part.steps) for part in parts}) == 1
    for name in Ticks._fields:
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.sum() == pytest.approx(
            getattr(made.ticks, name).sum() if name != "weights" else joined.sum()
        )


def test_in_step_every_round_is_the_schedules() -> None:
    schedule = scheduled("matching", 8, 6, 1, {})
    made = in_step(schedule, np.ones((6, 8), bool), links(8, slow=0.0, latency=0.0), 10, 1000, every=3)
    values = np.random.default_rng(1).normal(size=8)
    np.testing.assert_allclose(
        carried_out(made.ticks, values)[0], averaged(schedule, values[:, None])[:, 0], atol=1e-12
    )
    assert [mark.rounds for mark in made.marks] == [0, 3, 6]
    assert made.marks[-1].exchanges == 6


def test_in_step_a_slow_node_holds_up_its_partners_but_nobody_else() -> None:
    pair = np.array([[[1], [0], [2]]], np.int32)
    schedule = Schedule(pair, np.full((1, 3, 1), 0.5, np.float32), np.array([[[True], [True], [False]]]))
    seconds = (
        in_step(
            schedule,
            np.ones((1, 3), bool),
            Links(np.array([1.0, 3.0, 1.0]), 0.0, 1e3, 0.0, 1.0, 0.0, 0),
            10,
            2000,
            every=1,
        )
        .marks[-1]
        .seconds
    )
    assert seconds == pytest.approx((32 + 32 + 10) / 3)  # the pair: the slower one's steps, then 2 seconds


def test_a_server_waits_for_the_slowest_of_those_who_are_there() -> None:
    own = np.arange(3, dtype=np.int32)[None, :, None]
    there = np.array([[[True], [True], [False]]])
    schedule, speeds = Schedule(own, np.ones((1, 3, 1), np.float32), there), np.array([1.0, 3.0, 1.0])
    slow = Links(speeds, 0.0, 1e3, 0.0, 1.0, 0.0, 0)
    made = in_step(schedule, np.ones((1, 3), bool), slow, 10, 2000, every=1, server=True)
    assert made.marks[-1].seconds == pytest.approx((32 + 32 + 10) / 3)


def test_a_link_has_one_speed_both_ways_and_as_many_are_slow_as_should_be() -> None:
    one, other = np.triu_indices(200, 1)
    network = links(200)
    rates = network.rate(one, other)
    np.testing.assert_array_equal(rates, network.rate(other, one))
    assert np.mean(rates < 1e6) == pytest.approx(0.2, abs=0.02)
    assert set(np.unique(rates)) == {1e6 / 20, 1e6}
