"""`scripts/results`: a page that says what the results files say, and nothing else."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
TINY = """\
name = "tiny"
about = "Does it work?"
task = "breast-cancer"
nodes = 4
local_steps = 20
looks = 2
seeds = [0, 1]
target = 0.5
clock = {drop = 0.1}

[[runs]]
rule = "average"
topology = ["matching", "server"]
steps = 5
"""
FETCHED = 'name = "fetched"\ntask = "wearables"\nnodes = 4\nlocal_steps = 20\n[[runs]]\n'


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, text in {"tiny": TINY, "fetched": FETCHED}.items():
        (tmp_path / "scenarios").mkdir(exist_ok=True)
        (tmp_path / "scenarios" / f"{name}.toml").write_text(text)
    return importlib.import_module("results")


def run(script: Any, *words: str, code: int = 0) -> tuple[str, str]:
    """What it said on stderr, and the page."""
    folders = ["--scenarios", "scenarios", "--results", "kept", "--page", "docs/PAGE.md"]
    result = CliRunner().invoke(script.main, [*folders, *words])
    assert result.exit_code == code, result.output
    page = Path("docs/PAGE.md")
    return result.stderr, page.read_text() if page.exists() else ""


def test_the_page_has_each_scenario_and_the_same_results_give_the_same_page(script: Any) -> None:
    _, page = run(script)
    assert "## tiny\n\nDoes it work?\n\n4 nodes learn `breast-cancer`" in page
    assert "The clock (drop = 0.1)." in page
    assert "| average server H=5 | " in page and "| (baseline) |" in page
    assert "Until the nodes' mean accuracy was 0.5:" in page
    assert "- Best settled accuracy: average" in page
    assert "scripts/p2pnode simulate scenarios/tiny.toml\n" in page
    assert (
        "## fetched\n\nLeft out: the data set wearables is not on this machine: run `scripts/fetch_data wea"
        in page
    )
    picture = Path("docs/results/tiny.svg")
    assert "](results/tiny.svg)" in page
    content = picture.read_bytes()
    assert len(content) < 60_000
    picture.unlink()
    errors, again = run(script)
    assert "4 trials: 0 carried out, 4 known before" in errors
    assert (again, picture.read_bytes()) == (page, content)


def test_what_was_not_carried_out_is_left_out_and_said(script: Any) -> None:
    errors, page = run(script, "--only", "fetched")
    assert "tiny: left out: it has not been carried out: run `scripts/results --only tiny`" in errors
    assert "## tiny\n\nLeft out: it has not been carried out" in page
    assert not Path("kept/tiny.jsonl").exists()


def test_a_scenario_that_is_not_there_is_one_line(script: Any) -> None:
    errors, page = run(script, "--only", "tyni", code=2)
    assert errors == "results: no scenario tyni in scenarios: there are fetched, tiny\n"
    assert not page


def test_the_committed_page_has_its_pictures_and_they_are_small() -> None:
    page, pictures = ROOT / "docs" / "RESULTS.md", ROOT / "docs" / "results"
    named = {
        line.split("(")[1].rstrip(")") for line in page.read_text().splitlines() if line.startswith("![")
    }
    assert named == {f"results/{path.name}" for path in pictures.glob("*.svg")}
    assert all(path.stat().st_size < 60_000 for path in pictures.glob("*.svg"))
    assert {path.stem for path in (ROOT / "scripts" / "scenarios").glob("*.toml")} == {
        line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")
    }
