"""What is found out of what nodes said, and what is held against them."""

import math
from pathlib import Path

import pytest

from p2pnode.chaos.diary import Diary, Done, Note
from p2pnode.chaos.run import State
from p2pnode.chaos.schedule import Fault
from p2pnode.chaos.usage import Usage, bound
from p2pnode.chaos.verdict import damaged, excess, grown, late, tracebacks, unsettled
from p2pnode.events import Event, ExchangeCompleted, ExchangeUnsettled, RoundFinished
from p2pnode.ports import PeerId

PEERS = [PeerId(name) for name in "abc"]
ROUND = RoundFinished(1, 2, 5, 0.5, {}, 1, 1.0, 0, 0)
USAGE = Usage(200 << 20, 20, 30, 5)


def averaged(node: int) -> Event:
    return ExchangeCompleted(PEERS[node], "x", initiator=True, payload_bytes=1, seconds=0.1)


def diary(kind: str, nodes: tuple[int, ...], *said: tuple[float, int, Event]) -> Diary:
    """A fault from second 10 to second 20, and what nodes said then."""
    done = Done(Fault(10, 20, kind, nodes), 10.0, 20.0)
    return Diary([Note(*one) for one in said], [done], {peer: node for node, peer in enumerate(PEERS)})


def test_a_node_is_back_when_it_has_finished_a_round_and_averaged() -> None:
    book = diary("kill", (0,), (19, 0, ROUND), (19, 0, averaged(1)), (22, 0, averaged(1)), (24, 0, ROUND))
    assert book.back(book.done[0]) == 4.0
    assert not list(late(book))


@pytest.mark.parametrize(
    "said", [[(22.0, 0, ROUND)], [(22.0, 0, averaged(1))], [(22.0, 1, ROUND), (22.0, 1, averaged(0))], []]
)
def test_neither_alone_is_enough_nor_what_another_node_did(said: list[tuple[float, int, Event]]) -> None:
    book = diary("kill", (0,), *said)
    assert book.back(book.done[0]) is None
    assert list(late(book)) == ["kill of node 1 at 10 s was over, and after 60 s they had not averaged again"]


def test_the_sides_of_a_cut_are_one_again_when_one_averaged_with_the_other() -> None:
    rounds = [(21.0, 0, ROUND), (21.0, 1, ROUND)]
    book = diary(
        "partition", (0, 1), *rounds, (22, 0, averaged(1)), (22, 1, averaged(0)), (23, 0, averaged(2))
    )
    assert book.back(book.done[0]) is None
    book.notes.append(Note(30, 1, averaged(2)))
    assert book.back(book.done[0]) == 10.0


def test_after_a_restart_of_all_any_partner_will_do() -> None:
    said = [(21.0 + node, node, event) for node in range(3) for event in (ROUND, averaged((node + 1) % 3))]
    book = diary("swarm", (0, 1, 2), *said)
    assert book.back(book.done[0]) == 3.0


def test_the_others_are_held_up_for_as_long_as_one_of_them_has_no_exchange() -> None:
    said = [(float(second), node, averaged(1)) for second in range(50) for node in range(3)]
    missing = {(second, 2) for second in range(8, 13)}  # from second 7 to second 13
    book = diary("kill", (0,), *(one for one in said if one[:2] not in missing and one[1] != 0))
    assert book.held_up(book.done[0]) == 6.0
    book.done.append(Done(Fault(30, 31, "freeze", (2,)), 30.0, 31.0))
    assert book.held_up(book.done[0]) == 1.0  # of node 2 nobody can say what held it up
    book = diary("swarm", (0, 1, 2), *said)
    assert book.held_up(book.done[0]) is None


def test_who_never_averages_again_was_held_up_to_the_end() -> None:
    book = diary("kill", (0,), (5, 1, averaged(2)), (12, 2, ROUND), (45, 2, averaged(1)))
    assert book.held_up(book.done[0]) == 65.0  # node 2, of which nothing is known before second -20


