"""A person's own table, from `swarm create` to `predict`: what is shown, written, refused and noted."""

import csv
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from p2pnode.cli.main import main
from p2pnode.cli.swarm import swarm as swarm_command
from p2pnode.events import RoundFinished, Settled
from p2pnode.identity.manifest import load_manifest
from p2pnode.learning import own, registry
from p2pnode.learning.encode import read_rows
from p2pnode.learning.table import ROWS
from p2pnode.observe.journal import Journal
from p2pnode.observe.stream import Stamped
from p2pnode.session import rows_of
from p2pnode.storage.directory import DataDirectory
from p2pnode.world import Rows
from tests.cli.run import LOOPBACK
from tests.learning import tasks_in_files
from tests.learning.tables import Columns, patients, write
from tests.learning.test_registry import manifest


class Said(NamedTuple):
    """What a command said: its exit code, stdout and stderr."""

    code: object
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cache = {name: value for name, value in jax.config.values.items() if "compilation_cache" in name}

    def command(*words: object) -> Said:
        monkeypatch.setattr("sys.argv", ["p2pnode", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        return Said(exited.value.code, *capfd.readouterr())

    yield command
    for name, value in cache.items():
        jax.config.update(name, value)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a swarm for tables of patients, and a node that has trained in it for a while."""
    folder = tmp_path_factory.mktemp("prepared")
    file, table = folder / "s.toml", write(folder / "author.csv", patients(200))
    words = ["create", str(file), "--from-data", str(table), "--target", "outcome", "--seed", "0"]
    assert CliRunner().invoke(swarm_command, words, catch_exceptions=False).exit_code == 0
    agreed = load_manifest(file)
    learner = registry.build(agreed)
    assert learner.task.schema is not None
    rows, _ = read_rows(table, learner.task.schema, 1)
    state, _ = learner.steps(learner.init(0), rows, 300)
    saved = learner.pack(learner.end_round(state)) | {"round": np.array(30), "taken": np.array(300)}
    with DataDirectory.open(folder / "node") as directory, Journal(directory.events) as journal:
        shutil.copy(file, directory.manifest)
        directory.save_checkpoint(30, saved, {"swarm": agreed.swarm_id, "settled": "no"})
        for round in (29, 30, 31):
            metrics = {"test_auc": round / 100}
            journal(Stamped(0.0, RoundFinished(round, 100, 10 * round, 0.5, metrics, 2, 1.0, 0, 0)))
    return folder


@pytest.fixture
def swarm(run: Command, prepared: Path) -> Path:
    """The swarm's manifest, here."""
    shutil.copytree(prepared, ".", dirs_exist_ok=True)
    return Path("s.toml")


@pytest.fixture
def model(swarm: Path) -> Path:
    """The data directory of the node, here."""
    return Path("node")


def complaint(said: Said) -> str:
    """The one line that a command complains with."""
    assert said.code == 2, said
    assert not said.out
    assert said.err.startswith("p2pnode: ")
    assert said.err.count("\n") == 1, said.err
    return said.err.removeprefix("p2pnode: ").rstrip()


def joining(swarm: Path, *words: object) -> tuple[object, ...]:
    return ("join", swarm, "--listen", LOOPBACK, "--no-mdns", "--data-dir", "data", "--wait", 0, *words)


# --- swarm create ---


def test_the_columns_are_shown_and_stand_in_the_manifest_without_a_row(run: Command) -> None:
    write(Path("p.csv"), patients(200) | {"name": [f"Jane Doe {row}" for row in range(200)]})
    said = run("swarm", "create", "s.toml", "--from-data", "p.csv", "--target", "outcome")
    lines = said.out.splitlines()
    assert "p.csv: 200 rows; outcome is to be predicted: bad, good" in lines
    assert "  dose  number    mean 4.8941, scale 1.04206, missing taken as 4.848" in lines
    assert "  ward  category  east, north, west" in lines
    assert "  name  left out: it holds texts, most of them in fewer than 5 rows" in lines
    assert lines[-1] == "Next: p2pnode join s.toml --data p.csv"
    content = Path("s.toml").read_text()
    assert 'ward = {type = "category", categories = ["east", "north", "west"], missing = ""}' in content
    assert "Jane" not in content
    assert "columns=3" in run("swarm", "show", "s.toml").out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--from-data", "p.csv"),
            "say which column of p.csv is to be predicted: --target, one of age, dose, ward, outcome",
        ),
        (
            ("--target", "outcome"),
            "--target and --ignore are columns of a table: they go with --from-data FILE",
        ),
        (
            ("--from-data", "p.csv", "--target", "outcom"),
            "p.csv has no column 'outcom': did you mean 'outcome'?",
        ),
        (("--from-data", "x.csv", "--target", "y"), "cannot read x.csv: No such file or directory"),
        (
            ("--task", "tabular"),
            "task tabular learns from a table of yours: say --from-data FILE --target COLUMN",
        ),
        (
            ("--task", "digits", "--from-data", "p.csv", "--target", "outcome"),
            "task digits brings its own data: leave --from-data away",
        ),
    ],
)
def test_a_swarm_that_cannot_be_made_of_a_table_is_one_line(
    run: Command, words: tuple[str, ...], line: str
) -> None:
    write(Path("p.csv"), patients())
    assert complaint(run("swarm", "create", "s.toml", *words)) == line
    assert not Path("s.toml").exists()


