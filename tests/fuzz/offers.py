"""Any message, as an offer to a node that is in any state.

A first byte says what state, bit by bit, see `slot_in` and `check`; the rest is a message without its length.
"""

from contextlib import suppress
from functools import cache

import trio

from p2pnode.errors import PeerFault
from p2pnode.gossip.agenda import Agenda, Slot, answer, union
from p2pnode.ports import PeerId
from p2pnode.wire.messages import Accept, Offer, decode, encode

ME, PARTNER, OTHER = PeerId("b"), PeerId("a"), PeerId("c")
COUNTED = b"\x05"


@cache
def own(settling: bool) -> Offer:
    """What the node would offer."""
    return Offer(
        exchange=bytes(24),
        layout=bytes(32),
        round=3,
        weight=0.5,
        size=1000,
        members=bytes(32) if settling else b"",
        step=1 if settling else 0,
        counted=COUNTED if settling else b"",
        seconds=10.0,
    )


def slot_in(state: int) -> Slot:
    waiting = trio.CancelScope() if state & 2 else None
    slot = Slot(busy=bool(state & 1), waiting=waiting, closed=bool(state & 4))
    if state & 8:
        slot.gate.close()
    return slot


def offer(data: bytes) -> None:
    """It is accepted only where the two agree on everything, and no message is another once it is sent on."""
    state = data[0] if data else 0
    with suppress(PeerFault):
        message = decode(data[1:])
        assert decode(encode(message)[4:]) == message
        if isinstance(message, Offer):
            check(state, message)


def check(state: int, made: Offer) -> None:
    mine = own(bool(state & 16))
    agenda = Agenda(mine.weight, mine.members, mine.step, OTHER if state & 32 else PARTNER, mine.counted)
    if state & 64:
        agenda.done.set()
    initiator = PARTNER if state & 128 else OTHER
    slot = slot_in(state)
    reply = answer(made, mine, agenda, slot, initiator, ME)
    if not isinstance(reply, Accept):
        assert reply.again > 0
        return
    assert not (slot.busy or slot.closed or slot.gate.shut)
    agreed = ("layout", "weight", "size", "members", "step")
    assert all(getattr(made, name) == getattr(mine, name) for name in agreed)
    assert made.exchange[:16] == mine.exchange[:16]
    assert not made.members or (initiator == agenda.partner and not agenda.done.is_set())
    assert set_bits(union(agenda.counted, made.counted)) >= set_bits(agenda.counted) | set_bits(made.counted)


def set_bits(counted: bytes) -> set[int]:
    return {bit for bit in range(8 * len(counted)) if counted[bit // 8] >> bit % 8 & 1}
