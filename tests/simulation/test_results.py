"""Trials: carried out once, kept, summed up, compared."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from p2pnode.errors import UserError
from p2pnode.simulation.results import Line, Store, best, carry_out, count, key_of, regressions, summary
from p2pnode.simulation.rows import deal
from p2pnode.simulation.run import Study, Trial, recipe_of
from p2pnode.simulation.scenario import Clock, Run, Scenario, Split

SCENARIO = Scenario(
    name="small",
    task="breast-cancer",
    nodes=4,
    local_steps=20,
    seeds=(0, 1),
    learning_rates=(0.01, 0.3),
    looks=2,
    split=Split("dirichlet", 0.3),
    runs=(Run(steps=5), Run(rule="average", topology="server", steps=5)),
)


def made_up(trial: Trial) -> Line:
    """A line without any learning: the rate 0.3 is the better one."""
    accuracy = 0.9 if trial.rate == 0.3 else 0.5
    point = {
        "round": 4,
        "seconds": 1.0,
        "bytes": 10.0,
        "accuracy": 0.8,
        "worst_accuracy": 0.7,
        "distance": 0.1,
    }
    end = {
        "bytes": 20.0,
        "test": {"accuracy": accuracy - 0.01 * trial.seed},
        "validation": {"accuracy": accuracy},
    }
    return {
        "run": asdict(trial.run),
        "label": trial.run.label,
        "rate": trial.rate,
        "points": [point],
        "end": end,
    }


def test_every_rate_is_tried_with_the_first_seed_and_the_best_with_all() -> None:
    store = Store(None)
    trials = [trial for trial, _ in carry_out(SCENARIO, store, made_up)]
    assert len(trials) == count(SCENARIO) == 6
    assert {(trial.rate, trial.seed) for trial in trials} == {(0.01, 0), (0.3, 0), (0.3, 1)}
    assert best(SCENARIO, store, SCENARIO.runs[0]) == 0.3
    found = summary(SCENARIO, store, SCENARIO.runs[0])
    assert found.settled == (0.9, 0.89)
    assert (found.worst, found.bytes, found.clients) == (0.7, 20.0, None)


def test_how_soon_the_target_is_reached_is_known_if_every_seed_reaches_it() -> None:
    def rising(trial: Trial) -> Line:
        line = made_up(trial)
        points = [
            {**line["points"][0], "round": r, "bytes": 10.0 * r, "seconds": 0.5 * r, "accuracy": 0.2 * r}
            for r in range(1, 5 - trial.seed)
        ]
        return {**line, "points": points}

    for target, wanted in ((0.0, None), (0.5, (3.0, 30.0, 1.5)), (0.7, None)):
        scenario, store = replace(SCENARIO, target=target), Store(None)
        list(carry_out(scenario, store, rising))
        assert summary(scenario, store, scenario.runs[0]).reached == wanted


def test_what_diverged_is_never_the_best() -> None:
    def diverges(trial: Trial) -> Line:
        line = made_up(trial)
        value = float("nan") if trial.rate == 0.3 else 0.1
        return {**line, "end": {**line["end"], "validation": {"accuracy": value}}}

    store = Store(None)
    list(carry_out(SCENARIO, store, diverges))
    assert best(SCENARIO, store, SCENARIO.runs[0]) == 0.01


def test_a_scenario_that_was_broken_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file, carried = tmp_path / "r.jsonl", []

    def broken(trial: Trial) -> Line:
        carried.append(trial)
        if len(carried) == 4:
            raise KeyboardInterrupt
        return made_up(trial)

    with pytest.raises(KeyboardInterrupt):
        list(carry_out(SCENARIO, Store(file), broken))
    assert len(file.read_text().splitlines()) == 3
    list(carry_out(SCENARIO, Store(file), broken))
    assert len(carried) == 4 + 3  # the one that was broken off again, and two that had not begun
    list(carry_out(SCENARIO, Store(file), broken))
    assert len(carried) == 7


def test_what_changes_a_trial_changes_its_key_and_the_rest_does_not() -> None:
    trial = Trial(SCENARIO.runs[0], 0.3, 0)
    key = key_of(SCENARIO, trial)
    assert key == key_of(replace(SCENARIO, name="other", seeds=(5,), learning_rates=(1.0,), runs=()), trial)
    others = [
        replace(SCENARIO, nodes=5),
        replace(SCENARIO, clock=Clock(drop=0.1)),
        replace(SCENARIO, split=Split("even")),
        replace(SCENARIO, looks=3),
    ]
    assert len({key, *(key_of(other, trial) for other in others)}) == 5
    assert key_of(SCENARIO, trial._replace(seed=1)) != key
    assert key_of(SCENARIO, trial._replace(run=SCENARIO.runs[1])) != key


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\n")
    with pytest.raises(UserError, match="holds no results"):
        Store(tmp_path / "x")


def test_worse_than_before_is_a_regression_and_better_is_none() -> None:
    store = Store(None)
    list(carry_out(SCENARIO, store, made_up))
    found = [summary(SCENARIO, store, run) for run in SCENARIO.runs]
    before = [asdict(one) for one in found]
    assert regressions(found, before, 0.01) == []
    assert regressions(found, [{**one, "settled": [0.7]} for one in before], 0.01) == []
    worse = regressions(found, [{**one, "settled": [0.95], "bytes": 19.0} for one in before], 0.01)
    assert len(worse) == 4
    assert regressions(found[:1], before, 0.01) == [f"{found[1].label}: is missing"]
    nan = [replace(found[0], settled=(float("nan"),))]
    assert regressions(nan, before[:1], 0.01)


def test_the_same_seed_and_file_give_the_same_bytes(tmp_path: Path) -> None:
    scenario = replace(
        SCENARIO, learning_rates=(0.3,), seeds=(0,), runs=(Run(steps=5), Run(steps=5, topology="nodes"))
    )
    for name in ("one", "two"):
        list(
            carry_out(
                scenario,
                Store(tmp_path / name),
                lambda trial: Study(scenario).carry_out(trial, lambda *_: None),
            )
        )
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert content.count(b"\n") == 2


def test_without_validation_rows_nobody_loses_one_and_the_test_rows_choose_the_rate() -> None:
    task = recipe_of(SCENARIO, SCENARIO.runs[0]).task
    rows = deal(replace(SCENARIO, validation=0.0), task, 4, 0)
    assert len(rows.validation.y) == 0
    assert rows.parts.count.sum() == len(task.load()[0].y)
    end = Study(replace(SCENARIO, validation=0.0)).carry_out(Trial(Run(steps=5), 0.3, 0), lambda *_: None)[
        "end"
    ]
    assert end["validation"] == {} and end["test"]


def test_learning_together_is_better_than_alone_and_more_rounds_cost_more_bytes() -> None:
    runs = tuple(Run(steps=5, topology=name) for name in ("matching", "nobody", "pooled"))
    scenario = replace(SCENARIO, nodes=6, local_steps=100, learning_rates=(0.3,), seeds=(0,), runs=runs)
    store, study = Store(None), Study(scenario)
    lines = [
        line for _, line in carry_out(scenario, store, lambda trial: study.carry_out(trial, lambda *_: None))
    ]
    together, alone, pooled = (summary(scenario, store, run) for run in runs)
    assert together.worst > alone.worst + 0.05
    assert together.mean > pooled.mean - 0.05
    assert alone.bytes == pooled.bytes == 0
    sent = [point["bytes"] for point in lines[0]["points"]]
    assert sent == sorted(sent) and together.bytes > sent[-1]  # and settling
