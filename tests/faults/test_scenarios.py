"""Whole swarms through what goes wrong in the world: what must hold always does, and each ends well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.rehearsal.report import lines
from p2pnode.rehearsal.run import Outcome, rehearse
from p2pnode.rehearsal.scenario import load

PATHS = sorted((Path(__file__).parent / "scenarios").glob("*.toml"))
LONG = ("churn", "join", "thin")


def marks(path: Path) -> list[pytest.MarkDecorator]:
    fault = pytest.mark.fault(f"whole swarm, virtual: {path.stem}")
    return [fault, pytest.mark.slow] if path.stem.startswith(LONG) else [fault]


SCENARIOS = [pytest.param(path, id=path.stem, marks=marks(path)) for path in PATHS]
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", SCENARIOS)
def test_a_swarm_comes_through(path: Path, seed: int) -> None:
    outcome = rehearse(load(path), seed)
    assert not outcome.wrong, "\n".join(lines([outcome]))


def of(name: str, seed: int) -> Outcome:
    return rehearse(load(Path(__file__).parent / "scenarios" / f"{name}.toml"), seed)


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
