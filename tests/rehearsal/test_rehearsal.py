"""Rehearsals: scenarios are checked, chance comes from the seed, and what is wrong is seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from p2pnode.cli.rehearse import rehearse as command
from p2pnode.errors import UserError
from p2pnode.events import ExchangeCompleted, ExchangeUnsettled
from p2pnode.ports import PeerId
from p2pnode.rehearsal import invariants
from p2pnode.rehearsal.growth import Taken, grown, peaks
from p2pnode.rehearsal.invariants import Glimpse
from p2pnode.rehearsal.run import rehearse
from p2pnode.rehearsal.scenario import load, parse
from p2pnode.rehearsal.script import script
from p2pnode.rehearsal.sums import WITHIN, Sums

SMALL: dict[str, Any] = {"name": "small", "nodes": 2, "rounds": 3}
A, B = PeerId("a"), PeerId("b")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"nodes": 0}, "nodes: expected an integer from 1 to 10000, found 0"),
        ({"node": 1}, "'node': unknown key"),
        ({"rounds": 0}, "rounds, hours: one of the two"),
        ({"link": {"loss": 1}}, "link.loss: expected a number from 0 to 0.9, found 1"),
        ({"event": [{"at": 1, "do": "burn"}]}, 'event[0].do: expected "kill" or'),
        ({"event": [{"do": "kill"}]}, "event[0].at: missing key"),
        ({"event": [{"at": 1, "do": "heal", "nodes": [1]}]}, 'event[0].nodes: "heal" takes nothing else'),
        ({"event": [{"at": 1, "do": "kill", "nodes": [-1]}]}, "event[0].nodes: expected a list of numbers"),
        ({"event": [{"at": 1, "do": "freeze", "seconds": -1}]}, "event[0].seconds: only a clock jumps back"),
        ({"event": 3}, "event: write a table [[event]]"),
    ],
)
def test_what_is_wrong_in_a_scenario_is_one_line_that_names_the_key(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(SMALL | given)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_what_is_no_toml_is_a_persons_mistake(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("name = ")
    with pytest.raises(UserError, match="not TOML"):
        load(tmp_path / "wrong.toml")


def test_what_has_a_length_ends_and_churn_brings_everybody_back() -> None:
    churn = {"at": 10, "do": "churn", "rate": 20, "seconds": 3600, "away": 30}
    freeze = {"at": 5, "do": "freeze", "nodes": [1], "seconds": 7}
    scenario = parse(SMALL | {"nodes": 5, "event": [churn, freeze]})
    deeds = script(scenario, seed=1)
    assert deeds == script(scenario, seed=1) != script(scenario, seed=2)
    assert [deed.at for deed in deeds if deed.do == "thaw"] == [12]
    gone: set[tuple[int, ...]] = set()
    for deed in deeds:
        if deed.do == "kill":
            assert deed.nodes not in gone
            gone.add(deed.nodes)
            assert len(gone) < 5
        elif deed.do == "start":
            gone.remove(deed.nodes)
    assert not gone
    assert 60 < sum(deed.do == "kill" for deed in deeds) < 140  # 100 are expected


def glimpse(name: str, *view: str, tasks: int = 1, undisturbed: float = 100.0, stuck: float = 0.0) -> Glimpse:
    return Glimpse(name, PeerId(name), [PeerId(peer) for peer in view], tasks, undisturbed, stuck)


def test_a_view_in_one_direction_connects_and_who_had_no_time_yet_need_not_be() -> None:
    assert not [*invariants.connected([glimpse("a", "b"), glimpse("b"), glimpse("c", "b")], 50)]
    apart = [glimpse("a", "b"), glimpse("b", "a"), glimpse("c", "d"), glimpse("d")]
    assert [*invariants.connected(apart, 50)] == ["no way over views leads from a to c, d"]
    assert not [*invariants.connected([*apart[:2], glimpse("c", undisturbed=10)], 50)]


def test_too_many_peers_tasks_or_seconds_are_seen() -> None:
    assert len([*invariants.bounded([glimpse("a", "b", "c")], 1)]) == 1
    assert len([*invariants.bounded([glimpse("a", tasks=31)], 1)]) == 1
    assert not [*invariants.bounded([glimpse("a", "b", tasks=30)], 1)]
    assert len([*invariants.going_on([glimpse("a", stuck=131)], pace=10, longest=110)]) == 1
    assert len([*invariants.in_time(111, 110)]) == 1


def test_whatever_is_more_in_the_last_quarter_than_in_the_first_has_grown() -> None:
    flat = [Taken(500 + n % 7, 10_000, 1 << 28, 160, 40_000) for n in range(40)]
    assert not [*grown(*peaks(flat))]
    leaking = [replace(one, files=160 + n) for n, one in enumerate(flat)]
    assert [*grown(*peaks(leaking))] == ["nodes grow: files 169 at first, 199 in the end"]
    assert not [*grown(*peaks([*flat[:20], replace(flat[20], tasks=900), *flat[21:]]))]


def test_when_nodes_have_learned_is_told_and_it_is_wrong_if_they_never_do() -> None:
    lesson = {"evaluate": 1, "rounds": 3, "expect": {"learned": 0.01}}
    found = rehearse(parse(SMALL | lesson), 0)
    assert (found.wrong, found.took) == ((), None)
    assert found.learned is not None and 0 < found.learned < found.virtual
    found = rehearse(parse(SMALL | lesson | {"expect": {"learned": 1.0}}), 0)
    assert found.wrong == ("nodes never had an accuracy of 1 in the mean",)


def test_what_nodes_take_is_looked_at_from_an_hour_on() -> None:
    found = rehearse(parse({"name": "x", "nodes": 2, "hours": 0.1, "expect": {"steady": 0.05}}), 0)
    assert found.took is not None
    assert min(found.took[0].tasks, found.took[0].objects, found.took[0].memory) > 0


def done(peer: PeerId, initiator: bool) -> ExchangeCompleted:
    return ExchangeCompleted(peer, "1", initiator, 8, 0.1)


def moved(sums: Sums, name: PeerId, *by: float) -> None:
    sums.computing = name
    sums.moved(np.array(by))


def test_an_exchange_must_give_what_it_takes() -> None:
    sums = Sums()
    moved(sums, A, 1.0, -2.0)
    moved(sums, B, -1.0, 2.0)
    sums.completed(A, A, done(B, initiator=True), now=1)
    sums.completed(B, B, done(A, initiator=False), now=1)
    assert not sums.wrong and not [*sums.one_sided()]
    moved(sums, A, 1.0)
    sums.completed(A, A, done(B, initiator=True), now=1)
    sums.completed(B, B, done(A, initiator=False), now=1)
    assert sums.wrong == ["exchange 1 changed the sum of its two ends by 1"]


def test_parameters_that_no_exchange_moved_are_seen() -> None:
    sums = Sums()
    moved(sums, A, 1.0)
    moved(sums, A, 1.0)
    assert sums.wrong == ["a: parameters were moved by no exchange"]


def test_only_a_death_or_a_word_excuses_an_exchange_of_one_end() -> None:
    silent, dead, said = Sums(), Sums(), Sums()
    for sums in (silent, dead, said):
        sums.completed(A, A, done(B, initiator=True), now=1)
    silent.ended(B, B, 2, by_surprise=False)
    dead.ended(B, B, 2, by_surprise=True)
    said.unsettled(ExchangeUnsettled(A, "1"))
    assert [len([*sums.one_sided()]) for sums in (silent, dead, said)] == [1, 0, 0]


def test_a_death_long_after_an_exchange_excuses_nothing() -> None:
    sums = Sums()
    sums.completed(A, A, done(B, initiator=True), now=1000)
    sums.ended(B, B, 1000 + 2 * WITHIN, by_surprise=True)
    assert len([*sums.one_sided()]) == 1
    sums.ended(B, B, 1000 - WITHIN / 2, by_surprise=True)
    assert not [*sums.one_sided()]


def test_a_node_that_starts_in_the_moment_of_a_look_is_not_seen_yet() -> None:
    event = [{"at": 6, "do": "start", "nodes": [number]} for number in (2, 3)]
    for seed in range(3):
        assert not rehearse(parse({"name": "x", "nodes": 2, "rounds": 3, "event": event}), seed).wrong


def test_growth_that_could_not_be_looked_at_is_wrong() -> None:
    late = {"name": "x", "nodes": 2, "hours": 0.1, "expect": {"steady": 1.0}}
    assert rehearse(parse(late), 0).wrong == ("it ended before growth could be looked at",)


def test_the_command_shows_what_became_of_it_and_fails_when_something_is_wrong(tmp_path: Path) -> None:
    text = 'name = "small"\nnodes = 2\nrounds = 3\n'
    (good := tmp_path / "good.toml").write_text(text + "[expect]\nsettled = 2\n")
    (bad := tmp_path / "bad.toml").write_text(text + "[expect]\nsettled = 3\n")
    runner = CliRunner()
    found = runner.invoke(command, [str(good), "--json", "--trace", str(tmp_path / "trace")])
    assert found.exit_code == 0
    [outcome] = json.loads(found.stdout.splitlines()[-1])["outcomes"]
    assert (outcome["wrong"], outcome["ends"]) == ([], {"0": "finished", "1": "finished"})
    assert sum(outcome["counts"].values()) == len((tmp_path / "trace").read_text().splitlines())
    found = runner.invoke(command, [str(bad), "--seed", "1", "--seed", "2"])
    assert found.exit_code == 1
    assert found.stdout.count("2 nodes settled, 3 were expected") == 2
    for wrong in (["none.toml"], [str(good), "--trace", str(tmp_path)]):
        found = runner.invoke(command, wrong)
        assert isinstance(found.exception, UserError)
        assert str(found.exception).startswith("cannot ")


def test_calm_is_the_same_swarm_to_which_nothing_happens(tmp_path: Path) -> None:
    text = 'name = "small"\nnodes = 3\nrounds = 9\n'
    (path := tmp_path / "killed.toml").write_text(
        text + '[[event]]\nat = 20\ndo = "kill"\nnodes = [1]\n[expect]\nsettled = 3\n'
    )
    runner = CliRunner()
    assert runner.invoke(command, [str(path)]).exit_code == 1
    assert runner.invoke(command, [str(path), "--calm"]).exit_code == 0
