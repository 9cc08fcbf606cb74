"""Whole swarms through what goes wrong in the world: what must hold always does, and each ends well."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2pnode.rehearsal.report import lines
from p2pnode.rehearsal.run import Outcome, rehearse
from p2pnode.rehearsal.scenario import load

LARGE = Path(__file__).parent / "large"
PATHS = sorted((Path(__file__).parent / "scenarios").glob("*.toml"))
SLOW = ("churn", "join", "thin")


def marks(path: Path) -> list[pytest.MarkDecorator]:
    fault = pytest.mark.fault(f"whole swarm, virtual: {path.stem}")
    return [fault, pytest.mark.slow] if path.stem.startswith(SLOW) else [fault]


SCENARIOS = [pytest.param(path, id=path.stem, marks=marks(path)) for path in PATHS]
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", SCENARIOS)
def test_a_swarm_comes_through(path: Path, seed: int) -> None:
    outcome = rehearse(load(path), seed)
    assert not outcome.wrong, "\n".join(lines([outcome]))


def of(name: str, seed: int) -> Outcome:
    return rehearse(load(Path(__file__).parent / "scenarios" / f"{name}.toml"), seed)


@pytest.mark.fault("60 % churn an hour among 200 nodes, virtual")
@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_nodes_learn_nearly_as_fast_with_churn(seed: int) -> None:
    scenario = load(LARGE / "churn.toml")
    churned, calm = rehearse(scenario, seed), rehearse(replace(scenario, events=()), seed)
    assert not churned.wrong + calm.wrong, "\n".join(lines([churned, calm]))
    assert churned.learned is not None and calm.learned is not None
    assert churned.learned <= 1.3 * calm.learned


@pytest.mark.fault("24 hours of 20 nodes with churn, virtual")
@pytest.mark.parametrize(
    ("hours", "seed"),
    [
        pytest.param(3, 0, marks=pytest.mark.slow),
        *(pytest.param(24, seed, marks=pytest.mark.long) for seed in range(5)),
    ],
)
def test_nodes_grow_in_nothing_in_a_day(hours: int, seed: int) -> None:
    scenario = load(LARGE / "day.toml")
    share = hours / scenario.hours
    steady = replace(scenario.expect, steady=share * scenario.expect.steady)
    outcome = rehearse(replace(scenario, hours=hours, expect=steady), seed)
    assert not outcome.wrong, "\n".join(lines([outcome]))
    assert outcome.took


def test_of_two_nodes_with_one_key_the_later_one_stays() -> None:
    outcome = of("one-key", seed=5)
    assert "another node has been started with this node's key" in outcome.ends["1"]
    assert {outcome.ends[name] for name in ("0", "1'", "2", "3")} == {"finished"}


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert of("one-key", 1).digest == of("one-key", 1).digest != of("one-key", 2).digest


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    code = f"from tests.faults.{Path(__file__).stem} import of; print(of('clock', 7).digest)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    one, other = (process.communicate()[0] for process in processes)
    assert one == other
    assert len(one.strip()) == 64
