"""`p2pnode chaos`: a swarm that is done harm to, and what is said of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.run import Program

Start = Callable[..., Program]

pytestmark = pytest.mark.slow


def test_a_swarm_whose_nodes_are_killed_and_frozen_keeps_working(start: Start, tmp_path: Path) -> None:
    words = ("--nodes", 3, "--seconds", 12, "--every", 3, "--fault", "kill", "--fault", "freeze", "--seed", 1)
    chaos = start("chaos", *words, "--json")
    assert chaos.code() == 0, chaos.errors
    report = json.loads(chaos.output.splitlines()[-1])
    assert report["broken"] == [] and report["left_out"] == {}
    assert {row["kind"] for row in report["rows"]} == {"kill", "freeze"}
    for what in ("rounds", "exchanges"):  # the others went on
        assert sum(row[what] for row in report["rows"]) > 0
    assert report["rows"][-1]["back"] <= report["rows"][-1]["within"]
    assert len(report["before"]["usage"]) == len(report["after"]["usage"]) == 3
    assert report["after"]["accuracy"] > 0.8
    assert "kill of node" in chaos.errors and "Traceback" not in chaos.errors
