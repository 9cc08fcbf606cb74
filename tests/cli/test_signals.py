"""Being told to end: in good order at whatever stage, in whatever way, and at once when told twice.

The first test ends three nodes of a swarm at one stage, each in another way. With `pytest -s` a table
comes in the end: what they exited with, how long that took, and how long anybody else was held.
"""

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from p2pnode.cli.demo import make_manifest
from p2pnode.cluster.wiring import entry, reserved_port
from p2pnode.events import ExchangeCompleted, NodeReady, RoundFinished, Settled, Stopped
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.identity.keys import load_key
from p2pnode.identity.manifest import Bounds, TaskSpec, load_manifest, write_manifest
from p2pnode.observe.control import ask
from tests.cli.run import LOOPBACK, PATIENCE, Program, wait_until

Start = Callable[..., Program]

pytestmark = pytest.mark.slow

ENDLESS = 1_000_000

LARGE = 40_000
"""Hidden units: exchanges and checkpoints then take long enough for nodes to be caught in them."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

WAYS: Mapping[str, tuple[str, Callable[[Program], object]]] = {
    "stop": ("command", lambda node: ask(node.data, "stop")),  # as `p2pnode stop` does
    "SIGINT": ("signal", lambda node: node.send(signal.SIGINT)),
    "SIGTERM": ("signal", lambda node: node.send(signal.SIGTERM)),
}
"""How nodes are ended: the reason that they say, and what is done."""


@dataclass(frozen=True)
class Stage:
    """Where nodes are caught.

    Attributes:
        caught: whether a node is there.
        rounds: of the swarm.
        hidden: units of its model.
        words: for `join`.
        partner: whether a fourth node takes part, which is not ended.
        together: whether all nodes come there at once; else they are ended one after the other.
    """

    caught: Callable[[Program], bool]
    rounds: int = ENDLESS
    hidden: int = 32
    words: Sequence[object] = ("--wait-peers", 3)
    partner: bool = True
    together: bool = False


def builds(node: Program) -> bool:
    """What comes next takes a second."""
    return (node.data / "manifest.toml").exists()


def looks_around(node: Program) -> bool:
    return bool(node.events(NodeReady)) and ask(node.data, "status")["stage"] == "training"


def trains(node: Program) -> bool:
    return len(node.events(RoundFinished)) >= 3


def sends(node: Program) -> bool:
    """Whether much is sent, and no exchange ends, in one moment. An exchange takes some twenty of them."""
    before = ask(node.data, "status")
    time.sleep(0.01)
    now = ask(node.data, "status")
    sent: int = now["bytes_sent"] - before["bytes_sent"]
    return sent > 1 << 16 and now["exchanges"] == before["exchanges"]


def exchanges(node: Program) -> bool:
    return trains(node) and sends(node)


def settles(node: Program) -> bool:
    """All its rounds are done, so what it sends is for settling; or that is done, and it waits for others."""
    done = len(node.events(RoundFinished)) == 3
    return done and (sends(node) or ask(node.data, "status")["stage"] == "settled")


def saves(node: Program) -> bool:
    return trains(node) and any((node.data / "checkpoints").glob(".*.tmp"))


STAGES = {
    "start": Stage(builds, words=(), partner=False, together=True),
    "discovery": Stage(looks_around, words=("--wait-peers", 9, "--wait", 1000), partner=False, together=True),
    "training": Stage(trains),
    "exchange": Stage(exchanges, hidden=LARGE),
    "settle": Stage(settles, rounds=3, hidden=LARGE, together=True),
    "checkpoint": Stage(saves, hidden=LARGE, words=("--wait-peers", 3, "--save-every", 0)),
}


@dataclass
class End:
    """How a node was ended. Times are in seconds since the Unix epoch."""

    node: Program
    way: str
    told: float
    ended: float = 0.0
    files: int = 0

    @property
    def exchanges(self) -> int:
        """How many it still finished: the one under way."""
        return sum(when > self.told for when, _ in self.node.events(ExchangeCompleted))


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """What is added to it is printed in the end."""
    heading = "stage       way      exit code  seconds  files whole  exchanges finished  others held at most"
    lines = [heading]
    yield lines
    print("", *lines, sep="\n")  # noqa: T201 - what the table is for


def create(tmp_path: Path, rounds: int = ENDLESS, hidden: int = 32) -> Path:
    """A swarm's manifest."""
    file, usual = tmp_path / "s.toml", make_manifest("digits", 0, rounds)
    task = TaskSpec("digits", {"hidden": hidden})
    training = replace(usual.training, steps=1 if hidden == LARGE else 200)
    write_manifest(file, replace(usual, task=task, training=training, bounds=Bounds(2**24, 64)))
    return file


