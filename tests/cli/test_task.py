"""A task in a file, from the command line: looked at, put into a manifest, agreed to and run."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from p2pnode.cli.main import p2pnode
from p2pnode.cli.own import agreed
from p2pnode.errors import UserError
from p2pnode.events import ExchangeCompleted, Settled
from p2pnode.identity.manifest import load_manifest
from p2pnode.learning import registry
from tests.cli.run import LOOPBACK, ROOT, Program
from tests.learning.tasks_in_files import WHOLE, write

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "digits_cnn.py"

TERMINAL = """
import os, pty, sys
code = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(code if code >= 0 else 128 - code)  # as a shell would report it
"""
"""A program that runs its arguments on a terminal of their own, and types there what it is told."""

WRONG = ("    return entropy(params, batch)\n", "    return 'low'\n")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)  # a command sets its own


def invoke(*words: object) -> Result:
    return CliRunner().invoke(p2pnode, list(map(str, words)))


def mistake(*words: object) -> str:
    """The line that a person would see."""
    result = invoke(*words)
    assert isinstance(result.exception, UserError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def joining(*words: object) -> tuple[object, ...]:
    return (
        "join",
        "s.toml",
        "--shard",
        "1/2",
        "--data-dir",
        "data",
        "--listen",
        LOOPBACK,
        "--no-mdns",
        *words,
    )


# --- task check ---


def test_a_task_is_shown_with_its_parameters(tmp_path: Path) -> None:
    result = invoke("task", "check", write(tmp_path))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "task    lines, mymodel.py:task"
    assert "shared  6 parameters; 3 stay private" in lines
    assert [line.split() for line in lines if "float32[" in line] == [
        ["body", "float32[3,", "2]", "shared"],
        ["head", "float32[2]", "private"],
    ]
    assert "rows    150 to train on, 50 to test with" in lines
    assert lines[-1].startswith("Next: p2pnode swarm create FILE --task ")


def test_what_is_wrong_with_a_task_is_said_with_what_to_do(tmp_path: Path) -> None:
    result = invoke("task", "check", write(tmp_path, *WRONG))
    assert result.exit_code == 1
    assert "error: loss: it returned str, which is no array\n    return arrays" in result.stdout
    assert "Next:" not in result.stdout


def test_a_check_for_scripts_is_one_object(tmp_path: Path) -> None:
    good = json.loads(invoke("task", "check", write(tmp_path), "--json").stdout)
    assert good["ok"] is True
    assert good["file"] == "mymodel.py:task"
    assert good["parameters"] == {"shared": 6, "private": 3}
    assert good["rows"] == {"train": 150, "test": 50}
    assert good["leaves"][0] == {"name": "body", "shape": [3, 2], "dtype": "float32", "shared": True}
    assert good["losses"]["after"] < good["losses"]["before"]
    bad = json.loads(invoke("task", "check", write(tmp_path, *WRONG), "--json").stdout)
    assert bad["ok"] is False
    assert [finding["level"] for finding in bad["findings"]] == ["error"]
    assert good.keys() == bad.keys()


def test_a_task_that_cannot_be_loaded_is_a_mistake(tmp_path: Path) -> None:
    assert mistake("task", "check", "gone.py") == "cannot read gone.py: No such file or directory"
    broken = write(tmp_path, "def init(key):", "1 / 0\ndef init(key):")
    assert mistake("task", "check", broken).endswith("line 9: ZeroDivisionError: division by zero")


@pytest.mark.parametrize("at", ["def init(key):", "    x = np"], ids=["import", "load"])
def test_the_traceback_of_a_persons_code_is_shown_on_request(tmp_path: Path, at: str) -> None:
    path = write(tmp_path, at, f"{at[: len(at) - len(at.lstrip())]}{{}}['oops']\n{at}")
    assert "Traceback" not in invoke("task", "check", path).output
    assert "Traceback (most recent call last)" in (said := invoke("task", "check", path, "-v").stderr)
    assert "KeyError: 'oops'" in said


# --- swarm create ---


def test_a_manifest_is_made_of_a_file(tmp_path: Path) -> None:
    result = invoke(
        "swarm", "create", "s.toml", "--task", write(tmp_path), "--optimizer", "sgd", "--rounds", 7
    )
    assert result.exit_code == 0
    assert result.stdout.endswith(f"Next: p2pnode join s.toml --task {tmp_path}/mymodel.py\n")
    manifest = load_manifest(Path("s.toml"))
    assert manifest.task.name == "lines"
    assert manifest.task.options["file"] == "mymodel.py:task"
    assert (manifest.training.optimizer, manifest.training.rounds) == ("sgd", 7)
    assert manifest.training.steps == registry.GENERIC["steps"]


def test_no_manifest_is_made_of_a_task_that_cannot_be_trained(tmp_path: Path) -> None:
    path = write(tmp_path, *WRONG)
    assert mistake("swarm", "create", "s.toml", "--task", path).startswith(f"{path}: loss: it returned str, ")
    assert not Path("s.toml").exists()


# --- agreeing to run it ---


@contextmanager
def typing(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A terminal on which a person types `answer`."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        keyboard.write(answer)
        yield


def test_who_says_yes_is_not_asked_again_for_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, accepted = write(tmp_path), tmp_path / "accepted"
    with typing(b"y\n", monkeypatch):
        assert agreed(path, None, accepted, yes=False).task.name == "lines"
    asked = capsys.readouterr().err
    assert f"this runs the code in {path} (sha256 " in asked
    assert "continue? [y/N]" in asked
    assert accepted.stat().st_mode & 0o777 == 0o600

    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert agreed(path, None, accepted, yes=False).task.name == "lines"
    Path(path).write_text(WHOLE + "\n")
    with pytest.raises(UserError, match="look into it, then add --yes"):
        agreed(path, None, accepted, yes=False)
    assert agreed(path, None, accepted, yes=True).task.name == "lines"
    assert len(accepted.read_text().split()) == 2


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["no", "nothing", "end"])
def test_nothing_runs_without_a_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    path = write(tmp_path, "import jax\n", f"open({str(tmp_path / 'ran')!r}, 'w')\nimport jax\n")
    with typing(answer, monkeypatch), pytest.raises(click.Abort):
        agreed(path, None, tmp_path / "accepted", yes=False)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "accepted").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [joining(), ("cluster", "s.toml")], ids=lambda words: words[0])
def test_ctrl_c_at_the_question_is_an_interrupt(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = write(tmp_path, "import jax\n", "import os\nos.mkdir('ran')\nimport jax\n")
    assert invoke("swarm", "create", "s.toml", "--task", path).exit_code == 0
    (tmp_path / "ran").rmdir()
    command = [sys.executable, "-m", "p2pnode", *words, "--task", path]
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as terminal:
        assert terminal.stdin and terminal.stdout
        shown = b""
        while b"continue? [y/N]" not in shown:
            more = os.read(terminal.stdout.fileno(), 4096)
            assert more, shown
            shown += more
        terminal.stdin.write(b"\x03")
        terminal.stdin.flush()
        shown += terminal.stdout.read()
    assert terminal.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in shown
    assert not (tmp_path / "ran").exists()


def test_another_file_is_refused_before_it_runs(tmp_path: Path) -> None:
    invoke("swarm", "create", "s.toml", "--task", write(tmp_path))
    path = write(tmp_path, "import jax\n", f"open({str(tmp_path / 'ran')!r}, 'w')\nimport jax\n")
    assert ", the file of this swarm's task " in mistake(*joining("--task", path, "--yes"))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "data" / "accepted").exists()


def test_without_a_terminal_a_joiner_must_say_yes_in_advance(tmp_path: Path) -> None:
    path = write(tmp_path)
    invoke("swarm", "create", "s.toml", "--task", path)
    assert mistake(*joining("--task", path)).startswith(f"this runs the code in {path} (sha256 ")


def test_a_joiner_of_a_task_that_ships_needs_no_file(tmp_path: Path) -> None:
    invoke("swarm", "create", "s.toml")
    assert "which p2pnode brings: leave --task away" in mistake(*joining("--task", write(tmp_path), "--yes"))


# --- the whole way, in processes ---


@pytest.mark.slow
def test_two_nodes_train_the_example(start: Callable[..., Program], tmp_path: Path) -> None:
    swarm, own = tmp_path / "s.toml", ("--task", EXAMPLE)
    assert start("task", "check", EXAMPLE).code() == 0
    assert start("swarm", "create", swarm, *own, "--rounds", 60, "--seed", 1).code() == 0

    def join(which: Any, number: int, *words: object, name: str = "") -> Program:
        usual = ("--data-dir", "data", "--listen", LOOPBACK, "--no-mdns", "--shard", f"{number}/2")
        return start("join", which, *usual, *words, name=name or f"node-{number}")

    missing = join(swarm, 1, name="without")
    assert missing.code() == 2
    assert "p2pnode: this swarm's task is in a file digits_cnn.py (sha256 " in missing.errors

    first = join(swarm, 1, *own, "--yes")
    first.wait_ready()
    linked = start("swarm", "link", swarm, "--peer", first.address)
    assert linked.code() == 0
    second = join(linked.output.strip(), 2, *own, "--yes")
    for node in (first, second):
        assert node.code() == 0, node.errors
        assert len(node.events(ExchangeCompleted)) > 10
        [(_, settled)] = node.events(Settled)
        assert settled.counted == 2
        assert settled.metrics["test_accuracy"] > 0.9
