"""How late the event loop runs while a node trains and exchanges a large model.

Two processes, each with a real node's parts: libp2p on the loopback, a trainer with its worker thread,
membership, the exchanger. Both train all the time; in some phases one of them also offers one exchange
after another. A heartbeat on that one's loop sleeps for a millisecond at a time and notes how much
longer it took. Phases with and without exchanges take turns, so that what else the machine does falls
on both alike.

It holds when, after the warm-up, the heartbeat's p99 is below 20 ms and its worst delay below five
times that of training alone, while training steps go on.
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from random import Random

import click
import numpy as np
import trio

from p2pnode.config import Deadlines
from p2pnode.config import Membership as Timing
from p2pnode.errors import PeerFault
from p2pnode.events import Event
from p2pnode.gossip import exchange
from p2pnode.gossip.exchange import Exchanger, Result
from p2pnode.gossip.membership import Membership, Standing
from p2pnode.gossip.view import Stage, View
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
from p2pnode.learning import registry
from p2pnode.net.host import open_network
from p2pnode.ports import Network, PeerAddress, PeerId
from p2pnode.trainer import Trainer, Worker

HIDDEN = 133_333  # units: a model of 10 million parameters, 40 MB as float32
BEAT = 0.001  # seconds that the heartbeat sleeps
P99_MS = 20.0  # the bound on the heartbeat's p99
WORST_RATIO = 5.0  # and on its worst delay, against that of training alone
KINDS = ("training", "training + exchanges")


@dataclass(frozen=True)
class Phase:
    """What one phase measured; delays in ms, `mb_s` in MB/s each way, `cpu` in CPU-seconds a second."""

    kind: str
    p50: float
    p99: float
    worst: float
    steps_s: float
    exchanges: int
    mb_s: float
    cpu: float


@dataclass(frozen=True)
class Parts:
    """One node's parts."""

    network: Network
    trainer: Trainer
    membership: Membership
    exchanger: Exchanger


def manifest(codec: str) -> Manifest:
    """A swarm of which every node may train as far ahead of an exchange as it likes."""
    training = Training(
        seed=0, optimizer="sgd", learning_rate=0.01, batch_size=4, steps=1, rounds=1, overlap=2**16
    )
    return Manifest(
        version=1,
        name="overlap",
        task=TaskSpec("digits", {"hidden": HIDDEN}),
        rule=RuleSpec("average", codec, {}),
        training=training,
        admission=Admission(),
        bounds=Bounds(parameters=2**24, peers=4),
    )


@asynccontextmanager
async def node(index: int, codec: str) -> AsyncIterator[Parts]:
    """A node that trains until the block ends, wired as `p2pnode/node.py` wires it."""
    key, made, compute = Key(bytes([index]) * 32), manifest(codec), Worker()

    def build() -> Trainer:
        learner = registry.build(made)
        return Trainer(learner, learner.task.load()[0], {}, compute, index, made.training.overlap)

    trainer = await compute(build)
    await trainer.warm_up()
    async with open_network(key, ["/ip4/127.0.0.1/tcp/0"]) as network, trio.open_nursery() as nursery:
        membership = Membership(
            network=network,
            key=key,
            swarm=bytes.fromhex(made.swarm_id),
            incarnation=index,
            view=View(made.bounds.peers),
            publish=ignore,
            random=Random(index),
            timing=Timing(),
            deadlines=Deadlines(),
            manifest=made,
            standing=Standing(stage=Stage.TRAINING, layout=trainer.layout),
        )
        exchanger = Exchanger(
            network=network,
            model=trainer,
            incarnation=index,
            member=membership.view.get,
            publish=ignore,
            fault=blame,
            deadlines=Deadlines(),
        )
        network.serve(exchange.PROTOCOL, exchanger.serve)
        await nursery.start(membership.run)
        nursery.start_soon(train, trainer)
        yield Parts(network, trainer, membership, exchanger)
        nursery.cancel_scope.cancel()


def ignore(event: Event) -> None:
    """Nobody reads the events here."""


def blame(peer: PeerId, fault: PeerFault) -> None:
    """Neither end should find fault with the other."""
    click.echo(f"{peer}: {fault}", err=True)


async def train(trainer: Trainer) -> None:
    """Take one step after another."""
    while True:
        await trainer.steps(1)


async def serve(codec: str) -> None:
    """Be the other process: say where, and answer until stdin is closed."""
    async with node(2, codec) as parts:
        click.echo(f"{parts.network.addresses[0]}/p2p/{parts.network.me}")
        await trio.lowlevel.wait_readable(sys.stdin)


