"""Schedules without training: what they are, and how fast the nodes agree."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from p2pnode.errors import UserError
from p2pnode.learning.schedule import (
    Schedule,
    averaged,
    contraction,
    mixing,
    repeated,
    spectral_gap,
    survived,
)
from p2pnode.learning.topology import matching
from p2pnode.learning.topology.halving import blocks, halving
from p2pnode.learning.topology.pairs import random_pairs, shared_pairs
from p2pnode.learning.topology.settling import LARGE, by_halving, costs
from p2pnode.learning.topology.table import TOPOLOGIES, scheduled

N = 16  # a power of two and of four: every topology is there for it
OPTIONS: dict[str, Mapping[str, int]] = {
    "hyper-hypercube": {"k": 3},
    "base": {"k": 2},
    "random-regular": {"degree": 5},
    "push": {"s": 3},
    "pull": {"s": 3},
}
DRIFTING = {"push", "pull"}
DIRECTED = DRIFTING | {"exponential-directed"}


def made(name: str, n: int = N, rounds: int = 7, seed: int = 1, **options: int) -> Schedule:
    return scheduled(name, n, rounds, seed, options or OPTIONS.get(name, {}))


def drawn(*shape: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def one_round(schedule: Schedule, round: int) -> Schedule:
    turn = slice(round, round + 1)
    return Schedule(schedule.partners[turn], schedule.weights[turn], schedule.present[turn])


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_schedule_is_what_it_says_it_is(name: str) -> None:
    schedule = made(name)
    assert schedule.undirected == (name not in DIRECTED)
    assert schedule.doubly_stochastic == (name not in DRIFTING)
    assert_true_to_its_word(schedule)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_with_dead_nodes_a_schedule_is_still_what_it_says_it_is(name: str) -> None:
    alive = np.random.default_rng(5).random((7, N)) < 0.7
    schedule = survived(made(name), alive)
    assert schedule.undirected == (name not in DIRECTED)
    assert schedule.doubly_stochastic == schedule.undirected  # a directed edge that is gone leaves a gap
    assert_true_to_its_word(schedule)
    for round, living in enumerate(alive):
        matrix = mixing(schedule, round)
        assert np.array_equal(matrix[~living], np.eye(N)[~living])  # the dead stay where they are
        assert not matrix[np.ix_(living, ~living)].any()  # and nobody sees them


def assert_true_to_its_word(schedule: Schedule) -> None:
    rounds, n, k = schedule.partners.shape
    assert (rounds, n) == (7, N)
    assert schedule.partners.dtype == np.int32
    assert schedule.weights.dtype == np.float32
    assert schedule.weights.shape == schedule.present.shape == (rounds, n, k)
    own = schedule.partners == np.arange(n)[:, None]
    assert not own[schedule.present].any()
    assert not schedule.weights[~schedule.present].any()
    matrices = [mixing(schedule, round) for round in range(rounds)]
    columns = np.array([matrix.sum(axis=0) for matrix in matrices])
    for matrix in matrices:
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        assert matrix.min() > -1e-7  # a third in float32, three times
        assert not schedule.undirected or np.allclose(matrix, matrix.T, atol=1e-15)
    assert np.allclose(columns, 1, atol=1e-7) == schedule.doubly_stochastic
    values = drawn(n)
    drift = abs(averaged(schedule, values).mean() - values.mean())
    assert (drift < 1e-7) == schedule.doubly_stochastic


def test_whom_nobody_survives_moves_nobody() -> None:
    for name in TOPOLOGIES:
        values = drawn(N, 2)
        assert np.array_equal(averaged(survived(made(name), np.zeros((7, N), np.bool_)), values), values)


@pytest.mark.parametrize("n", [5, 16, 33])
def test_a_ring_contracts_by_its_second_eigenvalue(n: int) -> None:
    assert_contracts(made("ring", n), (1 + 2 * math.cos(2 * math.pi / n)) / 3)


@pytest.mark.parametrize(("n", "columns"), [(12, 4), (25, 5), (64, 8)])
def test_a_torus_contracts_by_its_second_eigenvalue(n: int, columns: int) -> None:
    assert_contracts(made("torus", n), (3 + 2 * math.cos(2 * math.pi / columns)) / 5)


@pytest.mark.parametrize("degree", [2, 3, 4, 8, 20, 30])
def test_a_random_regular_graph_has_its_degree_and_contracts_by_its_second_eigenvalue(degree: int) -> None:
    schedule = made("random-regular", 32, degree=degree)
    assert (schedule.present.sum(axis=2) == degree).all()
    moduli = np.sort(np.abs(np.linalg.eigvalsh(mixing(schedule, 0))))
    assert moduli[-2] < 1 - 1e-3  # connected
    assert_contracts(schedule, moduli[-2])


def assert_contracts(schedule: Schedule, eigenvalue: float) -> None:
    """By theory, at worst from the first round on, and in the long run from random values too."""
    assert spectral_gap(mixing(schedule, 0)) == pytest.approx(1 - eigenvalue, abs=1e-6)
    values = drawn(schedule.partners.shape[1])
    once = repeated(one_round(schedule, 0), 1)
    for _ in range(3000):
        values = averaged(once, (values - values.mean()) / values.std())
    # Over two rounds: an eigenvalue and its negative may both be the largest.
    twice = averaged(once, averaged(once, values))
    assert twice.std() / values.std() == pytest.approx(eigenvalue**2, rel=1e-4)


def test_one_round_over_all_makes_everybody_equal() -> None:
    assert contraction(made("complete", 10, rounds=1)) < 1e-12
    assert spectral_gap(mixing(made("complete", 10), 0)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["exponential", "exponential-directed"])
def test_one_peer_exponential_is_exact_after_the_logarithm(name: str) -> None:
    for power in range(1, 9):
        n = 2**power
        whole = np.random.default_rng(n).integers(0, 2**10, (n, 3)) * float(n)
        ended = averaged(made(name, n, rounds=power), whole.astype(np.float32))
        assert np.array_equal(ended, np.broadcast_to(whole.mean(axis=0), (n, 3)))
        assert contraction(made(name, n, rounds=power)) == 0
        assert power == 1 or contraction(made(name, n, rounds=power - 1)) > 0


def test_directed_exponential_is_not_exact_for_other_numbers() -> None:
    for n in (3, 6, 12, 50):
        assert contraction(made("exponential-directed", n, rounds=math.ceil(math.log2(n)))) > 1e-5


def test_a_hyper_hypercube_is_exact_after_as_many_rounds_as_factors() -> None:
    for n, k, rounds in [(12, 2, 3), (36, 5, 2), (30, 4, 3), (64, 3, 3), (7, 6, 1)]:
        schedule = made("hyper-hypercube", n, rounds=rounds, k=k)
        assert schedule.partners.shape[2] <= k
        assert contraction(schedule) < 1e-12


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_base_graph_is_exact_in_float32(k: int) -> None:
    for n in range(2, 201):
        one_period = TOPOLOGIES["base"].build.__wrapped__(n, k)  # type: ignore[attr-defined]
        assert one_period.partners.shape[2] <= k
        values = np.random.default_rng(n).random((n, 4)).astype(np.float32)
        ended = averaged(one_period, values)
        assert np.abs(ended - values.astype(np.float64).mean(axis=0)).max() < 1e-6


def test_random_pairs_leave_as_much_variance_as_theory_says() -> None:
    n, rounds = 64, 400
    theory = (n - 2) / (2 * (n - 1))
    schedule = random_pairs(n, rounds, seed=3)
    left = []
    for round in range(rounds):
        values = drawn(n, seed=round)
        left.append(averaged(one_round(schedule, round), values).var() / values.var())
        if round % 50 == 0:  # averaged over values, every draw of the pairs leaves just that
            assert contraction(one_round(schedule, round)) == pytest.approx(theory, abs=1e-12)
    error = np.std(left, ddof=1) / math.sqrt(rounds)
    assert error < 0.005
    assert abs(np.mean(left) - theory) < 4 * error  # independent rounds: missed once in 16,000 draws


@pytest.mark.parametrize("s", [1, 2, 3, 7])
def test_asking_contracts_as_theory_says(s: int) -> None:
    """C W for random W keeps E sum_j w_ij^2 - 1/n-ish of the variance: exact for asking."""
    n, rounds = 64, 300
    asked = made("pull", n, rounds, s=s)
    assert (asked.present.sum(axis=2) == s).all()
    left = [contraction(one_round(asked, round)) for round in range(rounds)]
    # Rows are independent, each with squares that sum to 1/(s+1), and two rows overlap by 1/n on average.
    theory = (n * (1 / (s + 1)) - rows_overlap(n, s)) / (n - 1)
    assert np.mean(left) == pytest.approx(theory, abs=5 * float(np.std(left)) / math.sqrt(rounds))


@pytest.mark.parametrize("s", [1, 2, 3, 7])
def test_pushing_mixes_as_theory_says(s: int) -> None:
    n, rounds = 64, 300
    pushed = made("push", n, rounds, s=s)
    # What arrives is binomial, and the squares of a row of W sum to one over what it is the mean of.
    squares = [np.sum(mixing(pushed, round) ** 2) / n for round in range(rounds)]
    chance = s / (n - 1)
    theory = (1 - (1 - chance) ** n) / (n * chance)
    assert np.mean(squares) == pytest.approx(theory, abs=5 * float(np.std(squares)) / math.sqrt(rounds))
    assert sum(pushed.present.sum(axis=(1, 2))) == rounds * n * s
    assert pushed.partners.shape[2] == pushed.present.sum(axis=2).max()


def rows_overlap(n: int, s: int) -> float:
    """E of n |mean row|^2 for asking: own squares, and pairs of rows that share entries."""
    p = s / (n - 1)  # that a row picks a given other
    inner = (2 * p + (n - 2) * p**2) / (s + 1) ** 2
    return 1 / (s + 1) + (n - 1) * inner


def test_what_is_picked_is_different_others_equally_often() -> None:
    picked = made("pull", 6, 4000, s=3).partners[:, 0]
    assert all(len(set(row)) == 3 for row in picked.tolist())
    counts = np.bincount(picked.ravel(), minlength=6)
    assert counts[0] == 0
    # Each is picked 2400 times on average with a deviation of sqrt(4000 * .6 * .4) = 31.
    assert np.abs(counts[1:] - 2400).max() < 5 * 31


def test_matching_is_what_nodes_work_out() -> None:
    members = [f"peer{i}" for i in range(9)]
    alive = np.random.default_rng(0).random((5, 9)) < 0.8
    for living in (None, alive):
        schedule = shared_pairs(members, 5, b"swarm", living)
        for round in range(5):
            there = [m for i, m in enumerate(members) if living is None or living[round, i]]
            pairs = matching(there, round, b"swarm")
            found = {
                members[i]: members[schedule.partners[round, i, 0]]
                for i in range(9)
                if schedule.present[round, i, 0]
            }
            assert found == pairs


def test_live_pairs_leave_out_the_dead_and_at_most_one_other() -> None:
    alive = np.random.default_rng(1).random((50, 11)) < 0.5
    schedule = random_pairs(11, 50, 2, alive)
    paired = schedule.present[:, :, 0]
    assert not (paired & ~alive).any()
    assert np.array_equal(paired.sum(axis=1), alive.sum(axis=1) // 2 * 2)
    assert np.array_equal(survived(schedule, alive).present, schedule.present)


def test_a_seed_gives_the_same_schedule_again_and_another_one_another() -> None:
    for name in ("pairs", "matching", "random-regular", "push", "pull"):
        one, again, other = (made(name, seed=seed).partners for seed in (1, 1, 2))
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)


def test_a_schedule_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        made("pairs").weights[0, 0, 0] = 1


def test_every_topology_is_there_for_two_nodes() -> None:
    for name in TOPOLOGIES.keys() - {"torus", "random-regular"}:
        options = dict.fromkeys(TOPOLOGIES[name].options, 1)
        schedule = made(name, 2, **options)
        assert contraction(schedule) < 1e-12


def test_every_topology_says_in_a_line_what_it_is() -> None:
    assert all((entry.build.__doc__ or "").splitlines()[0].endswith(".") for entry in TOPOLOGIES.values())


@pytest.mark.parametrize(
    ("name", "n", "options", "said"),
    [
        ("rnig", 8, {}, "unknown topology 'rnig': did you mean 'ring'"),
        ("base", 8, {"kk": 1}, "unknown option of topology base 'kk': did you mean 'k'"),
        ("base", 8, {"k": 0}, "k of topology base must be an integer from 1 to 64, not 0"),
        ("ring", 8, {"k": 1}, "there are none"),
        ("exponential", 6, {}, "power of two"),
        ("hyper-hypercube", 10, {"k": 3}, "prime factor above 4"),
        ("torus", 7, {}, "prime"),
        ("random-regular", 7, {"degree": 3}, "one of the two even"),
        ("random-regular", 4, {"degree": 4}, "below the number"),
        ("complete", 2000, {}, "at most 1024"),
        ("push", 4, {"s": 4}, "from 1 to 3"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name: str, n: int, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        scheduled(name, n, 1, 0, options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("n", range(1, 34))
def test_halving_and_doubling_reach_the_sum_for_what_it_is_said_to_cost(n: int) -> None:
    width = blocks(n)
    values = drawn(n, width)
    held, sent = values.copy(), np.zeros(n)
    plans = [{step.number: step for step in halving(n, me)} for me in range(n)]
    numbers = sorted({number for plan in plans for number in plan})
    for number in numbers:
        before = held.copy()
        for me, step in ((me, plan[number]) for me, plan in enumerate(plans) if number in plan):
            theirs = plans[step.partner][number]
            assert (theirs.partner, theirs.sent, theirs.adds) == (me, step.received, step.adds)
            part = slice(*step.received)
            held[me, part] = before[step.partner, part] + (before[me, part] if step.adds else 0)
            sent[me] += step.sent[1] - step.sent[0]
    np.testing.assert_allclose(held, np.broadcast_to(values.sum(axis=0), (n, width)), atol=1e-12)
    assert all((row == held[0]).all() for row in held)
    if n > 1:
        cost = next(cost for cost in costs(n, width) if cost.way == "halving")
        assert (cost.steps, cost.mean, cost.most) == (len(numbers), sent.mean(), sent.max())


def test_halving_moves_less_than_the_base_graph_from_three_nodes_on() -> None:
    assert [cost.way for cost in costs(2, 1000)] == ["base", "halving"]
    for n in range(3, 130):
        less, base = costs(n, 1000)
        assert (less.way, base.way) == ("halving", "base")
        assert less.mean < 2000 <= base.mean <= base.most <= 1000 * base.steps
        assert less.most <= 0.75 * base.most
        assert less.steps <= 2 * base.steps


def test_nodes_halve_from_three_on_and_large_vectors_only() -> None:
    assert not by_halving(1, 10**9) and not by_halving(2, 10**9)
    assert by_halving(3, LARGE) and not by_halving(3, LARGE - 1)
