"""Scenario files: what a person may write, and the line about what nobody can mean."""

from pathlib import Path

import pytest

from p2pnode.errors import UserError
from p2pnode.simulation.scenario import Clock, Scenario, Split, load

LEAST = 'name = "a"\ntask = "digits"\nnodes = 4\nlocal_steps = 20\n'
RUN = "[[runs]]\n"


def read(tmp_path: Path, text: str) -> Scenario:
    file = tmp_path / "s.toml"
    file.write_text(text)
    return load(file)


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    scenario = read(tmp_path, LEAST + RUN)
    assert (scenario.split, scenario.clock, scenario.seeds) == (Split(), Clock(), (0,))
    assert [run.label for run in scenario.runs] == ["momentum H=10"]


def test_lists_make_a_run_for_each_combination(tmp_path: Path) -> None:
    runs = RUN + 'rule = ["average", "momentum"]\nsteps = [5, 10]\nrule_options = {beta = [0.25, 0.5]}\n'
    labels = [run.label for run in read(tmp_path, LEAST + runs).runs]
    assert len(set(labels)) == 8
    assert "momentum beta=0.5 H=5" in labels


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (LEAST, "runs: missing"),
        (RUN, "name: missing key"),
        (LEAST + "speed = 1\n" + RUN, "'speed': unknown key"),
        (LEAST + RUN + "steps = 0\n", "runs\\[0\\].steps: expected an integer from 1"),
        (LEAST + RUN + "stpes = 5\n", "runs\\[0\\].'stpes': unknown key"),
        (LEAST + "seeds = []\n" + RUN, "seeds: expected a list"),
        (LEAST + "[clock]\ndrop = 2\n" + RUN, "clock.drop: expected a number from 0 to 1"),
        (LEAST + '[split]\nkind = "odd"\n' + RUN, 'split.kind: expected "even" or'),
        (LEAST + "runs = 3\n", "runs: missing"),
        ("name = ", "not TOML"),
        ("name = '\xff", "not TOML"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value).replace(str(tmp_path), "")


def test_a_scenario_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml"):
        load(tmp_path / "none.toml")
