"""`p2pnode bootstrap`: an entry point to the DHT, and nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli.options import dialable

if TYPE_CHECKING:
    from p2pnode.storage.directory import DataDirectory


@click.command()
@click.option(
    "--listen",
    multiple=True,
    default=["/ip4/0.0.0.0/tcp/4001"],
    show_default=True,
    help="Multiaddr. Repeatable.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    callback=dialable,
    help="Full address of another bootstrap node. Repeatable.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where it keeps its key.  [default: by system]"
)
@click.option("-v", "--verbose", count=True, help="Say more; twice: the libraries too.")
def bootstrap(listen: tuple[str, ...], peers: tuple[str, ...], data_dir: Path | None, verbose: int) -> None:
    """Help nodes of any swarm to find each other, until interrupted. Prints its addresses first."""
    import trio

    from p2pnode.observe.console import logging_to, terminal
    from p2pnode.storage.directory import DataDirectory, default_data_dir

    folder = data_dir or default_data_dir("bootstrap")
    with logging_to(terminal(), verbose), DataDirectory.open(folder) as directory:
        trio.run(serve, directory, listen, peers)


async def serve(directory: "DataDirectory", listen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Answer DHT questions until a signal comes."""
    from random import Random

    import trio

    from p2pnode.cli.session import obey_signals
    from p2pnode.identity.keys import load_or_create_key
    from p2pnode.net.dht import DhtDiscovery
    from p2pnode.net.host import open_network

    async with open_network(load_or_create_key(directory.key), listen) as network:
        for address in network.addresses:
            click.echo(f"{address}/p2p/{network.me}")
        async with trio.open_nursery() as nursery:
            await nursery.start(obey_signals, nursery.cancel_scope.cancel)
            await DhtDiscovery(network, lambda: known, Random()).run("", lambda peer: None)
