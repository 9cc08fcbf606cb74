"""`p2pnode demo`: the main job, on this machine, in a few seconds.

Some nodes in processes of their own, each with an uneven share of real data, find each other through
the DHT on loopback, train, gossip and settle. Then each is compared with what it would have become
alone, and with a model that was trained on all data in one place.
"""

import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.identity.manifest import Manifest
    from p2pnode.learning.own import Own

UNEVEN = 0.3
"""Dirichlet's alpha: a node sees few of the classes."""


@click.command()
@click.option(
    "--nodes", metavar="NODES", default=4, show_default=True, type=click.IntRange(1, 32), help="How many."
)
@options.own_task(
    f"What is learned: {options.TASKS}; or a task of your own in a file: mymodel.py:task.",
    default="digits",
    show_default=True,
)
@options.seed("Of data split and training.")
@click.option(
    "--rounds", metavar="ROUNDS", type=click.IntRange(1), help="Rounds of each node.  [default: the task's]"
)
@options.as_json("Print one JSON object at the end.")
def demo(nodes: int, task: str, yes: bool, seed: int, rounds: int | None, as_json: bool) -> None:
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

    own = own_of(task, yes)
    manifest = make_manifest(own or task, seed, rounds)
    shards = [Shard(index, nodes, UNEVEN) for index in range(nodes)]
    made = own.task if own else registry.TASKS[task].build(**manifest.task.options)
    rows = rows_of(shards[0])(manifest, made)  # refuses too many nodes
    if own:
        learner = registry.build(manifest, own)
        if "accuracy" not in learner.evaluate(learner.init(0), rows.probes["test"]):
            raise UserError(f"{task}: the demo compares accuracies: let metrics return an `accuracy` too")
    watch = Watch(nodes)
    # A person's code may have started threads by now, and then nodes need a process without any.
    with unwinding(), nullcontext() if own else forked() as server:
        cluster = LocalCluster(manifest, data=shards, task=own)
        cluster.subscribe(watch)
        with cluster.sync(server=server) as running:
            codes = running.wait_end()
    watch.end(codes)
    report = compare(watch, manifest, shards, own)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        terminal().print(report.table())


def own_of(task: str, yes: bool) -> "Own | None":
    """The task in a person's own file, tried out; None for one that ships.

    Raises:
        UserError: nobody agreed to run it, or no swarm can train it.
    """
    from p2pnode.cli.own import agreed, tried
    from p2pnode.learning.own import is_file

    if not is_file(task):
        return None
    return tried(task, agreed(task, None, None, yes))


def make_manifest(task: "str | Own", seed: int, rounds: int | None) -> "Manifest":
    """The swarm of a task's defaults."""
    from p2pnode.cli import manifest

    name = task if isinstance(task, str) else task.task.name
    return manifest.make_manifest(f"{name} demo", task, {"seed": seed, "rounds": rounds})