# --- join ---


def with_column(name: str, values: list[str]) -> Columns:
    return patients() | {name: values}


def without(*names: str) -> Columns:
    return {name: values for name, values in patients().items() if name not in names}


GRAMS = "5296 ± 1013, the swarm's 4.894 ± 1.042"
NOT_FITTING: dict[str, tuple[Columns, str]] = {
    "missing": (without("age"), "column 'age' is missing"),
    "renamed": (
        without("age") | {"Age_": ["1"] * 60},
        "column 'age' is missing (is 'Age_' meant? Rename it)",
    ),
    "wrong type": (with_column("age", ["old"] * 60), "column 'age' holds 'old' in row 1, expected a number"),
    "another coding": (
        with_column("ward", ["1"] * 60),
        "column 'ward' holds mostly '1', which the swarm does not know",
    ),
    "another unit": (
        with_column("dose", [str(1000 * float(dose)) for dose in patients()["dose"]]),
        f"column 'dose' holds about {GRAMS}: is it in another unit? Convert it, or say --any-units",
    ),
    "labels": (
        with_column("outcome", ["dead"] * 60),
        "column 'outcome' holds 'dead', the classes are 'bad', 'good'",
    ),
}


@pytest.mark.parametrize("columns_and_line", NOT_FITTING.values(), ids=NOT_FITTING)
def test_a_table_that_does_not_fit_is_refused_with_the_difference(
    run: Command, swarm: Path, columns_and_line: tuple[Columns, str]
) -> None:
    columns, line = columns_and_line
    write(Path("ward7.csv"), columns)
    said = complaint(run(*joining(swarm, "--data", "ward7.csv")))
    assert said == f"ward7.csv does not fit the swarm's table: {line}"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("ward7.csv", None, "cannot read ward7.csv: No such file or directory"),
        ("ward7.csv", "", "ward7.csv is empty"),
        ("ward7.csv", "age,dose,ward,outcome\n", "ward7.csv has 0 rows with a label, at least 20 are needed"),
        (
            "ward7.csv",
            "age,dose,ward,outcome\n1,2,east,bad\n",
            "has 1 rows with a label, at least 20 are needed",
        ),
        ("ward7.xlsx", "PK", "ward7.xlsx: expected a table in a .csv, .npz or .parquet file: save it as CSV"),
    ],
)
def test_a_file_that_is_no_table_to_learn_from_is_one_line(
    run: Command, swarm: Path, name: str, content: str | None, line: str
) -> None:
    if content is not None:
        Path(name).write_text(content)
    assert line in complaint(run(*joining(swarm, "--data", name)))


