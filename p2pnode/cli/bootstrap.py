"""`p2pnode bootstrap`: an entry point to the DHT, and nothing else."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import options
from p2pnode.cli.groups import speaking
from p2pnode.machine import allow_files, end_at_once, importing

if TYPE_CHECKING:
    from p2pnode.observe.console import Voice
    from p2pnode.observe.control_server import Command
    from p2pnode.ports import Network
    from p2pnode.storage.directory import DataDirectory


@click.command()
@options.addresses(
    "--listen", default=["/ip4/0.0.0.0/tcp/4001"], show_default=True, about="Multiaddr. Repeatable."
)
@options.addresses(
    "--peer",
    "peers",
    callback=options.dialable,
    about="Full address of another bootstrap node. Repeatable.  [default: none]",
)
@options.data_dir("Where it keeps its key.  [default: by system]")
@speaking
def bootstrap(listen: tuple[str, ...], peers: tuple[str, ...], data_dir: Path | None, voice: "Voice") -> None:
    """Help nodes of any swarm to find each other, until interrupted. Prints its addresses first."""
    end_at_once()
    allow_files()  # before the imports, which open some
    import trio

    from p2pnode.storage.directory import DataDirectory, default_data_dir

    folder = data_dir or default_data_dir("bootstrap")
    with voice.logging(), DataDirectory.open(folder) as directory:
        trio.run(serve, directory, listen, peers)


async def serve(directory: "DataDirectory", listen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Answer DHT questions until a signal or a command ends it."""
    with importing():
        from random import Random

        import trio

        from p2pnode.identity.keys import load_or_create_key
        from p2pnode.net.dht import DhtDiscovery
        from p2pnode.net.host import open_network
        from p2pnode.observe.control_server import serve_control
        from p2pnode.signals import obey_signals

    finished = trio.Event()
    async with open_network(load_or_create_key(directory.key), listen) as network:
        for address in network.addresses:
            click.echo(f"{address}/p2p/{network.me}")
        async with trio.open_nursery() as nursery:
            await nursery.start(obey_signals, finished.set)
            async with serve_control(directory.path, _commands(network, finished.set), events=None):
                nursery.start_soon(DhtDiscovery(network, lambda: known, Random()).run, "", lambda peer: None)
                await finished.wait()
            nursery.cancel_scope.cancel()


def _commands(network: "Network", finish: Callable[[], None]) -> "dict[str, Command]":
    """What it can be asked for over its control socket."""
    began = time.monotonic()

    async def status() -> dict[str, Any]:
        traffic = network.traffic
        return {
            "peer": network.me,
            "addresses": network.addresses,
            "pid": os.getpid(),
            "uptime": time.monotonic() - began,
            "stage": "bootstrap",
            "bytes_sent": traffic.sent,
            "bytes_received": traffic.received,
        }

    async def stop() -> dict[str, Any]:
        finish()
        return {"pid": os.getpid()}

    return {"status": status, "stop": stop}
