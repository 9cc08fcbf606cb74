"""Every example in the docs runs: the notebooks here, programs where their page is tested."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))

PATIENCE = 60
"""Seconds for one cell: many times what it takes on two cores that are busy."""

Outputs = dict[str, list[Any]]


def test_every_program_on_a_page_has_a_test() -> None:
    programs = {page.name: page.read_text().count("```python\n") for page in PAGES}
    assert {name: count for name, count in programs.items() if count} == {
        "CLUSTERS.md": 2,  # tests/test_cluster.py
        "TASKS.md": 2,  # tests/test_task_docs.py
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_came_of_it(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert cell["metadata"] == {}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernel that is this interpreter. All that it knows, and writes, is in `tmp_path`."""
    spec = tmp_path / "jupyter" / "kernels" / "here" / "kernel.json"
    spec.parent.mkdir(parents=True)
    program = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": program, "display_name": "here", "language": "python"}))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)  # so that the names of its sockets are short
    return "here"


def run(path: Path, kernel: str) -> Outputs:
    """What came of each cell, by its id."""
    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(book, timeout=PATIENCE, kernel_name=kernel)
    client.create_kernel_manager().transport = "ipc"  # no port, for nobody else to connect to
    client.execute()
    return {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}


def result(outputs: list[Any]) -> Any:
    """The value of a cell's last line."""
    [text] = [one.data["text/plain"] for one in outputs if one.output_type == "execute_result"]
    return ast.literal_eval(text)


def text(outputs: list[Any], stream: str) -> str:
    return "".join(one.text for one in outputs if one.output_type == "stream" and one.name == stream)


@pytest.mark.slow
def test_the_notebook_of_a_cluster_shows_what_it_says(kernel: str, tmp_path: Path) -> None:
    outputs = run(ROOT / "docs" / "examples" / "cluster.ipynb", kernel)
    names = [f"node {number}" for number in range(1, 5)]
    assert list(result(outputs["cluster"])) == names
    assert result(outputs["restart"]) == names
    assert result(outputs["codes"]) == dict.fromkeys(names, 0)
    [resumed] = [one.data["text/plain"] for one in outputs["resume"] if "data" in one]
    assert re.fullmatch(r"\[Paused\(round=\d+\), Resumed\(round=\d+\)\]", resumed)
    progress = text(outputs["codes"], "stderr")
    assert progress.startswith("\r") and "\n" not in progress  # one line, written over
    assert "round 500/500" in progress.rpartition("\r")[2]
    heading, *rows, last = text(outputs["table"], "stdout").splitlines()
    assert heading.split() == ["round", *" ".join(names).split()]
    assert len(rows) == 5
    number, *accuracies = map(float, last.split())
    assert number == 500
    assert len(accuracies) == 4 and min(accuracies) > 0.9
    assert not list((tmp_path / "jupyter").glob("p2pnode-*"))
