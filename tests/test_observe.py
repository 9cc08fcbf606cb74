"""What is shown is what happened: one stream of events, as JSON, as lines, as a table."""

import io
import json
import logging
import math
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from p2pnode import events
from p2pnode.observe.console import Voice, describe, terminal
from p2pnode.observe.journal import Journal, read_journal
from p2pnode.observe.live import LiveView, Row, summary, table
from p2pnode.observe.stream import EVENTS, EventStream, Stamped, from_json, to_json
from p2pnode.ports import PeerId

PEER = PeerId("12D3KooWGRUcmZTjLdMwzsyRUbgyUJxvvHXz4ALVJvFCS6yM93nT")
ROUND = events.RoundFinished(
    round=12,
    rounds=60,
    steps=120,
    loss=0.3149,
    metrics={"test_accuracy": 0.9412},
    peers=3,
    seconds=0.5,
    bytes_sent=1_200_000,
    bytes_received=0,
)


def every_event() -> st.SearchStrategy[events.Event]:
    return st.one_of([st.from_type(kind) for kind in EVENTS.values()])


def example(kind: type[events.Event], text: str = "tcp") -> events.Event:
    """An event of `kind` with plain values, `text` for each text."""
    values: dict[Any, Any] = {
        str: text,
        PeerId: PEER,
        int: 3,
        float: 0.5,
        bool: True,
        tuple[str, ...]: (text,),
        dict[str, float]: {text: 0.5},
    }
    return kind(**{field.name: values[field.type] for field in fields(kind)})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# The stream


def test_everybody_gets_every_event_once_stamped_and_in_order() -> None:
    clock = Clock()
    stream = EventStream(clock)
    seen: list[tuple[str, Stamped]] = []
    for name in "ab":
        stream.subscribe(lambda stamped, name=name: seen.append((name, stamped)))  # type: ignore[misc]
    clock.now = 7.0
    stream.publish(ROUND)
    assert seen == [("a", Stamped(7.0, ROUND)), ("b", Stamped(7.0, ROUND))]


def test_whoever_left_hears_nothing_more_and_may_leave_while_listening() -> None:
    stream = EventStream(Clock())
    seen: list[str] = []

    def once(stamped: Stamped) -> None:
        seen.append("once")
        leave()

    leave = stream.subscribe(once)
    stream.subscribe(lambda stamped: seen.append("always"))
    stream.publish(ROUND)
    stream.publish(ROUND)
    assert seen == ["once", "always", "always"]


def test_a_bug_in_a_subscriber_is_heard_of() -> None:
    stream = EventStream(Clock())
    stream.subscribe(lambda stamped: setattr(stamped, "time", 0.0))
    with pytest.raises(AttributeError):
        stream.publish(ROUND)


async def test_waiting_for_a_kind_of_event_returns_the_first_of_it() -> None:
    stream = EventStream(Clock())
    found: list[events.Event] = []

    async def wait() -> None:
        found.append(await stream.wait_for(events.Stopped))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for event in (ROUND, events.Stopped("signal", 10, 20), events.Stopped("finished", 10, 20)):
            stream.publish(event)
    assert found == [events.Stopped("signal", 10, 20)]


