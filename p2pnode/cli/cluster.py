"""`p2pnode cluster`: a swarm on this machine."""

import json
from pathlib import Path

import click

from p2pnode.cli import options
from p2pnode.cli.own import agreed


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "--nodes",
    metavar="NODES",
    type=click.IntRange(1),
    help="How many.  [default: 4, or one for each --data]",
)
@options.uneven("Deal labels unevenly")
@options.path(
    "--data",
    multiple=True,
    about="A node's rows, once for each node, instead of shares of the task's own data.  [default: none]",
)
@options.own_task(
    "Where the swarm's task is in a file, e.g. mymodel.py:task.  [default: none, for tasks that are built in]"
)
@options.path(
    "--folder",
    metavar="DIRECTORY",
    about="Keep the nodes' files here, and go on from them.  [default: a temporary folder]",
)
@options.as_json("Print one JSON object at the end.")
def cluster(
    manifest: Path,
    nodes: int | None,
    uneven: float | None,
    data: tuple[Path, ...],
    task: str | None,
    yes: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Run a whole swarm on this machine: the nodes of MANIFEST, a process each, until all have settled."""
    from p2pnode.cli.unwind import unwinding
    from p2pnode.cli.watch import Watch
    from p2pnode.cluster import LocalCluster
    from p2pnode.identity.manifest import load_manifest

    agreement = load_manifest(manifest)
    own = None if task is None else agreed(task, agreement, None, yes)
    swarm = LocalCluster(agreement, nodes, data or None, uneven, folder, task=own)
    watch = Watch(len(swarm))
    swarm.subscribe(watch)
    with unwinding(), swarm.sync() as running:
        codes = running.wait_end()
    watch.end(codes)
    if as_json:
        click.echo(json.dumps(watch.to_json()))
