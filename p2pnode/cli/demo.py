"""`p2pnode demo`: the main job, on this machine, in a few seconds.

Some nodes in processes of their own, each with an uneven share of real data, find each other through
the DHT on loopback, train, gossip and settle. Then each is compared with what it would have become
alone, and with a model that was trained on all data in one place.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import processes

if TYPE_CHECKING:
    from p2pnode.config import Config
    from p2pnode.identity.manifest import Manifest
    from p2pnode.observe.stream import Stamped

UNEVEN = 0.3
"""Dirichlet's alpha: a node sees few of the classes."""


@click.command()
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(1, 32), help="How many.")
@click.option("--task", default="digits", show_default=True, help="What is learned: digits, breast-cancer.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of data split and training."
)
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each node.  [default: the task's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def demo(nodes: int, task: str, seed: int, rounds: int | None, as_json: bool) -> None:
    """Start NODES nodes on this machine and show what they gain from each other."""
    processes.single_threaded()
    from p2pnode.cli.report import Watch
    from p2pnode.cli.session import Shard, rows_of
    from p2pnode.learning import registry
    from p2pnode.observe.console import terminal
    from p2pnode.observe.live import LiveView

    manifest = make_manifest(task, seed, rounds)
    shards = [Shard(index, nodes, UNEVEN) for index in range(nodes)]
    rows_of(shards[0])(
        manifest, registry.TASKS[task].build(**manifest.task.options)
    )  # refuses too many nodes
    names = [f"node {index + 1}" for index in range(nodes)]
    watch, console = Watch(names), terminal()
    with tempfile.TemporaryDirectory(prefix="p2pnode-demo-") as folder, processes.reserved_port() as port:
        arguments = dict(zip(names, plan(Path(folder), manifest, shards, port), strict=True))
        with LiveView(console) as view, processes.started(run_child, arguments) as fleet:
            for name, stamped in fleet.events():
                view.update(name, stamped)
                watch(name, stamped)
            codes = fleet.exit_codes()
    if any(codes.values()):
        raise SystemExit(f"p2pnode: {', '.join(name for name, code in codes.items() if code)} failed")
    report = watch.report(manifest, shards)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        console.print(report.table())


def make_manifest(task: str, seed: int, rounds: int | None) -> "Manifest":
    """The swarm of a task's defaults."""
    from p2pnode.identity.manifest import VERSION, Admission, Bounds, Manifest, RuleSpec, TaskSpec, Training
    from p2pnode.learning import registry

    chosen = registry.defaults(task)
    return Manifest(
        version=VERSION,
        name=f"{task} demo",
        task=TaskSpec(task, chosen["task_options"]),
        rule=RuleSpec(chosen["rule"], chosen["codec"], chosen["rule_options"]),
        training=Training(
            seed=seed,
            optimizer=chosen["optimizer"],
            learning_rate=chosen["learning_rate"],
            batch_size=chosen["batch_size"],
            steps=chosen["steps"],
            rounds=rounds or chosen["rounds"],
            overlap=chosen["overlap"],
        ),
        admission=Admission(),
        bounds=Bounds(parameters=2**20, peers=64),
    )


def plan(folder: Path, manifest: "Manifest", shards: Sequence[Any], port: int) -> list[tuple[Any, ...]]:
    """What each child is told. All but the first know the first one's address, and nothing else."""
    from p2pnode.config import Config, Start
    from p2pnode.identity.keys import create_key

    folders = [folder / f"node-{shard.index + 1}" for shard in shards]
    folders[0].mkdir(mode=0o700)
    first = f"/ip4/127.0.0.1/tcp/{port}"
    entry = f"{first}/p2p/{create_key(folders[0] / 'identity.key').peer}"
    start = Start(peers=len(shards) - 1)
    configs = [
        Config(listen=(first,), mdns=False, start=start),
        *(
            Config(listen=("/ip4/127.0.0.1/tcp/0",), peers=(entry,), mdns=False, start=start)
            for _ in folders[1:]
        ),
    ]
    return [
        (path, manifest, config, shard) for path, config, shard in zip(folders, configs, shards, strict=True)
    ]


def run_child(
    tell: "Callable[[Stamped], None]", folder: Path, manifest: "Manifest", config: "Config", shard: Any
) -> None:
    """One node of the demo."""
    import trio

    from p2pnode.cli.session import rows_of, take_part
    from p2pnode.node import Invitation
    from p2pnode.storage.directory import DataDirectory

    with DataDirectory.open(folder) as directory:
        invitation = Invitation(manifest.swarm_id, manifest)
        trio.run(take_part, directory, invitation, rows_of(shard), config, (tell,))
