"""Eight peers talking all at once over bad links: writes the trace of everything that happened.

Run as a script with a seed, so that a test can compare the traces of two processes.
"""

import sys
from random import Random

import trio

from p2pnode.errors import LinkError
from p2pnode.net.memory import MemoryDiscovery, MemoryFabric, MemoryNetwork, run_deterministic
from p2pnode.net.memory_link import Link
from p2pnode.ports import PeerAddress, PeerId, Stream

PEERS = [PeerId(f"peer-{number}") for number in range(8)]
PROTOCOL = "/chatter/1"
BAD = Link(latency=0.03, jitter=0.05, bandwidth=1e5, loss=0.1)


def chatter(seed: int) -> list[str]:
    """One line for every greeting heard, with its virtual time."""
    trace: list[str] = []
    run_deterministic(lambda: _all_talk(MemoryFabric(seed, BAD), trace), seed)
    return trace


async def _all_talk(fabric: MemoryFabric, trace: list[str]) -> None:
    with trio.move_on_after(6):
        async with trio.open_nursery() as nursery:
            for peer in PEERS:
                nursery.start_soon(_talk, fabric, peer, trace)
            nursery.start_soon(_break_things, fabric)


async def _break_things(fabric: MemoryFabric) -> None:
    await trio.sleep(2)
    fabric.partition([PEERS[:3], PEERS[3:]])
    await trio.sleep(2)
    fabric.heal()
    fabric.kill(PEERS[-1])


async def _talk(fabric: MemoryFabric, me: PeerId, trace: list[str]) -> None:
    async def listen(stream: Stream) -> None:
        while True:
            size = bytearray(2)
            await stream.receive_into(memoryview(size))
            await stream.receive_into(memoryview(bytearray(int.from_bytes(size, "big"))))
            trace.append(f"{trio.current_time()!r} {me} {stream.peer} {size.hex()}")

    async with fabric.network(me) as network, trio.open_nursery() as nursery:
        network.serve(PROTOCOL, listen)

        def found(peer: PeerAddress) -> None:
            trace.append(f"{trio.current_time()!r} {me} found {peer.peer}")
            network.learn(peer)
            nursery.start_soon(_greet, network, peer.peer, trace)

        await MemoryDiscovery(fabric, me).run("swarm", found)


async def _greet(network: MemoryNetwork, peer: PeerId, trace: list[str]) -> None:
    random = Random(f"{network.me} {peer}")
    try:
        stream = await network.open(peer, PROTOCOL)
        for _ in range(5):
            size = random.randrange(5000)
            await stream.send(size.to_bytes(2, "big") + bytes(size))
        await stream.close()
    except LinkError as error:
        trace.append(f"{trio.current_time()!r} {network.me} {error}")


if __name__ == "__main__":
    sys.stdout.write("\n".join(chatter(seed=int(sys.argv[1]))))
