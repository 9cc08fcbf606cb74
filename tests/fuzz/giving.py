"""Peers that fetch in any way from a node that gives its model away, or give to a node that is new.

A first byte says which: they fetch (0), the node fetches the manifest (1), or it catches up with both (2).
Then come moves, see `moves`.
"""

import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache

import numpy as np
import trio

from p2pnode.errors import LinkError, PeerFault, UserError
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.state import MAX_MANIFEST, PROTOCOL, Donor, catch_up, fetch
from p2pnode.identity.manifest import parse_canonical
from p2pnode.net.memory import MemoryFabric, run_deterministic
from p2pnode.ports import PeerAddress, Stream
from p2pnode.trainer import Trainer, inline
from p2pnode.wire.messages import Content, Fetch
from tests.fuzz.moves import RUDE, Act, Hostile, Moves, moves_of, number, repeated, say, visit_all
from tests.gossip.ends import INCARNATION, End, key, learner, make_end, manifest, member, rows, vector

NODE, PEERS = key(0), (key(1), key(2))
LONG = 1200.0  # seconds: longer than all that the peers do, and any deadline
MANIFEST = manifest().canonical()
SWARM = manifest().swarm_id
START = vector(3)


@cache
def models() -> Sequence[bytes]:
    """Parameters that are better than the node's, and some that are worse."""
    return np.zeros_like(START).tobytes(), vector(9).tobytes(), np.full_like(START, np.nan).tobytes()


def content_of(data: bytes) -> bytes:
    """The manifest or a model, or what else the data say."""
    known = (MANIFEST, *models())
    which = number(data[:1])
    return known[which] if which < len(known) else repeated(data, len(models()[0]))


def a_fetch(data: bytes) -> Fetch:
    """Of the model from its beginning, unless there is data that says otherwise."""
    what = "manifest" if number(data[:1]) == 1 else data[8:24].decode("latin1") or "model"
    digest = hashlib.sha256(MANIFEST).digest() if number(data[1:2]) else b""
    return Fetch(what, digest, number(data[2:6]) << number(data[6:7]) % 17)


def a_content(data: bytes) -> Content:
    """Of which content, from where on; then how many bytes more it has than it should, and the round."""
    content = content_of(data[:1])
    return Content(
        digest=hashlib.sha256(content).digest(),
        size=len(content) + (number(data[3:5]) << number(data[5:6]) % 32),
        offset=number(data[1:3]),
        round=7 + number(data[6:9]),
    )


async def give(stream: Stream, data: bytes) -> None:
    """Which content, from where on, and up to where, if not all of it."""
    begin, end = number(data[1:3]), number(data[3:5])
    await stream.send(content_of(data[:1])[begin : end or None])


ACTS: Sequence[Act] = (say(a_fetch), say(a_content), give, *RUDE)


async def give_away(end: End, peers: Sequence[Hostile]) -> None:
    donor = Donor(
        manifest=MANIFEST,
        model=end.trainer,
        compute=inline,
        known=end.membership.view.__contains__,
        fault=end.membership.fault,
        deadlines=end.membership.deadlines,
    )
    end.network.serve(PROTOCOL, donor.serve)
    await visit_all(peers, end.network.me, PROTOCOL)
    await trio.sleep(LONG)
    assert len(donor._content) in (0, START.nbytes)


async def fetch_manifest(end: End, peers: Sequence[Hostile]) -> None:
    donor = peers[0].network.me
    try:
        arrival = await fetch(end.network, donor, "manifest", Deadlines(), least=1, most=MAX_MANIFEST)
        assert len(arrival.content) <= MAX_MANIFEST
        assert parse_canonical(bytes(arrival.content), SWARM).swarm_id == SWARM
    except (LinkError, PeerFault, UserError):
        await trio.sleep(LONG)


async def be_new(end: End, peers: Sequence[Hostile]) -> None:
    chosen = await catch_up(end.membership, end.trainer)
    assert chosen or np.array_equal(await end.trainer.vector(), START)


KINDS = (give_away, fetch_manifest, be_new)


async def converse(kind: int, moves: Moves) -> None:
    """Whatever it is given, the node has parameters that are numbers."""
    fabric = MemoryFabric(seed=0)
    trainer = Trainer(learner(), rows(0), {}, inline, inline, 0, 0)
    await trainer.jump(0, START)
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(fabric.network(NODE.peer))
        end = await make_end(network, 0, trainers=[trainer])
        peers = []
        for index, own in enumerate(PEERS, 1):
            peer = await stack.enter_async_context(fabric.network(own.peer))
            peer.serve(PROTOCOL, Hostile(peer, ACTS, moves).play)
            peer.learn(PeerAddress(network.me, network.addresses))
            network.learn(PeerAddress(peer.me, peer.addresses))
            end.membership.view.put(replace(member(peer.me, INCARNATION + index, peer.addresses), round=7))
            peers.append(Hostile(peer, ACTS, moves))
        await KINDS[kind % len(KINDS)](end, peers)
    assert np.isfinite(await trainer.vector()).all()


def state(data: bytes) -> None:
    """Fetches and contents of any kind, in any order."""
    run_deterministic(lambda: converse(number(data[:1]), moves_of(data[1:])), seed=0)