def start_swarm(start: Start, tmp_path: Path, stage: Stage) -> list[Program]:
    """Three nodes, and the one that they find each other through where there is a partner."""
    file = create(tmp_path, stage.rounds, stage.hidden)
    with reserved_port() as port:
        listen = f"/ip4/127.0.0.1/tcp/{port}"
        (tmp_path / "partner").mkdir()
        known = entry(tmp_path / "partner" / "data", listen)
        nodes = [
            join(start, file, "--peer", known, *stage.words, shard=f"{part}/4", name=way)
            for part, way in enumerate(WAYS, 1)
        ]
        if stage.partner:
            nodes.append(join(start, file, *stage.words, shard="4/4", listen=listen, name="partner"))
            nodes[-1].wait_ready()  # its port is its own from now on
    return nodes


def tell(batch: Mapping[str, Program], stage: Stage) -> list[End]:
    """Catch each at the stage, and end it in its way."""
    ends, deadline = dict[str, End](), time.monotonic() + PATIENCE
    while ends.keys() != batch.keys():
        for way, node in batch.items():
            assert way in ends or node.popen.poll() is None, node.errors
            if way not in ends and stage.caught(node):
                ends[way] = End(node, way, time.time())
                WAYS[way][1](node)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return [ends[way] for way in batch]


def wait(end: End) -> None:
    """Until it has ended as it should."""
    assert end.node.code() == 0, end.node.errors
    end.ended = time.time()
    assert "Traceback" not in end.node.errors
    [(_, stopped)] = end.node.events(Stopped)
    # Who was told just after it had settled, and while it waited for the others, may be through by itself.
    assert stopped.reason in {WAYS[end.way][0], "finished" if end.node.events(Settled) else ""}
    end.files = check_files(end.node)


