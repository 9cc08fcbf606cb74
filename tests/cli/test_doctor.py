"""`p2pnode doctor`: what it finds, what it advises, and that it fails when a node would."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli import checks, reach
from p2pnode.cli.checks import Finding, Plan, Verdict
from p2pnode.cli.main import main
from p2pnode.identity.keys import Key
from tests.cli.run import LOOPBACK, Program

PLAN = Plan(None, [LOOPBACK], [], Path("data"))
PEER = Key(bytes(32)).peer
GB = 1e9


def one(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (checks.judge_memory(2 * GB, GB), Verdict.OK, "2.0 GB free"),
        (checks.judge_memory(GB, 2 * GB), Verdict.FAIL, "a node needs about 2.0 GB"),
        (checks.judge_files(1024), Verdict.OK, "1024 at once"),
        (checks.judge_files(100), Verdict.WARN, "100 at once"),
        (checks.judge_clock(1.9e9, 0.0), Verdict.OK, "2030-03-17"),
        (checks.judge_clock(0.0, 0.0), Verdict.FAIL, "this machine's clock says 1970-01-01"),
        (checks.judge_clock(1.9e9, -3.0), Verdict.WARN, "jumped by -3.00 s"),
        (checks.judge_disk(2 * GB, Path("d")), Verdict.OK, "2.0 GB free for d"),
        (checks.judge_disk(0.5 * GB, Path("d")), Verdict.WARN, "0.5 GB free"),
        (checks.judge_disk(0.0, Path("d")), Verdict.FAIL, "0.0 GB free"),
        (reach.judge_addresses(["/ip4/8.8.8.8/tcp/1"]), Verdict.OK, "/ip4/8.8.8.8/tcp/1"),
        (reach.judge_addresses(["/ip4/10.0.0.1/tcp/1", LOOPBACK]), Verdict.OK, "if the router forwards"),
        (reach.judge_addresses([LOOPBACK]), Verdict.WARN, "only this machine can dial it"),
        (reach.judge_peer("/ip4/10.0.0.1/tcp/1", 0.01), Verdict.OK, "answers in 10.0 ms"),
        (reach.judge_peer("/ip4/10.0.0.1/tcp/1", 1.0), Verdict.WARN, "answers in 1000.0 ms"),
    ],
)
def test_what_a_number_means(finding: Finding, verdict: Verdict, words: str) -> None:
    assert finding.verdict == verdict
    assert words in finding.found
    assert bool(finding.advice) == (verdict != Verdict.OK)


def test_this_machine_can_run_the_tests(tmp_path: Path) -> None:
    findings = [found for check in checks.MACHINE for found in check(Plan(None, [], [], tmp_path / "new"))]
    assert [found for found in findings if found.verdict == Verdict.FAIL] == []
    assert [found.check for found in findings] == [
        "python", "packages", "compute", "memory", "open files", "clock", "disk",
    ]  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_too_few_open_files_are_found() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (63, 63));"
        "from p2pnode.cli.checks import *; print(*[found.verdict for found in files(None)])"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[2])
    assert said == "fail\n"


def test_a_place_that_cannot_be_written_is_found() -> None:
    found = one(checks.disk(Plan(None, [], [], Path("/proc/p2pnode"))))  # where root cannot write either
    assert found.verdict == Verdict.FAIL
    assert found.found.startswith("cannot write in /proc: ")
    assert "--data-dir" in found.advice


def test_a_device_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr("jax.devices", none)
    found = one(checks.compute(PLAN))
    assert (found.verdict, found.check) == (Verdict.FAIL, "compute")
    assert found.found.startswith("JAX finds no device for JAX_PLATFORMS=cpu")
    assert "install what it needs" in found.advice


def test_another_libp2p_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LIBP2P", "0.0.1")
    found = one(checks.packages(PLAN))
    assert (found.verdict, found.advice[:20]) == (Verdict.FAIL, "install libp2p 0.0.1")


def test_the_libp2p_that_is_wanted_is_the_one_that_is_required() -> None:
    root = Path(__file__).parents[2]
    assert f'"libp2p=={checks.LIBP2P}"' in (root / "pyproject.toml").read_text()


def test_a_taken_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        found = one(reach.listening(Plan(None, [address], [], Path())))
    assert (found.verdict, found.advice) == (Verdict.FAIL, "choose another --listen")
    assert "the port is taken" in found.found


def test_a_free_port_is_left_free() -> None:
    assert one(reach.listening(PLAN)).found.startswith("/ip4/127.0.0.1/tcp/")


def test_dns_is_asked_for_names_only() -> None:
    def looked_up(address: str) -> list[Finding]:
        return list(reach.names(Plan(None, [], [address], Path())))

    assert looked_up(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}") == []
    assert [one.verdict for one in looked_up(f"/dns/localhost/tcp/1/p2p/{PEER}")] == [Verdict.OK]
    (unknown,) = looked_up(f"/dns/nobody.invalid/tcp/1/p2p/{PEER}")  # never anybody's, RFC 6761
    assert unknown.verdict == Verdict.FAIL
    assert unknown.found.startswith("nobody.invalid: ")


def test_a_peer_that_is_not_there_is_found() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}"
        found = one(reach.peers(Plan(None, [], [f"{place}/p2p/{PEER}"], Path())))
    assert found.verdict == Verdict.FAIL
    assert found.found.startswith(f"{place} does not answer")
    assert "see that it runs" in found.advice


def test_without_an_address_nobody_is_pinged() -> None:
    assert one(reach.peers(PLAN)).verdict == Verdict.WARN


def test_a_network_without_multicast_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from p2pnode.net import mdns

    def refused(**_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(mdns, "Zeroconf", refused)
    found = one(reach.multicast(PLAN))
    assert (found.verdict, found.found) == (Verdict.WARN, "no such device")
    assert "--peer" in found.advice


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr("sys.argv", ["p2pnode", "doctor", *map(str, words)])
    with pytest.raises(SystemExit) as exited:
        main()
    return exited.value.code


def fixed(*findings: Finding) -> tuple[Callable[[Plan], list[Finding]], ...]:
    return tuple(lambda _plan, finding=finding: [finding] for finding in findings)


@pytest.mark.parametrize("verdict", Verdict)
def test_the_exit_code_says_whether_something_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: Verdict
) -> None:
    monkeypatch.setattr("p2pnode.cli.doctor.CHECKS", fixed(Finding("disk", verdict, "x", "do this")))
    assert run(monkeypatch, "--json") == int(verdict == Verdict.FAIL)
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "ok": verdict != Verdict.FAIL,
        "findings": [{"check": "disk", "verdict": str(verdict), "found": "x", "advice": "do this"}],
    }
    run(monkeypatch)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{verdict} disk x", "-> do this"]


@pytest.mark.slow
def test_a_bootstrap_node_is_reached_in_its_time(start: Callable[..., Program]) -> None:
    node = start("bootstrap", "--listen", LOOPBACK, "--data-dir", "data")
    node.wait_for(lambda: node.output.endswith("\n"))
    address = node.output.splitlines()[0]
    doctor = start("doctor", "--peer", address, "--json", "--listen", LOOPBACK)
    assert doctor.code() == 0, doctor.errors
    found = {each["check"]: each for each in json.loads(doctor.output)["findings"]}
    assert found["peer"]["verdict"] == "ok"
    assert found["peer"]["found"].startswith(f"{address.partition('/p2p/')[0]} answers in ")
    wrong = address.replace(address.rpartition("/")[2], PEER)
    doctor = start("doctor", "--peer", wrong, "--listen", LOOPBACK)
    assert doctor.code() == 1
    assert "answers there, not" in " ".join(doctor.output.split())
    assert not doctor.errors