async def test_waiting_for_a_condition_returns_the_first_event_that_meets_it() -> None:
    stream = EventStream(Clock())
    found: list[events.Event] = []

    async def wait() -> None:
        found.append(await stream.wait_for(lambda event: event == events.Stopped("finished", 10, 20)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for event in (ROUND, events.Stopped("signal", 10, 20), events.Stopped("finished", 10, 20)):
            stream.publish(event)
    assert found == [events.Stopped("finished", 10, 20)]


async def test_whoever_gives_up_waiting_is_forgotten() -> None:
    stream = EventStream(Clock())
    with trio.move_on_after(0):
        await stream.wait_for(events.Stopped)
    assert stream._subscribers == []


# JSON


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_every_kind_of_event_comes_back_from_json(kind: type[events.Event]) -> None:
    stamped = Stamped(1.5, example(kind))
    assert from_json(json.loads(json.dumps(to_json(stamped), allow_nan=False))) == stamped


@given(event=every_event(), time=st.floats(0, 1e12))
def test_any_event_comes_back_from_strict_json(event: events.Event, time: float) -> None:
    written = json.dumps(to_json(Stamped(time, event)), allow_nan=False)
    assert repr(from_json(json.loads(written))) == repr(Stamped(time, event))


def test_a_round_is_readable_json() -> None:
    assert to_json(Stamped(1.5, events.Stopped("signal", 10, 20))) == {
        "time": 1.5,
        "event": "Stopped",
        "reason": "signal",
        "bytes_sent": 10,
        "bytes_received": 20,
    }


def test_no_event_has_a_field_that_its_json_uses_itself() -> None:
    assert not {field.name for kind in EVENTS.values() for field in fields(kind)} & {"time", "event"}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"time": 1.0, "event": "Exploded"},
        {"time": 1.0, "event": []},
        {"event": "Stopped", "reason": "signal"},
        {"time": "noon", "event": "Stopped", "reason": "signal"},
        {"time": 1.0, "event": "Stopped"},
        {"time": 1.0, "event": "Stopped", "reason": "signal", "more": 1},
        {"time": 1.0, "event": "Stopped", "reason": 5},
        {"time": 1.0, "event": "PeerAlive", "peer": "a", "round": 1.0},
        {"time": 1.0, "event": "PeerAlive", "peer": "a", "round": True},
        {"time": 1.0, "event": "NodeReady", "peer": "a", "addresses": "b", "swarm": "c", "round": 1},
        {"time": 1.0, "event": "Settled", "members": 1, "counted": 1, "spread": "big", "metrics": {}},
    ],
    ids=range(14),
)
def test_json_that_is_no_event_of_ours_is_refused(content: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any words will do
        from_json(content)


# The journal


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process may grow beyond `room` bytes: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def numbered(number: int) -> Stamped:
    return Stamped(float(number), events.PeerAlive(PEER, number))


def read(path: Path) -> list[Stamped]:
    return list(read_journal(path, pytest.fail))


def test_a_journal_gives_back_what_it_took_over_several_runs(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for start in (0, 5):
        with Journal(path) as journal:
            for number in range(start, start + 5):
                journal(numbered(number))
    assert read(path) == [numbered(number) for number in range(10)]


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "events.jsonl") == []


def test_a_journal_keeps_the_last_events_within_its_size(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path, max_bytes=1000, files=3) as journal:
        for number in range(100):
            journal(numbered(number))
    kept = read(path)
    assert kept == [numbered(number) for number in range(100 - len(kept), 100)]
    assert len(kept) > 15
    assert {file.name for file in tmp_path.iterdir()} == {"events.jsonl", "events.jsonl.1", "events.jsonl.2"}
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())


def test_an_event_is_in_the_file_as_soon_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal(numbered(1))
        assert read(path) == [numbered(1)]


def test_half_a_line_of_a_killed_process_costs_only_that_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal(numbered(1))
        journal(numbered(2))
    whole = path.read_bytes()
    for size in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:size])
        assert read(path) == [numbered(1)]
        with Journal(path) as journal:
            journal(numbered(3))
        assert read(path) == [numbered(1), numbered(3)]


def test_a_line_that_is_no_event_is_reported_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal(numbered(1))
    path.write_bytes(b"{\n[]\n" + b"[" * 100_000 + b"\n\xff\n" + path.read_bytes())
    lines: list[str] = []
    assert list(read_journal(path, lines.append)) == [numbered(1)]
    assert [line.split()[0] for line in lines] == [f"{path}:{number}" for number in (1, 2, 3, 4)]


def test_a_full_disk_costs_events_not_the_node_and_is_said_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal(numbered(0))
        with full_disk(room=path.stat().st_size + 20):
            for second in range(1, 131):
                journal(numbered(second))
        journal(numbered(200))
    assert read(path) == [numbered(0), numbered(200)]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


def test_a_journal_without_a_folder_does_not_stop_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(tmp_path / "gone" / "events.jsonl") as journal:
        journal(numbered(0))
    assert "No such file" in caplog.text


# The console


def recording(**settings: Any) -> Console:
    return Console(file=io.StringIO(), highlight=False, soft_wrap=True, **settings)


def shown(console: Console) -> list[str]:
    """The lines on the console, without their clock."""
    assert isinstance(console.file, io.StringIO)
    return [line.split("  ", 1)[1] for line in console.file.getvalue().splitlines()]


def test_a_round_is_one_short_line() -> None:
    assert describe(ROUND) == "round 12/60  loss 0.315  test 0.941  3 peers  1.2 MB sent"


