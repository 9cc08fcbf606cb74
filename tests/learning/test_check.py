"""What `p2pnode task check` finds: everything that would only show on a node, and late."""

from pathlib import Path

import pytest

from p2pnode.learning import own, registry
from p2pnode.learning.check import Finding, Report, check
from tests.learning.tasks_in_files import write


def checked(folder: Path, old: str = "", new: str = "") -> Report:
    return check(own.run(own.read(write(folder, old, new))).task)


def only_error(report: Report) -> Finding:
    assert len(report.findings) == 1
    assert report.errors == list(report.findings)
    assert "\n" not in report.findings[0].what
    assert report.findings[0].do
    return report.findings[0]


def test_a_whole_task_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    report = checked(tmp_path)
    assert report.findings == ()
    assert report.rows == (150, 50)
    assert report.layout is not None and report.layout.size == 6
    assert report.losses is not None and report.losses[1] < report.losses[0]


@pytest.mark.parametrize("name", ["digits", "breast-cancer"])
def test_the_tasks_that_ship_pass(name: str) -> None:
    options = registry.defaults(name)["task_options"]
    assert check(registry.TASKS[name].build(**options)).findings == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "jax.random.normal(key, (3, 2))",
            "np.random.normal(size=(3, 2))",
            "init: body is another one each time",
        ),
        ("jnp.int32(0)}", "'zero'}", "init: seen of what it returned is str, which is no array"),
        ("jnp.int32(0)}", "0}", "init: seen is a plain int, no array"),
        ("jnp.int32(0)}", "key}", "init: seen is key<fry>, which no checkpoint can hold"),
        ("(key, (3, 2))", "(key, [3, 'x'])", "mymodel.py, line 10: TypeError"),
        ('{"body": True, "head": False, "seen": False}', "[True]", "shared: it must return True or False"),
        ('"seen": False}', '"seen": True}', "task lines shares seen, which is int32: only floats"),
        ('"body": True', '"body": False', "task lines shares no parameters"),
    ],
)
def test_wrong_parameters_are_found(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in only_error(checked(tmp_path, old, new)).what


def test_parameters_of_integers_only_are_found(tmp_path: Path) -> None:
    path = Path(write(tmp_path, ", shared)", ")"))
    lines = [line for line in path.read_text().splitlines() if '{"body": jax' not in line]
    lines.insert(lines.index("def init(key):") + 1, '    return {"body": jnp.ones((3, 2), jnp.int32)}')
    path.write_text("\n".join(lines))
    assert "shares no parameters" in only_error(check(own.run(own.read(str(path))).task)).what


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    x = np", "    np.load('gone.npz')\n    x = np", "FileNotFoundError: "),
        (
            "return Dataset(x[:150], y[:150]), ",
            "return ",
            "load: it returned Dataset(float32[50, 3], int32[50])",
        ),
        ("Dataset(x[150:], y[150:])", "None", "load: it returned tuple("),
        (
            ".astype(np.float32)\n",
            "\n",
            "load: train.x is float64[150, 3], expected float32[rows, features...]",
        ),
        ("Dataset(x[:150]", "Dataset(x[:150, 0]", "load: train.x is float32[150], expected"),
        (".astype(np.int32)", "", "load: train.y is bool[150], expected int32[rows]"),
        ("y[150:])", "y[151:])", "load: test has 50 rows in x and 49 in y"),
        ("x[150:], y[150:]", "x[200:], y[200:]", "load: test has 0 rows in x and 0 in y"),
        ("Dataset(x[:150]", "Dataset(x[:150] * np.float32(np.nan)", "load: train.x holds NaN or infinity"),
        ("> 0).astype(np.int32)", "> 0).astype(np.int32) - 1", "load: train.y holds -1"),
        (
            "Dataset(x[150:]",
            "Dataset(x[150:, :2]",
            "rows of x have shape (3,) to train on and (2,) to test with",
        ),
        ("default_rng(0)", "default_rng()", "load: it returns other rows each time"),
    ],
)
def test_wrong_data_is_found(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in only_error(checked(tmp_path, old, new)).what


LOSS = "    return entropy(params, batch)\n"
METRICS = '    return {"loss": entropy(params, batch)}'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (LOSS, "    return scores(params, batch.x)\n", "loss: it returned float32[1, 2], expected one float"),
        (LOSS, "    return entropy(params, batch), 3\n", "loss: it returned tuple(float32[], int32[]), exp"),
        (LOSS, "    return jnp.argmax(batch.x)\n", "loss: it returned int32[], expected one float"),
        (LOSS, "    return 'low'\n", "loss: it returned str, which is no array"),
        (LOSS, "    return {'low': params}['high']\n", "mymodel.py, line 23: KeyError: 'high'"),
        (LOSS, "    return 1.0 if params['head'][0] > 0 else 0.0\n", "line 23: TracerBoolConversionError: "),
        (LOSS, "    return jnp.sum(batch.x.reshape(32, 3))\n", "line 23: TypeError: cannot reshape"),
        (
            LOSS,
            "    return entropy(params, batch) / jnp.sum(params['head'])\n",
            "loss: it is inf on the first",
        ),
        (
            LOSS,
            "    return jnp.linalg.norm(params['body'] * 0)\n",
            "loss: its gradient by body is not finite",
        ),
        (
            LOSS,
            "    return jax.lax.while_loop(lambda c: c < 9, lambda c: c + 1, params['body'][0, 0])\n",
            "loss: no gradient: Reverse-mode differentiation does not work for lax.while_loop",
        ),
        ("load, shared)", "load, shared, scores)", "predict: chances of a row add up to "),
        (
            "load, shared)",
            "load, shared, lambda p, x: x[0])",
            "predict: it returned float32[3], expected float32[1, classes]",
        ),
        (
            "load, shared)",
            "load, shared, lambda p, x: x[:, :1] ** 0)",
            "predict: it knows 1 classes, y holds labels up to 1",
        ),
        (METRICS, "    return entropy(params, batch)", "metrics: it returned float32[]"),
        (METRICS, "    return {'accuracy': entropy(params, batch)}", "metrics: there is no loss among them"),
        (METRICS, METRICS[:-1] + ", 'all': batch.y}", "metrics: all is int32[1]"),
        (METRICS, METRICS[:-1] + ", 'all': 'good'}", "metrics: all of what it returned is str, which is no"),
        (METRICS, "    return {0: entropy(params, batch)}", "metrics: it returned dict(float32[])"),
        (METRICS, "    return {'loss': float(params['body'][0, 0])}", "line 27: ConcretizationTypeError: "),
    ],
)
def test_wrong_functions_are_found(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in only_error(checked(tmp_path, old, new)).what


def test_a_loss_that_does_not_fall_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, LOSS, "    return -entropy(params, batch)\n")
    assert not report.errors
    [finding] = report.findings
    assert "the loss on the task's own rows is " in finding.what
    assert "sign" in finding.do


def test_independent_errors_are_all_found(tmp_path: Path) -> None:
    path = Path(write(tmp_path, LOSS, "    return 'low'\n"))
    path.write_text(path.read_text().replace(METRICS, "    return {}"))
    report = check(own.run(own.read(str(path))).task)
    assert [finding.what.partition(":")[0] for finding in report.errors] == ["loss", "metrics"]


def test_what_code_raised_is_kept_for_its_traceback(tmp_path: Path) -> None:
    finding = only_error(checked(tmp_path, "    x = np", "    {}['gone']\n    x = np"))
    assert isinstance(finding.cause, KeyError)
