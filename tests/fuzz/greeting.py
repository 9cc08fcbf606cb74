"""Peers that say anything at all to a node that keeps up with the others.

A first byte says who begins: the peers, where it is even, or the node. There are more of them than its view
has room for. They come one after the other, and each takes the next moves, as whoever the node greets does.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache, partial
from typing import Any

import trio
from attrs import evolve

from p2pnode.gossip.membership import PROTOCOL
from p2pnode.gossip.standing import VERSION, Superseded, claim
from p2pnode.gossip.view import RESERVES
from p2pnode.identity.keys import Key
from p2pnode.net.memory import MemoryFabric, memory_address, run_deterministic
from p2pnode.ports import PeerAddress
from p2pnode.trainer import Trainer, inline
from p2pnode.wire.messages import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_PEER,
    Goodbye,
    Hello,
    Probe,
    Probed,
    Refused,
)
from tests.fuzz.moves import RUDE, Act, Hostile, Moves, moves_of, number, say, visit_all
from tests.gossip.ends import INCARNATION, End, key, learner, make_end, manifest, rows

NODE, PEERS = key(0), [key(index) for index in range(1, 7)]
SWARM = bytes(32)
LIMIT = 4  # of the view
LONG = 30.0  # seconds: many hellos
LETTERS = "a\n\N{EURO SIGN}\N{GRINNING FACE}"  # of one to four bytes


def addresses_told(letter: int) -> tuple[str, ...]:
    return (LETTERS[letter % len(LETTERS)] * MAX_ADDRESS,) * MAX_ADDRESSES


def peers_told(data: bytes) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Some of those that there are, then some that are not: how many, which, and with what letters."""
    there, others, first, letter = (data + bytes(4))[:4]
    real = [(own.peer, (memory_address(own.peer),)) for own in (NODE, *PEERS)]
    names = [f"{first}-{other}".ljust(letter % MAX_PEER) for other in range(others % 6)]
    false = [(name, addresses_told(letter)) for name in names]
    return (*real[: there % 8], *false)


def a_hello(own: Key, layout: bytes, data: bytes) -> Hello:
    """One with which nothing is wrong, unless there is data that says so."""
    wrong, incarnation, serial, stage, known, agreed = (data + bytes(6))[:6]
    incarnation += INCARNATION
    changes: Sequence[dict[str, Any]] = (
        {"version": VERSION + 1},
        {"swarm": b"x" * 32},
        {"proof": bytes(64)},
        {"layout": b"x" * 32},
        {"credential": b"let me in"},
        {"members": b"x" * 32, "sketch": b"\xff" * 64},
        {"addresses": addresses_told(stage)},
        {"addresses": ()},
    )
    said = Hello(
        version=VERSION,
        swarm=SWARM,
        incarnation=incarnation,
        proof=own.sign(claim(SWARM, incarnation)),
        serial=serial,
        stage=stage % 4,
        round=number(data[6:8]),
        layout=layout,
        members=b"",
        sketch=b"",
        credential=b"",
        addresses=(memory_address(own.peer),),
        known=known,
        member=agreed % 2 == 0,
        peers=peers_told(data[8:]),
    )
    for bit, change in enumerate(changes):
        if wrong >> bit & 1:
            said = evolve(said, **change)
    return said


def refused(data: bytes) -> Refused:
    """With the node's own word for a later incarnation, where that is what the data say."""
    if not number(data[:1]):
        return Refused(data.decode("latin1"), number(data), bytes(64))
    later = INCARNATION + number(data)
    return Refused("superseded", later, NODE.sign(claim(SWARM, later)))


def probe(data: bytes) -> Probe:
    peers = (NODE, *PEERS)
    return Probe(peers[data[0] % len(peers)].peer if data else "nobody")


def acts_of(own: Key, layout: bytes) -> Sequence[Act]:
    return (
        say(partial(a_hello, own, layout)),
        say(refused),
        say(lambda data: Goodbye(stays=bool(data))),
        say(probe),
        say(lambda data: Probed(alive=not data)),
        *RUDE,
    )


@cache
def trainer() -> Trainer:
    """Nobody asks it for more than what it shares."""
    return Trainer(learner(), rows(0), {}, inline, inline, 0, 0)


def check(end: End) -> None:
    """Nobody is a member who did not prove it, and nothing grows with what is said."""
    view, membership = end.membership.view, end.membership
    assert len(view) <= LIMIT
    assert {member.peer for member in view.all()} <= {own.peer for own in PEERS}
    assert len(view._reserves) <= RESERVES * LIMIT
    assert max(len(view._faults), len(view._silent)) <= 4 * LIMIT
    assert len(membership._greeting) <= LIMIT + len(PEERS)
    assert not membership._suspected - {own.peer for own in PEERS}


async def converse(kind: int, moves: Moves) -> None:
    fabric = MemoryFabric(seed=0)
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(fabric.network(NODE.peer))
        end = await make_end(network, 0, trainers=[trainer()])
        end.membership.manifest = manifest()
        end.membership.view.limit = LIMIT
        peers = []
        for own in PEERS:
            peer = await stack.enter_async_context(fabric.network(own.peer))
            peers.append(Hostile(peer, acts_of(own, end.trainer.layout), moves))
            peer.serve(PROTOCOL, peers[-1].play)
            peer.learn(PeerAddress(network.me, network.addresses))
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(end.membership.run)
                if kind % 2:
                    end.membership.found(PeerAddress(peers[0].network.me, peers[0].network.addresses))
                else:
                    await visit_all(peers, network.me, PROTOCOL)
                await trio.sleep(LONG / 2)
                check(end)
                await trio.sleep(LONG / 2)
                check(end)
                await end.membership.say_goodbye()
                nursery.cancel_scope.cancel()
        except* Superseded:
            check(end)


def hello(data: bytes) -> None:
    run_deterministic(lambda: converse(number(data[:1]), moves_of(data[1:])), seed=0)