def test_what_is_unknown_of_a_round_is_left_out() -> None:
    event = events.RoundFinished(1, 2, 0, math.nan, {}, 1, 0.0, 0, 0)
    assert describe(event) == "round 1/2  1 peer  0 bytes sent"


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_every_kind_of_event_has_words_and_short_peer_ids(kind: type[events.Event]) -> None:
    line = describe(example(kind))
    assert kind.__name__ not in line
    assert PEER not in line


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_what_peers_wrote_cannot_break_the_line_or_drive_the_terminal(kind: type[events.Event]) -> None:
    console = recording()
    Voice(console, verbose=1).printer()(Stamped(0.0, example(kind, text="a\nb\r\x1b[2J[red]" + "x" * 1000)))
    (line,) = shown(console)
    assert line.isprintable()
    assert len(line) <= 400


@pytest.mark.parametrize(
    ("verbose", "quiet", "expected"),
    [
        (0, False, {"RoundFinished", "PeerFaulted"}),
        (1, False, {"RoundFinished", "PeerFaulted", "ExchangeCompleted"}),
        (0, True, {"PeerFaulted"}),
    ],
)
def test_who_asks_for_more_sees_more(verbose: int, quiet: bool, expected: set[str]) -> None:
    for name in ("RoundFinished", "PeerFaulted", "ExchangeCompleted"):
        console = recording()
        Voice(console, verbose, quiet).printer()(Stamped(0.0, example(EVENTS[name])))
        assert bool(shown(console)) == (name in expected)


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    fault = Stamped(0.0, example(events.PeerFaulted))
    monkeypatch.setenv("TERM", "xterm-256color")
    consoles = [recording(force_terminal=yes) for yes in (True, False)]
    monkeypatch.setenv("NO_COLOR", "1")
    consoles.append(recording(force_terminal=True))
    for console in consoles:
        Voice(console).printer()(fault)
    assert ["\x1b[33m" in console.file.getvalue() for console in consoles] == [True, False, False]  # type: ignore[attr-defined]


def test_nothing_is_printed_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Voice(terminal()).printer()(Stamped(0.0, ROUND))
    out, err = capsys.readouterr()
    assert out == ""
    assert "round 12/60" in err


@contextmanager
def cut_off() -> Iterator[logging.Logger]:
    """A library's logger that does not reach the root logger, as libp2p's does not."""
    logger = logging.getLogger("aloof")
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.propagate = True


def log_everywhere(aloof: logging.Logger) -> None:
    logging.getLogger("p2pnode.journal").warning("ours %d", 1)
    for logger in (logging.getLogger("library.part"), aloof):
        logger.warning("theirs\nin two lines")
        logger.info("detail")


def test_libraries_are_not_heard_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    console = recording()
    with cut_off() as aloof, Voice(console).logging():
        log_everywhere(aloof)
    assert shown(console) == ["ours 1"]
    assert capsys.readouterr().err == ""


def test_who_asks_hears_the_warnings_of_libraries_a_line_each() -> None:
    console = recording()
    with cut_off() as aloof, Voice(console, verbose=1).logging():
        log_everywhere(aloof)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", stacklevel=1)
    lines = shown(console)
    assert lines[:3] == ["ours 1", "library.part: theirs in two lines", "aloof: theirs in two lines"]
    assert lines[3].startswith("py.warnings: ")
    assert len(lines) == 4


def test_an_error_logged_with_its_exception_stays_one_line() -> None:
    console = recording()
    with Voice(console, verbose=1).logging():
        logging.getLogger("library").error("failed", exc_info=OSError("first\nsecond"))
    assert shown(console) == ["library: failed (OSError: first second)"]


def test_a_record_whose_arguments_do_not_fit_is_shown_as_it_is() -> None:
    console = recording()
    with cut_off() as aloof, Voice(console, verbose=1).logging():
        aloof.warning("%d peers", "many")
    assert shown(console) == ["aloof: %d peers"]


def test_logging_is_afterwards_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        root = logging.getLogger()
        own = logging.getLogger("p2pnode")
        return root.level, list(root.handlers), own.level, logging.lastResort, warnings.showwarning

    before = state()
    with Voice(recording(), verbose=3).logging():
        assert state() != before
    assert state() == before


def test_whoever_is_no_person_reads_json() -> None:
    console = recording()
    voice = Voice(console, as_json=True)
    fault = example(events.PeerFaulted, text="two\nlines \x1b[2J")
    with voice.logging():
        voice.printer()(Stamped(1.5, fault))
        voice.printer()(Stamped(1.5, example(events.ExchangeCompleted)))
        logging.getLogger("p2pnode.journal").warning("ours %d\nand more", 1)
    assert isinstance(console.file, io.StringIO)
    event, record = map(json.loads, console.file.getvalue().splitlines())
    assert from_json(event) == Stamped(1.5, fault)
    assert record.pop("time") > 0
    assert record == {"level": "warning", "logger": "p2pnode.journal", "message": "ours 1\nand more"}


