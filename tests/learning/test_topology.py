"""Schedules that everybody can work out alone."""

import math

import numpy as np
import pytest

from p2pnode.learning.topology import base_graph, matching


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_base_graph_makes_any_number_of_nodes_exactly_equal(k: int) -> None:
    for n in range(1, 65):
        x = np.random.default_rng(n).normal(size=n)
        mean = x.mean()
        for edges in base_graph(n, k):
            moves = np.zeros(n)
            for i, j, weight in edges:
                moves[i] += weight * (x[j] - x[i])
                moves[j] += weight * (x[i] - x[j])
            x = x + moves
        np.testing.assert_allclose(x, mean, rtol=0, atol=1e-15)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_node_has_more_partners_in_a_round_than_it_may(k: int) -> None:
    for n in range(1, 65):
        for edges in base_graph(n, k):
            ends = [node for i, j, _ in edges for node in (i, j)]
            assert all(ends.count(node) <= k for node in ends)
            assert all(0 <= i < n and 0 <= j < n and i != j for i, j, _ in edges)


def test_one_partner_a_round_needs_at_most_twice_the_logarithm() -> None:
    for n in range(1, 200):
        assert len(base_graph(n)) <= 2 * math.floor(math.log2(n)) + 1
    assert [len(base_graph(n)) for n in (1, 2, 4, 5, 6, 25, 50, 64, 100)] == [0, 1, 2, 5, 5, 9, 11, 6, 13]


def test_partners_are_mutual_and_at_most_one_is_left_over() -> None:
    for n in range(10):
        members = [f"peer{i}" for i in range(n)]
        pairs = matching(members, 3, b"seed")
        assert all(pairs[partner] == member != partner for member, partner in pairs.items())
        assert len(pairs) == n - n % 2


def test_the_order_in_which_members_are_named_does_not_matter() -> None:
    members = [f"peer{i}" for i in range(9)]
    assert matching(members, 1, 7) == matching(members[::-1], 1, 7)


def test_rounds_and_seeds_pair_differently() -> None:
    members = [f"peer{i}" for i in range(8)]
    draws = [matching(members, round, seed) for round in range(10) for seed in (1, 2)]
    assert len({tuple(sorted(draw.items())) for draw in draws}) > 15


def test_pairs_are_the_same_in_every_process() -> None:
    assert matching(["a", "b", "c", "d"], 0, b"swarm") == {"a": "b", "b": "a", "c": "d", "d": "c"}


def test_everybody_meets_everybody_about_equally_often() -> None:
    members = list("abcdef")
    partners = [matching(members, round, 0)["a"] for round in range(1000)]
    assert all(150 < partners.count(member) < 250 for member in members[1:])
