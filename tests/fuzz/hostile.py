"""A peer that has any conversation with a node that averages.

A first byte says who offers: the peer, where it is even, or the node; with 2 in it the node settles, with 4
snapshots are of eight bits. Then come moves, see `moves`.
"""

from collections.abc import Sequence
from functools import cache, partial
from random import Random
from unittest.mock import patch

import numpy as np
import trio

from p2pnode.gossip import exchange
from p2pnode.gossip.agenda import Agenda
from p2pnode.gossip.exchange import PROTOCOL
from p2pnode.learning import recipe, registry
from p2pnode.learning.learner import Learner
from p2pnode.net.bulk_keys import SEED, invite
from p2pnode.net.memory import MemoryFabric, MemoryNetwork, run_deterministic
from p2pnode.net.memory_stream import MemoryStream
from p2pnode.ports import PeerAddress, Stream
from p2pnode.trainer import Trainer, inline
from p2pnode.wire.messages import (
    Abort,
    Accept,
    Arrived,
    AskOutcome,
    Begin,
    Commit,
    Decline,
    Offer,
    Outcome,
    Ready,
    Withdraw,
)
from tests.fuzz.moves import RUDE, Act, Hostile, Moves, moves_of, number, repeated, say
from tests.gossip.ends import INCARNATION, End, key, make_end, manifest, member, rows

NODE, PEER = 0, 1  # it has the lower id, and so may interrupt the node
INVITATION = invite(0, bytes(32))
INVITED = invite(0, Random(f"0 {key(NODE).peer} direct").randbytes(SEED))  # the first of a memory network
MEMBERS = bytes(32)
ENTRIES = 64  # of a piece
LONG = 1200.0  # seconds: longer than all that the peer does, and any deadline


@cache
def learner(codec: str) -> Learner:
    """Tiny, of five pieces."""
    with patch.object(recipe, "PIECE", ENTRIES):
        built = registry.build(manifest(codec))
        assert len(built.payload) == 5
        return built


def exchange_id(initiator: int, acceptor: int, number: int) -> bytes:
    return b"".join(
        part.to_bytes(8, "big") for part in (INCARNATION + initiator, INCARNATION + acceptor, number)
    )


def offer(trainer: Trainer, agenda: Agenda, data: bytes) -> Offer:
    """One that is accepted, unless there is data that says otherwise."""
    weight, size, step = (data + bytes(3))[:3]
    return Offer(
        exchange=exchange_id(PEER, NODE, 0),
        layout=trainer.layout,
        round=number(data[6:]),
        weight=agenda.weight + weight / 512,
        size=sum(trainer.payload) + size,
        members=agenda.members,
        step=agenda.step + step,
        counted=data[10:],
        seconds=float(number(data[3:6])),
    )


def acts_of(end: End, peer: MemoryNetwork) -> Sequence[Act]:
    """All but a second stream meanwhile."""
    size = sum(end.trainer.payload)

    async def snapshot(stream: Stream, data: bytes) -> None:
        await stream.send(repeated(data, size))

    async def direct(stream: Stream, data: bytes) -> None:
        """A part of a snapshot, and the whole where there is no data, over a direct connection."""
        assert isinstance(stream, MemoryStream)
        context = exchange_id(PEER, NODE, 0) if stream.dialled else exchange_id(NODE, PEER, 1)
        if carrier := await peer.direct(stream, INVITATION, INVITED, context):
            await carrier.send(repeated(data[1:], size)[: 5 * number(data[:1]) or size])
            await carrier.close()

    return (
        say(partial(offer, end.trainer, end.exchanger.agenda)),
        say(lambda data: Accept(data[4:], float(number(data) or 10), b"" if data else INVITATION)),
        say(lambda data: Begin(data[:64] or INVITATION)),
        say(lambda data: Arrived(number(data))),
        say(lambda data: Ready()),
        say(lambda data: Commit()),
        say(lambda data: Abort(data[:200].decode("latin1"))),
        say(lambda data: Withdraw()),
        say(lambda data: Decline("no", float(number(data[:1])))),
        say(lambda data: AskOutcome(exchange_id(NODE, PEER, 1))),
        say(lambda data: Outcome(data[:16].decode("latin1"))),
        snapshot,
        direct,
        *RUDE,
    )


async def converse(kind: int, moves: Moves) -> None:
    """The node has nothing of it afterwards, and other parameters only where it says so."""
    fabric = MemoryFabric(seed=0)
    trainer = Trainer(learner("int8" if kind & 4 else "float32"), rows(NODE), {}, inline, inline, NODE, 0)
    before = await trainer.vector()
    async with fabric.network(key(NODE).peer) as network, fabric.network(key(PEER).peer) as peer:
        end = await make_end(network, NODE, trainers=[trainer])
        partner = member(peer.me, INCARNATION + PEER, peer.addresses)
        end.membership.view.put(partner)
        if kind & 2:
            end.exchanger.agenda = Agenda(0.5, MEMBERS, 1, peer.me, b"\x01")
        network.learn(PeerAddress(peer.me, peer.addresses))
        peer.learn(PeerAddress(network.me, network.addresses))
        acts = [*acts_of(end, peer)]
        hostile = Hostile(peer, acts, moves)
        acts.append(lambda stream, data: hostile.visit(network.me, PROTOCOL))  # and then here again
        peer.serve(PROTOCOL, hostile.play)
        if kind & 1:
            await end.exchanger.offer(partner)
        else:
            await hostile.visit(network.me, PROTOCOL)
        await trio.sleep(LONG)
        slot = end.exchanger.slot
        assert (slot.busy, slot.waiting, slot.pending, slot.unready) == (False, None, b"", None)
        assert trainer._own is None
        assert len(end.exchanger._room._memory) in (0, sum(trainer.payload))
        assert end.exchanger.completed or np.array_equal(await trainer.vector(), before)


def negotiation(data: bytes) -> None:
    """Messages and bytes in any order, to an `Exchanger` whose snapshots may go over a direct connection."""
    with patch.object(exchange, "DIRECT_BYTES", 0):
        run_deterministic(lambda: converse(number(data[:1]), moves_of(data[1:])), seed=0)
