"""Many peers without a model, in one process: `python -m p2pnode.bench.peers COUNT ADDRESS [SWARM]`.

Each has a key and a network of its own and takes part in the DHT, which it enters at ADDRESS, as a
bootstrap node does. With a SWARM it is a member as well: it greets the others every few seconds.
Writes a line when all are connected.
"""

import sys
from collections.abc import Sequence
from functools import partial
from random import Random

import trio

from p2pnode.bench.launch import LOOPBACK
from p2pnode.config import Config
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import View
from p2pnode.identity.keys import Key
from p2pnode.net.dht import DhtDiscovery
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.ports import PeerAddress


async def run(count: int, address: str, swarm: str) -> None:
    """Be all of them until this process is killed."""
    async with trio.open_nursery() as nursery:
        for index in range(count):
            await nursery.start(partial(_be, index, address, swarm))
        sys.stdout.write("connected\n")
        sys.stdout.flush()


async def _be(index: int, address: str, swarm: str, *, task_status: trio.TaskStatus[None]) -> None:
    key, random = Key.generate(), Random(index)
    async with open_network(key, [LOOPBACK.format(0)]) as network, trio.open_nursery() as nursery:
        entry = await network.connect(address)
        nursery.start_soon(DhtDiscovery(network, lambda: [address], random).run, "", lambda _peer: None)
        if swarm:
            membership = _membership(key, network, swarm, random)
            await nursery.start(membership.run)
            membership.found(PeerAddress(entry, (address.partition("/p2p/")[0],)))
            while entry not in membership.view:
                await membership.changed.wait()
        task_status.started()


def _membership(key: Key, network: Libp2pNetwork, swarm: str, random: Random) -> Membership:
    return Membership(
        network=network,
        key=key,
        swarm=bytes.fromhex(swarm),
        incarnation=1,
        view=View(64),
        publish=lambda _event: None,
        random=random,
        interval=Config.hello,
        deadlines=Deadlines(),
    )


def main(words: Sequence[str]) -> None:
    """Read the command line."""
    count, address, swarm = (*words, "")[:3]
    trio.run(run, int(count), address, swarm)


if __name__ == "__main__":
    main(sys.argv[1:])