@contextmanager
def other_process(codec: str) -> Iterator[str]:
    """The address of a node in a process of its own."""
    command = [sys.executable, __file__, "--codec", codec, "--other"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603  # itself
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def measure(address: str, codec: str, phases: int, seconds: float, warm_up: float) -> list[Phase]:
    """Let phases of both kinds take turns, after `warm_up` seconds of exchanges that do not count."""
    async with node(1, codec) as parts:
        partner = await meet(parts, address)
        await run_phase(parts, partner, KINDS[1], warm_up)
        return [await run_phase(parts, partner, kind, seconds) for _ in range(phases) for kind in KINDS]


async def meet(parts: Parts, address: str) -> PeerId:
    """Become members of each other's view."""
    peer = await parts.network.connect(address)
    parts.membership.found(PeerAddress(peer, (address.rpartition("/p2p/")[0],)))
    with trio.fail_after(10):
        while peer not in parts.membership.view:
            await parts.membership.changed.wait()
    return peer


async def run_phase(parts: Parts, partner: PeerId, kind: str, seconds: float) -> Phase:
    """Measure for `seconds`, or until the exchange under way then has ended."""
    delays: list[float] = []
    gc.collect()
    steps, done = parts.trainer.taken, parts.exchanger.completed
    started, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, delays)
        if kind == KINDS[0]:
            await trio.sleep(seconds)
        else:
            await exchange_until(parts, partner, started + seconds)
        nursery.cancel_scope.cancel()
    took = time.perf_counter() - started
    exchanges = parts.exchanger.completed - done
    p50, p99, worst = np.percentile(np.array(delays) * 1e3, [50, 99, 100])
    return Phase(
        kind=kind,
        p50=float(p50),
        p99=float(p99),
        worst=float(worst),
        steps_s=(parts.trainer.taken - steps) / took,
        exchanges=exchanges,
        mb_s=exchanges * sum(parts.trainer.payload) / took / 1e6,
        cpu=(time.process_time() - cpu) / took,
    )


async def beat(delays: list[float]) -> None:
    """Note how much later than asked the loop comes back, in seconds."""
    while True:
        before = time.perf_counter()
        await trio.sleep(BEAT)
        delays.append(time.perf_counter() - before - BEAT)


async def exchange_until(parts: Parts, partner: PeerId, end: float) -> None:
    """Have one exchange after another."""
    while time.perf_counter() < end:
        member = parts.membership.view.get(partner)
        assert member is not None, "the other process has left"
        result = await parts.exchanger.offer(member)
        assert result in (Result.COMPLETED, Result.DECLINED), result
        if result is Result.DECLINED:  # it is still about to apply the last one
            await trio.sleep(exchange.AGAIN)


def medians(phases: list[Phase], kind: str) -> dict[str, float]:
    """Of each figure, over the phases of one kind."""
    rows = [{k: v for k, v in asdict(phase).items() if k != "kind"} for phase in phases if phase.kind == kind]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def table(phases: list[Phase]) -> Iterator[str]:
    """The report's lines."""
    header = ("p50 ms", "p99 ms", "worst ms", "steps/s", "exchanges", "MB/s", "CPU")
    yield f"{'':28}" + "".join(f"{name:>10}" for name in header)
    rows = [(phase.kind, list(asdict(phase).values())[1:]) for phase in phases]
    rows += [(f"median: {kind}", list(medians(phases, kind).values())) for kind in KINDS]
    for kind, numbers in rows:
        yield f"{kind:28}" + "".join(f"{number:10.2f}" for number in numbers)


@click.command(help=__doc__)
@click.option("--codec", type=click.Choice(["float32", "bfloat16", "int8"]), default="float32")
@click.option("--phases", default=5, show_default=True, help="Phases of each kind.")
@click.option("--seconds", default=4.0, show_default=True, help="Length of a phase.")
@click.option("--warm-up", default=4.0, show_default=True, help="Seconds of exchanges before the first.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
@click.option("--other", is_flag=True, hidden=True)
def main(codec: str, phases: int, seconds: float, warm_up: float, as_json: bool, other: bool) -> None:
    """Measure, report, and exit with 1 when a bound does not hold."""
    if other:
        trio.run(serve, codec)
        return
    with other_process(codec) as address:
        measured = trio.run(measure, address, codec, phases, seconds, warm_up)
    alone, both = (medians(measured, kind) for kind in KINDS)
    ratio = both["worst"] / alone["worst"]
    holds = both["p99"] < P99_MS and ratio < WORST_RATIO and both["steps_s"] > 0 and both["exchanges"] > 0
    for line in table(measured):
        click.echo(line, err=True)
    click.echo(f"worst with exchanges / without: {ratio:.2f}; holds: {holds}", err=True)
    if as_json:
        everything = [asdict(phase) for phase in measured]
        click.echo(json.dumps({"codec": codec, "holds": holds, "worst_ratio": ratio, "phases": everything}))
    sys.exit(not holds)


if __name__ == "__main__":
    main()
