"""`p2pnode simulate`: what it prints and keeps, what it finds worse than before, and what it refuses."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from p2pnode.cli.simulate import simulate
from p2pnode.errors import UserError
from tests.cli.run import Program, launcher, wait_until

SCENARIO = """\
name = "tiny"
task = "breast-cancer"
nodes = 4
local_steps = 20
learning_rates = [0.1, 0.3]
seeds = [0, 1]
looks = 2
target = 0.5

[[runs]]
rule = "average"
topology = ["matching", "server"]
steps = 5
"""
TRIALS = 6
LONG = SCENARIO.replace("local_steps = 20", "local_steps = 200").replace("looks = 2", "looks = 10")

Simulate = Callable[..., int]


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scenario, its results and what --json printed."""
    folder = tmp_path_factory.mktemp("carried-out")
    (folder / "s.toml").write_text(SCENARIO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
        patch.setattr("sys.stdout", (folder / "out").open("w"))
        simulate.main(
            [str(folder / "s.toml"), "--results", str(folder / "r.jsonl"), "--json"], standalone_mode=False
        )
        sys.stdout.close()
    return folder


@pytest.fixture
def again(carried_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs the command where everything has been carried out; returns its exit code."""
    shutil.copytree(carried_out, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")

    def run(*words: object, scenario: str = "s.toml", results: str = "r.jsonl") -> int:
        try:
            simulate.main([scenario, "--results", results, *map(str, words)], standalone_mode=False)
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return run


def printed(folder: Path = Path()) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out").read_text().splitlines()[-1])
    return found


def test_the_last_line_is_one_object_with_what_is_documented(carried_out: Path) -> None:
    found = printed(carried_out)
    assert found.keys() == {"scenario", "runs", "worse"}
    assert [run["label"] for run in found["runs"]] == ["average H=5", "average server H=5"]
    documented = (Path(__file__).parents[2] / "docs" / "SIMULATION.md").read_text()
    for run in found["runs"]:
        assert all(f"| `{name}` |" in documented for name in run)
        assert len(run["settled"]) == 2 and 0.5 < run["mean"] <= 1
        assert run["reached"] is not None


def test_what_was_carried_out_is_not_carried_out_again(
    again: Simulate, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("r.jsonl").read_bytes()
    assert before.count(b"\n") == TRIALS
    assert again("--json") == 0
    output, errors = capsys.readouterr()
    assert errors == f"{TRIALS} trials: 0 carried out, {TRIALS} known before\n"
    assert Path("r.jsonl").read_bytes() == before
    assert output == Path("out").read_text()


def test_a_run_that_is_added_is_all_that_is_carried_out(
    again: Simulate, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("s.toml").write_text(SCENARIO.replace('"server"]', '"server", "nobody"]'))
    assert again() == 0
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "average nobody H=5, rate 0.1, seed 0"
    assert errors[-1] == f"{TRIALS + 3} trials: 3 carried out, {TRIALS} known before"


def test_it_is_no_worse_than_itself(again: Simulate) -> None:
    assert again("--compare", "out", "--json") == 0


def test_what_is_worse_than_before_is_a_line_each_and_exit_code_1(
    again: Simulate, capsys: pytest.CaptureFixture[str]
) -> None:
    before = printed()
    better, cheaper = before["runs"]
    better["settled"] = [0.05 + value for value in better["settled"]]
    cheaper["bytes"] /= 2
    Path("before.json").write_text(json.dumps({**before, "runs": [better, cheaper]}))
    assert again("--compare", "before.json", "--json") == 1
    output, errors = capsys.readouterr()
    worse = [line for line in errors.splitlines() if line.startswith("worse than before: ")]
    assert [line.split(": ")[1] for line in worse] == ["average H=5", "average server H=5"]
    assert len(json.loads(output.splitlines()[-1])["worse"]) == 2
    assert again("--compare", "before.json", "--slack", 0.1) == 1  # the bytes
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_a_picture_is_drawn_and_the_same_results_draw_the_same(again: Simulate, kind: str) -> None:
    assert again("--plot", f"one.{kind}") == again("--plot", f"two.{kind}") == 0
    content = Path(f"one.{kind}").read_bytes()
    assert content == Path(f"two.{kind}").read_bytes()
    assert kind.upper().encode() in content[:200].upper()
    assert len(content) < 200_000


def test_without_matplotlib_one_line_says_so_before_anything_runs(
    again: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'p2pnode\[plots\]'"):
        again("--plot", "p.svg", results="none.jsonl")
    assert not Path("none.jsonl").exists()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"breast-cancer"', '"breast-cancr"', "unknown task 'breast-cancr': did you mean 'breast-cancer'"),
        ('"breast-cancer"', '"tabular"', "task tabular has no data of its own"),
        ('"average"', '"averag"', "unknown rule 'averag': did you mean 'average'"),
        ('"matching"', '"matchin"', "unknown topology 'matchin': did you mean 'matching'"),
        ('"server"]', '"serve"]', "unknown topology 'serve': did you mean 'server'"),
        ('rule = "average"', 'codec = "int5"', "unknown codec 'int5': did you mean 'int[248]'"),
        ("looks = 2", 'looks = 2\noptimizer = "sdg"', "unknown optimizer 'sdg': did you mean 'sgd'"),
        ('rule = "average"', "rule_options = {bta = 0.5}", "unknown option of rule momentum 'bta'.*'beta'"),
        ('rule = "average"', "rule_options = {beta = 5}", "option beta of rule momentum must be a number"),
        ('rule = "average"', 'rule_options = {beta = "x"}', "option beta of rule momentum must be a number"),
        ("looks = 2", "looks = 2\ntask_options = {hiden = 3}", "unknown option of task .*'hiden'.*'hidden'"),
        ('["matching", "server"]', '"ring"\ntopology_options = {k = 3}', "unknown option of topology ring"),
        ('["matching", "server"]', '"server"\ntopology_options = {k = 3}', "topology server has no options"),
        ("nodes = 4", "nodes = 1", "topology matching needs at least 2 nodes"),
        ("nodes = 4", "nodes = 1000", "rows"),
        ("looks = 2", 'looks = 2\nsplit = {kind = "clients"}', "task breast-cancer has no data by client"),
        ("looks = 2", 'looks = 2\nmetric = "auk"', "the task has no metric 'auk'"),
        ('"matching", "server"', '"server", "server"', "the same run twice: average server H=5"),
        (
            'name = "tiny"\ntask = "breast-cancer"',
            'name = "tiny"\ntask = "wearables"',
            "fetch_data wearables",
        ),
    ],
)
def test_a_mistake_in_the_scenario_is_one_line(
    again: Simulate, monkeypatch: pytest.MonkeyPatch, old: str, new: str, complaint: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd()))
    assert old in SCENARIO
    Path("s.toml").write_text(SCENARIO.replace(old, new))
    with pytest.raises(UserError, match=complaint) as caught:
        again(results="none.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--plot", "p.gif"), r"cannot draw p\.gif: its name must end in \.svg"),
        (("--plot", "no/p.svg"), "there is no folder no"),
        (("--results", "no/r.jsonl"), r"cannot write no/r\.jsonl: there is no folder no"),
        (("--results", "."), r"cannot read \."),
        (("--results", "s.toml"), r"s\.toml holds no results of simulations"),
        (("--compare", "none.json"), r"cannot read none\.json"),
        (("--compare", "s.toml"), r"s\.toml holds no results: write it with"),
        (("--compare", "r.jsonl"), r"r\.jsonl holds no results: write it with"),
        (("--slack", "-1"), "--slack -1"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(again: Simulate, words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises((UserError, click.UsageError), match=complaint) as caught:
        again(*words)
    assert "\n" not in str(caught.value)


# --- processes ---


@pytest.fixture
def start(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    (tmp_path / "s.toml").write_text(LONG)
    with launcher(tmp_path, tmp_path_factory.getbasetemp() / "cache") as start:
        yield start


@pytest.mark.slow
def test_a_mistake_ends_with_exit_code_2_and_one_line(start: Callable[..., Program], tmp_path: Path) -> None:
    program = start("simulate", "none.toml")
    assert program.code() == 2
    assert program.output == ""
    assert program.errors.startswith("p2pnode: ") and program.errors.count("\n") == 1


@pytest.mark.slow
def test_interrupted_it_leaves_whole_lines_and_goes_on_there(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    results = tmp_path / "r.jsonl"
    words = ("simulate", tmp_path / "s.toml", "--results", results, "--json")
    program = start(*words)
    wait_until(lambda: results.exists() or program.popen.poll() is not None, program)
    program.send(signal.SIGINT)
    assert program.code() == 128 + signal.SIGINT
    lines = results.read_text().splitlines()
    known = len([json.loads(line) for line in lines])
    assert 1 <= known < TRIALS
    assert "Traceback" not in program.errors
    assert not list(tmp_path.glob(".*.tmp"))
    rest = start(*words)
    assert rest.code() == 0
    assert f"{TRIALS} trials: {TRIALS - known} carried out, {known} known before" in rest.errors
    assert results.read_text().splitlines()[:known] == lines
    assert json.loads(rest.output.splitlines()[-1])["worse"] == []


@pytest.mark.slow
def test_the_small_scenario_is_no_worse_than_before(start: Callable[..., Program]) -> None:
    scenarios = Path(__file__).parents[2] / "scripts" / "scenarios"
    baseline = scenarios / "small.json"
    program = start("simulate", scenarios / "small.toml", "--compare", baseline, "--slack", 0.02)
    assert program.code() == 0, program.errors
