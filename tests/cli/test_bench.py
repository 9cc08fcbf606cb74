"""`p2pnode bench stream`: every byte arrives, the report has its shape, and no process stays."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.bench.pair import Both
from p2pnode.bench.stream import ONE_WAY, STREAMS, TRIP, plan, summary
from p2pnode.bench.transfer import Outcome
from p2pnode.bench.usage import Usage
from tests.cli.run import Program

SIZE = 4_000_000
NODES = ("ours", "stock")
CEILINGS = ("bulk", "bulk-sealed", "sealed", "cipher", "socket", "copy")


def ends() -> list[str]:
    """Command lines of the processes that measure."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return [line for line in lines if "p2pnode.bench.end" in line and str(SIZE) in line]


@pytest.mark.slow
def test_every_byte_arrives_on_every_path_and_no_process_stays(start: Callable[..., Program]) -> None:
    bench = start("bench", "stream", "--megabytes", 4, "--turns", 1, "--stock", "--json")
    assert bench.code() == 0, bench.errors
    assert ends() == []
    report = json.loads(bench.output.splitlines()[-1])
    assert (report["megabytes"], report["turns"]) == (4, 1)
    arrived = {(row["path"], row["case"]): row["bytes"] for row in report["transfers"]}
    assert arrived == {
        **{(path, "one way"): SIZE for path in (*NODES, *CEILINGS)},
        **{(path, "both ways"): 2 * SIZE for path in NODES},
        **{(path, "64 streams"): SIZE for path in NODES},
    }
    for row in report["transfers"]:
        for name in ("rate", "sending", "receiving"):
            assert 0 <= row[name]["least"] <= row[name]["median"] <= row[name]["most"]
        assert len(row["memory"]) == 2
    assert [row["path"] for row in report["trips"]] == ["ours", "stock", "socket"]
    assert all(0 < row["middle"]["median"] <= row["slow"]["median"] for row in report["trips"])
    for name in ("of_ceiling", "direct_of_ceiling", "cpu_to_stock", "both_ways_to_stock", "seconds_to_stock"):
        assert report[name]["median"] > 0
    assert "turn 1 of 1: p2pnode, one way" in bench.errors


def test_ratios_are_taken_within_a_turn() -> None:
    def both(seconds: float) -> Both:
        usage = Usage(seconds, cpu=seconds, memory=0)
        return Both(Outcome(usage, trips=[1e-3, 2e-3, 3e-3]), Outcome(usage, received=SIZE))

    slow_and_quick = {key: [both(2.0), both(4.0), both(8.0)] for key in plan(SIZE, stock=True)}
    slow_and_quick["sealed", ONE_WAY] = [both(1.0), both(1.0), both(4.0)]
    report = summary(slow_and_quick)
    assert (report.of_ceiling.least, report.of_ceiling.median, report.of_ceiling.most) == (0.25, 0.5, 0.5)
    assert report.cpu_to_stock is not None
    assert report.cpu_to_stock.median == 1
    assert report.trips[0].middle.median == pytest.approx(2000)


def test_without_the_librarys_own_nothing_is_compared_with_it() -> None:
    jobs = plan(SIZE, stock=False)
    assert {path for path, _ in jobs} == {"ours", *CEILINGS}
    assert jobs["ours", "64 streams"].share == SIZE // STREAMS
    assert [path for path, case in jobs if case == TRIP] == ["ours", "socket"]
