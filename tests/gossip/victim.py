"""An end in a process of its own, to be killed or frozen: `python -m tests.gossip.victim ADDRESS OFFERS`.

It sends slowly, so that there is time for that, and its snapshots are just large enough for a direct
connection. It joins the node at ADDRESS, writes a line, and then offers exchanges or waits for offers.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import click
import trio

from p2pnode.gossip.deadlines import Deadlines
from p2pnode.identity.manifest import TaskSpec
from p2pnode.learning import registry
from p2pnode.net.host import open_network
from p2pnode.trainer import Trainer, Worker
from tests.gossip.ends import INCARNATION, key, make_end, manifest, member, rows
from tests.net.libp2p_peers import LOOPBACK

BANDWIDTH = 4e6
HIDDEN = 13_400
INDEX = 1
PATIENCE, RATE = 4.0, 1e7  # of its deadlines, and of theirs who watch it die


async def trainers(count: int) -> Sequence[Trainer]:
    """Whose snapshots have 4,020,040 bytes."""
    learner = registry.build(replace(manifest(), task=TaskSpec("digits", {"hidden": HIDDEN})))
    made = [Trainer(learner, rows(index), {}, Worker(), Worker(), index, 0) for index in range(count)]
    for trainer in made:
        await trainer.warm_up()
    return made


async def main(address: str, offers: bool) -> None:
    """Be there until killed."""
    async with open_network(key(INDEX), [LOOPBACK], bandwidth=BANDWIDTH) as network:
        end = await make_end(
            network, INDEX, trainers=await trainers(INDEX + 1), deadlines=Deadlines(PATIENCE, RATE)
        )
        partner = member(await network.connect(address), INCARNATION)
        end.membership.view.put(partner)
        click.echo(network.addresses[0])
        while True:
            if offers:
                await end.exchanger.offer(partner)
            await trio.sleep(0.05)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2] == "offers")