def test_a_swarm_for_tables_has_no_data_to_share_out(run: Command, swarm: Path) -> None:
    assert complaint(run(*joining(swarm, "--shard", "1/3"))) == (
        "this swarm learns from tables that its members bring: join it with --data FILE"
    )


def rows_from(swarm: Path, source: str, test: str | None = None, any_units: bool = False) -> Rows:
    """What a node of the swarm makes of a file."""
    agreed = load_manifest(swarm)
    task = registry.build(agreed).task
    return rows_of(Path(source), Path(test) if test else None, any_units)(agreed, task)


def test_what_was_handled_is_logged_for_the_node(swarm: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = patients() | {"fax": ["1"] * 60, "age": ["", *patients()["age"][1:]]}
    write(Path("ward7.csv"), columns)
    rows_from(swarm, "ward7.csv")
    assert caplog.messages == [
        "ward7.csv: not used by the swarm and ignored: 'fax'",
        "ward7.csv: column 'age': 1 of 60 values missing, taken as 58",
    ]


def test_a_node_holds_back_rows_of_its_own_and_takes_a_common_test_set_if_there_is_one(swarm: Path) -> None:
    write(Path("ward7.csv"), patients(100))
    alone = rows_from(swarm, "ward7.csv")
    assert len(alone.train.y) == 90
    assert {name: len(rows.y) for name, rows in alone.probes.items()} == {"holdout": 10}
    write(Path("common.csv"), patients(30, seed=1))
    both = rows_from(swarm, "ward7.csv", "common.csv")
    assert {name: len(rows.y) for name, rows in both.probes.items()} == {"holdout": 10, "test": 30}


def test_another_unit_is_taken_from_whoever_insists(swarm: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(Path("ward7.csv"), NOT_FITTING["another unit"][0])
    assert len(rows_from(swarm, "ward7.csv", any_units=True).train.y) == 54
    assert "is it in another unit?" in caplog.text


def test_a_task_with_data_of_its_own_may_be_judged_by_a_file_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((40, 64)), y=np.arange(40) % 10)
    np.savez(tmp_path / "test.npz", x=np.zeros((30, 64)), y=np.arange(30) % 10)
    digits = registry.build(manifest("digits")).task
    rows = rows_of(tmp_path / "mine.npz", tmp_path / "test.npz")(manifest("digits"), digits)
    assert {name: len(probe.y) for name, probe in rows.probes.items()} == {"holdout": 4, "test": 30}


# --- predict, evaluate, export ---


def predicted(path: str = "out.csv", delimiter: str = ",") -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_a_prediction_is_the_same_table_with_two_columns_more(run: Command, model: Path) -> None:
    columns = patients(50, seed=3) | {"note": ['a, "b"'] * 50}
    del columns["outcome"]
    write(Path("rows.csv"), columns, ";")
    said = run("predict", model, "--input", "rows.csv", "--output", "out.csv")
    assert said.code == 0
    assert said.out.startswith("out.csv: 50 rows in ")
    assert said.err == "p2pnode: rows.csv: not used by the swarm and ignored: 'note'\n"
    rows = predicted(delimiter=";")
    assert list(rows[0]) == ["age", "dose", "ward", "note", "predicted_outcome", "probability"]
    assert [{name: row[name] for name in columns} for row in rows] == [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    truth = patients(50, seed=3)["outcome"]
    assert sum(row["predicted_outcome"] == label for row, label in zip(rows, truth, strict=True)) >= 43


def test_a_prediction_is_made_piece_by_piece_and_matches_the_evaluation(run: Command, model: Path) -> None:
    columns = patients(ROWS + 100, seed=4)
    write(Path("rows.csv"), columns)
    assert run("predict", model, "--input", "rows.csv", "--output", "out.csv").code == 0
    right = [row["predicted_outcome"] == row["outcome"] for row in predicted()]
    assert len(right) == ROWS + 100
    said = run("evaluate", model, "--data", "rows.csv", "--json")
    report = json.loads(said.out)
    assert report["rows"] == ROWS + 100
    assert report["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert report["metrics"]["auc"] > 0.9
    assert report["round"] == 30
    assert "auc       0.9" in run("evaluate", model, "--data", "rows.csv").out


def test_a_table_without_rows_is_predicted_as_one(run: Command, model: Path) -> None:
    Path("rows.csv").write_text("age,dose,ward\n")
    assert run("predict", model, "--input", "rows.csv", "--output", "out.csv").code == 0
    assert Path("out.csv").read_text() == "age,dose,ward,predicted_outcome,probability\n"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (without("age"), "rows.csv does not fit the swarm's table: column 'age' is missing"),
        (with_column("age", ["old"] * 60), "column 'age' holds 'old' in row 1, expected a number"),
        (NOT_FITTING["another unit"][0], "column 'dose' holds about 5296 ± 1013"),
        (
            with_column("probability", ["1"] * 60),
            "rows.csv has a column 'probability' already: rename or remove it",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_the_column_and_nothing_is_written(
    run: Command, model: Path, columns: Columns, line: str
) -> None:
    write(Path("rows.csv"), columns)
    assert line in complaint(run("predict", model, "--input", "rows.csv", "--output", "out.csv"))
    assert not Path("out.csv").exists()


def test_a_table_is_not_written_over(run: Command, model: Path) -> None:
    said = complaint(run("predict", model, "--input", "author.csv", "--output", "./author.csv"))
    assert said == "author.csv is the input too: choose another --output"


def test_an_exported_model_predicts_the_same_and_says_where_it_comes_from(run: Command, model: Path) -> None:
    said = run("export", model, "m.safetensors")
    agreed = load_manifest(Path("s.toml"))
    assert said.out.startswith("m.safetensors  sha256 ")
    assert f"swarm {agreed.swarm_id[:8]}  not settled, after round 30" in said.out
    for number, path in enumerate((model, "m.safetensors")):
        assert run("predict", path, "--input", "author.csv", "--output", f"{number}.csv").code == 0
    assert Path("0.csv").read_bytes() == Path("1.csv").read_bytes()
    with safe_open("m.safetensors", framework="np") as content:
        metadata = content.metadata()
    assert metadata["swarm"] == agreed.swarm_id
    assert metadata["manifest"].encode() == agreed.canonical()
    facts = {"round": 30, "settled": False, "metrics": {"test_auc": 0.3}, "members": None}
    assert json.loads(metadata["facts"]) == facts
    assert len(metadata["sha256"]) == 64
    card = Path("m.md").read_text()
    for fact in (
        agreed.swarm_id,
        "one node's own after 30 of 100 rounds",
        "| test_auc | 0.3 |",
        "| ward | east, north, west |",
    ):
        assert fact in card


def test_a_settled_model_says_whose_it_is(run: Command, model: Path) -> None:
    learner = registry.build(load_manifest(Path("s.toml")))
    settled, convert = learner.settle()
    with DataDirectory.open(model) as directory, Journal(directory.events) as journal:
        directory.save_checkpoint(100, settled.pack(convert(learner.init(0))), {"settled": "yes"})
        journal(Stamped(0.0, Settled(3, 3, 0.0, {"holdout_auc": 0.9})))
    assert run("export", model, "m.safetensors").out.splitlines()[0].endswith("  settled")
    assert "settled after 100 of 100 rounds, the mean of 3 members' models" in Path("m.md").read_text()
    assert (
        json.loads(run("evaluate", "m.safetensors", "--data", "author.csv", "--json").out)["settled"] is True
    )


@pytest.mark.parametrize("command", [("evaluate", "--data", "author.csv"), ("export", "m.safetensors")])
@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("absent", "cannot read absent: "),
        ("author.csv", "author.csv is neither a data directory nor an exported model"),
        (".", ". is no data directory of a node: it holds no manifest.toml"),
        ("fresh", "fresh holds no saved model yet: wait for the node's first checkpoint"),
    ],
)
def test_what_is_no_model_is_one_line(
    run: Command, swarm: Path, command: tuple[str, ...], model: str, line: str
) -> None:
    Path("fresh").mkdir()
    shutil.copy(swarm, "fresh/manifest.toml")
    name, *words = command
    assert line in complaint(run(name, model, *words))


@pytest.mark.parametrize("damaged", ["weights", "swarm", "manifest", "facts", "sha256", "p2pnode.model"])
def test_an_exported_model_that_was_changed_is_refused(run: Command, model: Path, damaged: str) -> None:
    run("export", model, "m.safetensors")
    with safe_open("m.safetensors", framework="np") as content:
        metadata = dict(content.metadata())
    arrays = load_file("m.safetensors")
    if damaged == "weights":
        arrays["0/weights"] = arrays["0/weights"] + 1e-3
    else:
        metadata[damaged] = metadata[damaged][:-1] + "?"
    save_file(arrays, "m.safetensors", metadata)
    said = complaint(run("evaluate", "m.safetensors", "--data", "author.csv"))
    assert "m.safetensors is damaged" in said or "is no model that this p2pnode exported" in said


def test_a_model_of_arrays_is_evaluated_and_predicts_no_tables(run: Command) -> None:
    assert run("swarm", "create", "d.toml", "--task", "breast-cancer").code == 0
    learner = registry.build(load_manifest(Path("d.toml")))
    with DataDirectory.open(Path("d")) as directory:
        shutil.copy("d.toml", directory.manifest)
        directory.save_checkpoint(0, learner.pack(learner.init(0)), {"settled": "no"})
    train, _ = learner.task.load()
    np.savez("rows.npz", x=train.x, y=train.y)
    assert run("evaluate", "d", "--data", "rows.npz").out.startswith("rows      456\naccuracy ")
    assert complaint(run("predict", "d", "--input", "rows.npz", "--output", "out.csv")) == (
        "a model of task breast-cancer predicts no tables, only one of task tabular does"
    )


def test_a_model_of_a_task_in_a_file_is_used_with_that_file_and_only_if_agreed(run: Command) -> None:
    text = tasks_in_files.write(Path())
    assert run("swarm", "create", "s.toml", "--task", text).code == 0
    task = own.run(own.read(text))
    learner = registry.build(load_manifest(Path("s.toml")), task)
    with DataDirectory.open(Path("d")) as directory:
        shutil.copy("s.toml", directory.manifest)
        directory.save_checkpoint(0, learner.pack(learner.init(0)), {"settled": "no"})
    train, _ = task.task.load()
    np.savez("rows.npz", x=train.x, y=train.y)
    assert "add --task mymodel.py:task" in complaint(run("export", "d", "m.safetensors"))
    assert "look into it, then add --yes" in complaint(run("export", "d", "m.safetensors", "--task", text))
    assert run("export", "d", "m.safetensors", "--task", text, "--yes").code == 0
    assert set(load_file("m.safetensors")) == {"body", "head", "seen"}
    said = [
        run("evaluate", model, "--data", "rows.npz", "--task", text, "--yes")
        for model in ("d", "m.safetensors")
    ]
    assert said[0].out == said[1].out
    assert said[0].out.startswith("rows      150\nloss      ")
    line = complaint(run("predict", "d", "--input", "rows.npz", "--output", "out.csv", "--task", text))
    assert line == "a model of task lines predicts no tables, only one of task tabular does"