def test_coming_back_too_late_is_late() -> None:
    book = diary("kill", (0,), (85, 0, ROUND), (85, 0, averaged(1)))
    [line] = late(book)
    assert line == "kill of node 1 at 10 s was over, and they needed 65 s to average again, not 60 s"


def test_a_node_that_had_the_next_fault_meanwhile_is_not_late() -> None:
    book = diary("kill", (0,))
    book.done.append(Done(Fault(30, 35, "freeze", (0,)), 30.0, 35.0))
    [line] = late(book)
    assert line.startswith("freeze of node 1 at 30 s")


def test_the_next_fault_of_one_node_excuses_no_other() -> None:
    said = [(21.0, node, event) for node in (0, 1) for event in (ROUND, averaged(1 - node))]
    book = diary("swarm", (0, 1, 2), *said)
    book.done.append(Done(Fault(30, 31, "freeze", (0,)), 30.0, 31.0))
    book.notes += [Note(32, 0, ROUND), Note(32, 0, averaged(1))]
    [line] = late(book)
    assert line == "swarm of node 1, 2, 3 at 10 s was over, and after 120 s they had not averaged again"


def test_what_came_after_the_next_fault_is_held_against_that_one_only() -> None:
    book = diary("kill", (0,), (95, 0, ROUND), (95, 0, averaged(1)))
    book.done.append(Done(Fault(25, 90, "freeze", (0,)), 25.0, 90.0))
    assert not list(late(book))
    assert [book.back(done) for done in book.done] == [None, 5.0]


@pytest.mark.parametrize(
    ("kind", "node", "when", "lines"),
    [
        ("kill", 0, 12.0, 0),  # its own end
        ("kill", 1, 12.0, 0),  # that of its partner
        ("freeze", 0, 49.0, 0),
        ("freeze", 0, 51.0, 1),
        ("freeze", 0, 9.0, 1),
        ("disk", 0, 12.0, 1),
        ("kill", 2, 12.0, 1),  # neither had it
    ],
)
def test_only_some_faults_explain_an_exchange_whose_outcome_is_not_known(
    kind: str, node: int, when: float, lines: int
) -> None:
    partner = PEERS[1 if node == 2 else 1 - node]
    assert len(list(unsettled(diary(kind, (0,), (when, node, ExchangeUnsettled(partner, "x")))))) == lines


def test_a_fault_that_is_not_over_explains_what_happens_now() -> None:
    book = diary("kill", (0,), (500, 0, ExchangeUnsettled(PEERS[1], "x")))
    book.done[0].ended = math.inf
    assert not list(unsettled(book))


def test_a_traceback_is_named_by_its_error() -> None:
    text = (
        'warned\nTraceback (most recent call last):\n  File "a.py", line 1, in b\nKeyError: 3\nwarned again\n'
    )
    assert list(tracebacks(text)) == ["a traceback on stderr: KeyError: 3"]
    assert not list(tracebacks("warned\n"))


def test_growth_within_bounds_is_nothing_and_past_them_a_line() -> None:
    limit = bound([USAGE, Usage(100 << 20, 25, 20, 5)])
    assert not list(excess(Usage(230 << 20, 29, 35, 9), limit))
    lines = list(excess(Usage(500 << 20, 30, 30, 5), limit))
    assert [line.split()[1] for line in lines] == ["memory,", "descriptors,"]


def test_accuracy_may_be_a_little_less() -> None:
    assert not list(grown(State(0.95, []), State(0.94, [])))
    assert list(grown(State(0.95, []), State(0.80, []))) == ["accuracy fell from 0.950 to 0.800"]


def test_what_is_not_whole_in_a_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"round-00000003-{'0' * 16}.safetensors").write_bytes(b"?")
    (tmp_path / ".peers.json.x.tmp").touch()
    (tmp_path / "events.jsonl").write_text("{}\n")
    lines = list(damaged(tmp_path))
    assert len(lines) == 3
    assert all(line.startswith(f"{tmp_path.name}: ") for line in lines)
