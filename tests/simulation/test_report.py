"""Tables that fit the terminal, and remarks that say what the figures say."""

import math
from dataclasses import replace

import pytest

from p2pnode.simulation.remarks import against, baseline, remarks
from p2pnode.simulation.report import lines
from p2pnode.simulation.results import Summary
from p2pnode.simulation.scenario import Run, Scenario

RUNS = (
    Run("average", topology="server"),
    Run("momentum", {"beta": 0.25, "average": 0.25}, codec="int4", topology="nodes", overlap=10),
    Run("average", topology="nobody"),
)
SCENARIO = Scenario(
    "made-up", "digits", 4, 100, seeds=(0, 1), learning_rates=(0.1, 0.2, 0.4), target=0.75, runs=RUNS
)
FEDAVG = Summary("", 0.2, "accuracy", (0.8, 0.81), 0.8, 0.7, 0.6, 1e-9, 10, 2e6, 1.0, (5.0, 1e6, 0.5))


def found(**changes: object) -> list[Summary]:
    """Of `RUNS`; the second is as told."""
    own = replace(FEDAVG, settled=(0.79, 0.78), bytes=1e5, clients=0.65, reached=None, **changes)  # type: ignore[arg-type]
    alone = replace(FEDAVG, settled=(0.1, 0.1), bytes=0.0, nodes=0.5, worst=0.2)
    return [replace(one, label=run.label) for one, run in zip((FEDAVG, own, alone), RUNS, strict=True)]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table_fits_the_terminal_and_its_numbers_stand_right(width: int) -> None:
    drawn = list(lines(SCENARIO, found(), width))
    assert max(map(len, drawn)) <= width
    assert all(any(line.startswith(run.label) for line in drawn) for run in RUNS)
    rows = [line for line in drawn[: drawn.index("")] if line.endswith("  0.2")]
    assert len(rows) == len(RUNS) and len(set(map(len, rows))) == 1
    assert ("0.8050 ± 0.0071" in drawn[4]) is (width < 200)  # below its label, instead of beside it


def test_options_at_their_defaults_are_not_in_a_label() -> None:
    assert RUNS[1].label == "momentum beta=0.25 average=0.25 int4 nodes H=10 overlap=10"
    assert Run("noloco", {"alpha": 0.5, "beta": 0.25}).label == "noloco beta=0.25 H=10"
    assert Run("epidemic", topology="push", topology_options={"s": 1}).label == "epidemic push H=10"


def test_those_who_meet_nobody_have_nothing_settled() -> None:
    alone = list(lines(SCENARIO, found(), 200))[5]
    assert alone.split()[3:6] == ["-", "0.5000", "0.2000"]


def test_the_baseline_is_averaging_by_a_server_or_else_the_first_run() -> None:
    assert baseline(replace(SCENARIO, runs=RUNS[::-1])) == 2
    assert baseline(replace(SCENARIO, runs=(RUNS[1], Run("average", topology="weighted-server")))) == 1
    assert baseline(replace(SCENARIO, runs=RUNS[1:])) == 0


def test_a_loss_is_said_with_its_size_and_seeds_are_paired() -> None:
    one = found()
    assert against(one[1], one[0]) == "-0.0200 ± 0.0141"
    said = "\n".join(remarks(SCENARIO, one))
    assert f"Best settled accuracy: {RUNS[0].label}, 0.8050." in said
    assert f"Loses against {RUNS[0].label} with every seed: {RUNS[1].label}, by 0.0200." in said
    assert f"The worst client is best off with {RUNS[1].label}: 0.6500." in said
    assert f"did not come to 0.75, or not with every seed: {RUNS[1].label}." in said
    assert RUNS[2].label not in said


def test_seeds_that_disagree_and_a_single_one_decide_nothing() -> None:
    server, own, alone = found()
    said = "\n".join(remarks(SCENARIO, [server, replace(own, settled=(0.79, 0.82)), alone]))
    assert f"do not agree whether better or worse than {server.label}: {own.label}." in said
    assert f"within 0.005 of {server.label} or better: {own.label}, 0.1 MB, 1/20 of its bytes." in said
    single = [replace(one, settled=one.settled[:1]) for one in (server, own, alone)]
    said = "\n".join(remarks(replace(SCENARIO, seeds=(0,)), single))
    assert "One seed only" in said and "Loses" not in said and "Gains" not in said


def test_less_is_better_for_a_loss() -> None:
    server, own, alone = (replace(one, metric="loss") for one in found())
    scenario = replace(SCENARIO, metric="loss", target=0.0)
    said = "\n".join(remarks(scenario, [server, own, alone]))
    assert f"Gains on {server.label} with every seed: {own.label}, by 0.0200." in said
    assert against(own, server).startswith("+0.0200")


def test_what_diverged_and_rates_at_the_edge_are_said() -> None:
    server, own, alone = found()
    said = "\n".join(remarks(SCENARIO, [server, replace(own, settled=(math.nan, 0.8), rate=0.4), alone]))
    assert f"{own.label} diverged" in said
    assert f"Best with the highest learning rate tried, 0.4: {own.label}." in said
    assert "lowest" not in said
