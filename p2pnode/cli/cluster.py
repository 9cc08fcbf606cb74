"""`p2pnode cluster`: a swarm on this machine."""

import json
from pathlib import Path

import click

from p2pnode.cli.join import MOST_UNEVEN
from p2pnode.cli.options import at_least


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "--nodes",
    metavar="NODES",
    type=click.IntRange(1),
    help="How many.  [default: 4, or one for each --data]",
)
@click.option(
    "--uneven",
    metavar="ALPHA",
    type=float,
    callback=at_least(MOST_UNEVEN),
    help="Deal labels unevenly; 0.3 is very, 100 hardly.  [default: evenly]",
)
@click.option(
    "--data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A node's rows, once for each node, instead of shares of the task's own data.  [default: none]",
)
@click.option(
    "--folder",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Keep the nodes' files here, and go on from them.  [default: a temporary folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def cluster(
    manifest: Path,
    nodes: int | None,
    uneven: float | None,
    data: tuple[Path, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Run a whole swarm on this machine: the nodes of MANIFEST, a process each, until all have settled."""
    from p2pnode.cli.unwind import unwinding
    from p2pnode.cli.watch import Watch
    from p2pnode.cluster import LocalCluster

    swarm = LocalCluster(manifest, nodes, data or None, uneven, folder)
    watch = Watch(len(swarm))
    swarm.subscribe(watch)
    with unwinding(), swarm.sync() as running:
        codes = running.wait_end()
    watch.end(codes)
    if as_json:
        click.echo(json.dumps(watch.to_json()))
