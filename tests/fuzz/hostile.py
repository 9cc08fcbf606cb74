"""A peer that has any conversation with a node that averages; what it does is told by a few bytes.

A first byte says who offers: the peer, where it is even, or the node. Then come moves: a byte for which, one
of size, and so many bytes of data. The moves go to the streams in the order in which these are opened.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from unittest.mock import patch

import trio

from p2pnode.config import Deadlines
from p2pnode.errors import LinkError
from p2pnode.gossip import exchange
from p2pnode.gossip.exchange import PROTOCOL
from p2pnode.learning import recipe, registry
from p2pnode.learning.learner import Learner
from p2pnode.net.bulk_keys import invite
from p2pnode.net.memory import MemoryFabric, run_deterministic
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
    Message,
    Offer,
    Outcome,
    Ready,
    Withdraw,
    encode,
)
from tests.gossip.ends import INCARNATION, key, make_end, manifest, member, rows

NODE, PEER = 0, 1
DEADLINES = Deadlines(patience=4.0)  # longer than a direct connection is waited for
MOST_MOVES = 64
INVITATION = invite(0, bytes(32))
ENTRIES = 64  # of a piece
LONG = 60.0  # seconds: longer than all that the peer does, and any deadline

Moves = Iterator[tuple[int, bytes]]


@cache
def learner() -> Learner:
    """Tiny, of five pieces."""
    with patch.object(recipe, "PIECE", ENTRIES):
        built = registry.build(manifest())
        assert len(built.pieces) == 5
        return built


def exchange_id(initiator: int, acceptor: int, number: int) -> bytes:
    return b"".join(
        part.to_bytes(8, "big") for part in (INCARNATION + initiator, INCARNATION + acceptor, number)
    )


def offer(data: bytes) -> Offer:
    """One that is accepted, unless there is data that says otherwise."""
    weight, size, step = (data + bytes(3))[:3]
    return Offer(
        exchange=exchange_id(PEER, NODE, 0),
        layout=learner().layout,
        round=0,
        weight=0.5 + weight / 512,
        size=4 * learner().size + size,
        members=b"",
        step=step,
        counted=b"",
    )


def number(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


MESSAGES: Sequence[Callable[[bytes], Message]] = (
    offer,
    lambda data: Accept(b"", b"" if data else INVITATION),
    lambda data: Begin(data[:64] or INVITATION),
    lambda data: Arrived(number(data)),
    lambda data: Ready(),
    lambda data: Commit(),
    lambda data: Abort(data[:200].decode("latin1")),
    lambda data: Withdraw(),
    lambda data: Decline("no", float(number(data[:1]))),
    lambda data: AskOutcome(exchange_id(NODE, PEER, 1)),
    lambda data: Outcome(data[:16].decode("latin1")),
)


async def snapshot(stream: Stream, data: bytes) -> None:
    """A whole one, of these bytes again and again."""
    size = 4 * learner().size
    await stream.send(((data or b"0") * size)[:size])


async def wait(stream: Stream, data: bytes) -> None:
    """Up to five seconds."""
    await trio.sleep(number(data[:1]) / 50)


ACTS: Sequence[Callable[[Stream, bytes], Awaitable[None]]] = (
    lambda stream, data: stream.send(data),
    lambda stream, data: stream.send(len(data).to_bytes(4, "big") + data),
    snapshot,
    wait,
    lambda stream, data: stream.close(),
)


def moves_of(data: bytes) -> Moves:
    """A few of them: which, and the data."""
    for _ in range(MOST_MOVES):
        if len(data) < 2:
            return
        yield data[0], data[2 : 2 + data[1]]
        data = data[2 + data[1] :]


async def play(stream: Stream, moves: Moves) -> None:
    """Make moves until the stream has ended, or there are no more."""
    with suppress(LinkError):
        for move, data in moves:
            if move < len(MESSAGES):
                await stream.send(encode(MESSAGES[move](data)))
            else:
                await ACTS[move % len(ACTS)](stream, data)
    await stream.reset()


async def converse(data: bytes) -> None:
    """The node has nothing of it afterwards."""
    fabric, moves = MemoryFabric(seed=0), moves_of(data[1:])
    trainer = Trainer(learner(), rows(NODE), {}, inline, inline, NODE, 0)
    async with fabric.network(key(NODE).peer) as network, fabric.network(key(PEER).peer) as peer:
        end = await make_end(network, NODE, deadlines=DEADLINES, trainers=[trainer])
        partner = member(peer.me, INCARNATION + PEER, peer.addresses)
        end.membership.view.put(partner)
        network.learn(PeerAddress(peer.me, peer.addresses))
        peer.learn(PeerAddress(network.me, network.addresses))
        peer.serve(PROTOCOL, lambda stream: play(stream, moves))
        if data[:1] and data[0] % 2:
            await end.exchanger.offer(partner)
        else:
            await play(await peer.open(network.me, PROTOCOL), moves)
        await trio.sleep(LONG)
        slot = end.exchanger.slot
        assert (slot.busy, slot.waiting, slot.pending, slot.unready) == (False, None, b"", None)
        assert trainer._own is None
        assert len(end.exchanger._room._memory) in (0, 4 * learner().size)


def negotiation(data: bytes) -> None:
    """Messages and bytes in any order, to an `Exchanger` whose snapshots may go over a direct connection."""
    with patch.object(exchange, "DIRECT_BYTES", 0):
        run_deterministic(lambda: converse(data), seed=0)