def check_files(node: Program) -> int:
    """Nothing half-written is left, and everything can be read; how many files there are."""
    files = [path for path in node.data.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not [path for path in files if path.name.endswith(".tmp")]
    assert load_key(node.data / "identity.key").peer
    assert load_manifest(node.data / "manifest.toml").swarm_id
    log = (node.data / "events.jsonl").read_bytes()
    assert log.endswith(b"\n")
    assert all(map(json.loads, log.splitlines()))
    if (peers := node.data / "peers.json").exists():
        json.loads(peers.read_bytes())
    for path in (node.data / "checkpoints").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
    return len(files)


def progress(node: Program) -> list[float]:
    """When it came further."""
    return [time for kind in (RoundFinished, Settled, Stopped) for time, _ in node.events(kind)]


def held(node: Program, told: float) -> float:
    """The longest that it came no further since another was told to end.

    That is one deadline at most, and the rounds before and after.
    """
    times = progress(node)
    longest = max(b - a for a, b in pairwise([told, *(time for time in times if time > told)]))
    usual = median(b - a for a, b in pairwise(time for time, _ in node.events(RoundFinished)))
    size = max(event.payload_bytes for _, event in node.events(ExchangeCompleted))
    assert longest <= Deadlines().first(2 * size) + 2 * usual
    return longest


def go_on(node: Program, since: float) -> None:
    """Wait until it has come further twice, or to its end."""
    wait_until(
        lambda: sum(time > since for time in progress(node)) >= 2 or node.popen.poll() is not None, node
    )


@pytest.mark.parametrize("name", STAGES)
def test_a_node_ends_in_good_order_at_every_stage(
    start: Start, tmp_path: Path, table: list[str], name: str
) -> None:
    stage, finished = STAGES[name], 0
    left = start_swarm(start, tmp_path, stage)
    ways = dict(zip(WAYS, left, strict=False))  # the partner, if there is one, is the last
    for batch in [ways] if stage.together else [{way: node} for way, node in ways.items()]:
        ends = tell(batch, stage)
        for end in ends:
            wait(end)
            left.remove(end.node)
        for node in left:
            go_on(node, ends[-1].ended)
        for end in ends:
            table.append(row(name, end, left))
            finished += end.exchanges
    if stage.caught in (exchanges, settles):
        assert finished, "nobody was caught in an exchange"
    if name == "settle":
        assert left[0].code() == 0
        assert left[0].events(Settled)


def row(name: str, end: End, left: Sequence[Program]) -> str:
    """What the table says of one end, and of those who were left."""
    longest = f"{max(held(node, end.told) for node in left):18.1f} s" if left else f"{'-':>20}"
    return (
        f"{name:11} {end.way:7} {end.node.code():10} {end.ended - end.told:8.1f} {end.files:12} "
        f"{end.exchanges:19} {longest}"
    )


def join(
    start: Start, swarm: Path, *words: object, shard: str = "1/2", listen: str = LOOPBACK, name: str = ""
) -> Program:
    """A member that knows nobody but whom `words` tell it of."""
    own = ("--data-dir", "data", "--listen", listen, "--no-mdns", "--shard", shard)
    return start("join", swarm, *own, *words, name=name)


def test_a_node_that_waits_for_others_to_finish_ends_in_good_order(start: Start, tmp_path: Path) -> None:
    file = create(tmp_path, rounds=3)
    other = join(start, file, "--wait-peers", 2, "--wait", 1000)  # never begins
    node = join(start, file, "--peer", other.address)
    node.wait_for(lambda: trains(node))
    node.send(signal.SIGTERM)
    assert node.code() == 0, node.errors
    assert [event.reason for _, event in node.events(Stopped)] == ["signal"]
    assert check_files(node)


def test_a_second_signal_ends_a_node_at_once(start: Start, tmp_path: Path) -> None:
    node = join(start, create(tmp_path), "--wait", 0)
    node.wait_for(lambda: node.events(RoundFinished))
    node.send(signal.SIGTERM)
    node.send(signal.SIGINT)  # another one: two of a kind in one moment are one to the kernel
    assert node.code() in (-signal.SIGINT, -signal.SIGTERM)
    assert "Traceback" not in node.errors


def test_a_bootstrap_node_ends_when_told_to(start: Start) -> None:
    nodes = {number: start("bootstrap", "--listen", LOOPBACK, "--data-dir", "data") for number in SIGNALS}
    for number, node in nodes.items():
        node.wait_for(lambda node=node: node.output.endswith("\n"))  # type: ignore[misc]
        node.send(number)
    for node in nodes.values():
        assert node.code() == 0
        assert not node.errors


def test_before_there_is_a_node_a_signal_ends_the_process_in_good_order(start: Start, tmp_path: Path) -> None:
    file = create(tmp_path)
    nodes = {number: join(start, file) for number in SIGNALS}
    for number, node in nodes.items():
        node.wait_for(node.data.exists)
        node.send(number)
    for node in nodes.values():
        assert node.code() == 0
        assert "Traceback" not in node.errors
        key = node.data / "identity.key"
        # Whole, or not there; what was begun beside it goes at the next start.
        assert not key.exists() or load_key(key).peer