# The live view


def fold(*happened: events.Event) -> Row:
    row = Row()
    for event in happened:
        row = row.update(Stamped(0.0, event))
    return row


READY = events.NodeReady(PEER, ("/ip4/192.0.2.1/tcp/1",), "ab" * 32, 0)
EXCHANGE = events.ExchangeCompleted(PEER, "1-2", initiator=True, payload_bytes=10, seconds=0.1)


def finished(number: int, steps: int, **metrics: float) -> events.RoundFinished:
    return events.RoundFinished(number, 60, steps, 0.3, metrics, 3, 0.5, 1_200_000, 0)


def test_a_row_tells_the_last_round() -> None:
    row = fold(READY, EXCHANGE, finished(1, 10), EXCHANGE, finished(2, 30, test_accuracy=0.9))
    assert row == Row(2, 60, 30, 0.9, 3, 2, 1_200_000, 40.0, "training")


def test_a_row_prefers_the_test_set_and_keeps_the_last_accuracy() -> None:
    assert fold(finished(1, 10, holdout_accuracy=0.5)).accuracy == 0.5
    assert fold(finished(1, 10, holdout_accuracy=0.5, test_accuracy=0.6), finished(2, 20)).accuracy == 0.6


def test_a_row_counts_peers_between_rounds() -> None:
    alive, lost = events.PeerAlive(PEER, 0), events.PeerLost(PEER, "silent")
    assert fold(lost, alive, alive).peers == 2
    assert fold(finished(1, 10), lost).peers == 2


def test_the_steps_before_a_restart_are_not_speed() -> None:
    restored = events.Restored(5, "checkpoint")
    ready = events.NodeReady(PEER, (), "ab", 5)
    row = fold(restored, ready, finished(6, 6000))
    assert row.speed is None
    assert row.update(Stamped(0.0, finished(7, 6010))).speed == 20.0


def test_a_row_tells_how_it_ended() -> None:
    settled = events.Settled(members=4, counted=3, spread=0.0, metrics={"test_accuracy": 0.97})
    row = fold(READY, finished(60, 600, test_accuracy=0.9))
    assert row.state == "settling"
    row = row.update(Stamped(0.0, settled))
    assert (row.state, row.accuracy) == ("settled 3/4", 0.97)
    assert row.update(Stamped(0.0, events.Stopped("finished", 10, 20))).state == "finished"


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_any_event_may_come_first(kind: type[events.Event]) -> None:
    table({"node": fold(example(kind))})
    summary([fold(example(kind))])


def test_the_table_has_a_row_for_each_node() -> None:
    console = Console(file=io.StringIO(), record=True, width=100)
    rows = {"alice": fold(READY, EXCHANGE, finished(30, 10, test_accuracy=0.9)), "bob": Row()}
    console.print(table(rows))
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        "node   round                        accuracy  peers  exchanges     sent  steps/s  state",
        "alice  30/60  ━━━━━━━━━━               0.900      3          1   1.2 MB       20  training",
        "bob      0/?                               -      0          0  0 bytes        -  starting",
    ]


def test_a_terminal_shows_the_table_and_keeps_its_last_state() -> None:
    console = recording(force_terminal=True, width=100)
    with LiveView(console) as view:
        view.update("alice", Stamped(0.0, READY))
        view.update("alice", Stamped(0.0, events.Stopped("finished", 10, 20)))
    assert isinstance(console.file, io.StringIO)
    assert "finished" in console.file.getvalue().splitlines()[-2]


def test_without_a_terminal_a_line_comes_every_few_seconds_and_at_the_end() -> None:
    console = recording()
    with LiveView(console) as view:
        for second in range(11):
            view.update("alice", Stamped(float(second), finished(second, 0, test_accuracy=0.9)))
            view.update("bob", Stamped(float(second), finished(second + 1, 0, test_accuracy=0.8)))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "round 0/60",
        "round 5/60",
        "round 10/60",
        "round 10-11/60",
    ]
    assert lines[-1] == "2 nodes  round 10-11/60  accuracy 0.800-0.900  0 exchanges  2.4 MB sent"
