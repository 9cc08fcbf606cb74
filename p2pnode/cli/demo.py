"""`p2pnode demo`: the main job, on this machine, in a few seconds.

Some nodes in processes of their own, each with an uneven share of real data, find each other through
the DHT on loopback, train, gossip and settle. Then each is compared with what it would have become
alone, and with a model that was trained on all data in one place.
"""

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from p2pnode.identity.manifest import Manifest

UNEVEN = 0.3
"""Dirichlet's alpha: a node sees few of the classes."""


@click.command()
@click.option(
    "--nodes", metavar="NODES", default=4, show_default=True, type=click.IntRange(1, 32), help="How many."
)
@click.option(
    "--task",
    metavar="TASK",
    default="digits",
    show_default=True,
    help="What is learned: digits, breast-cancer.",
)
@click.option(
    "--seed",
    metavar="NUMBER",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Of data split and training.",
)
@click.option(
    "--rounds", metavar="ROUNDS", type=click.IntRange(1), help="Rounds of each node.  [default: the task's]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def demo(nodes: int, task: str, seed: int, rounds: int | None, as_json: bool) -> None:
    """Start NODES nodes on this machine and show what they gain from each other."""
    from p2pnode import forkserver

    os.environ.update(forkserver.environment(os.environ))  # before anything else is imported
    from p2pnode.cli.report import compare
    from p2pnode.cli.unwind import unwinding
    from p2pnode.cli.watch import Watch
    from p2pnode.cluster import LocalCluster
    from p2pnode.cluster.launcher import forked
    from p2pnode.learning import registry
    from p2pnode.learning.data import Shard
    from p2pnode.observe.console import terminal
    from p2pnode.session import rows_of

    manifest = make_manifest(task, seed, rounds)
    shards = [Shard(index, nodes, UNEVEN) for index in range(nodes)]
    build = registry.TASKS[task].build
    rows_of(shards[0])(manifest, build(**manifest.task.options))  # refuses too many nodes
    watch = Watch(nodes)
    with unwinding(), forked() as server:
        cluster = LocalCluster(manifest, data=shards, server=server)
        cluster.subscribe(watch)
        with cluster.sync() as running:
            codes = running.wait_end()
    watch.end(codes)
    report = compare(watch, manifest, shards)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        terminal().print(report.table())


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
