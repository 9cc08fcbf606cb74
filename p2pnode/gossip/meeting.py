"""Waiting for others in settling: for what the view shows, and for one exchange with a certain peer.

Of every pair the lower peer id makes the offer, again and again while the other is not there yet. A
partner that leaves the view ends the waiting at both ends, and so does time.
"""

from collections.abc import Callable

import trio

from p2pnode.gossip.agenda import AGAIN, Agenda
from p2pnode.gossip.exchange import Exchanger, Result
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import View
from p2pnode.ports import PeerId


async def until(membership: Membership, holds: Callable[[View], bool], seconds: float) -> bool:
    """Wait until the view satisfies `holds`; False when it did not within `seconds`."""
    with trio.move_on_after(seconds):
        while True:
            changed = membership.changed
            if holds(membership.view):
                return True
            await changed.wait()
    return False


async def rest(exchanger: Exchanger, agenda: Agenda) -> None:
    """Begin nothing, and wait until the exchange under way has ended. `agenda` names this node itself."""
    exchanger.agenda = agenda
    while exchanger.slot.busy:
        await exchanger.slot.free.wait()


async def meet(
    exchanger: Exchanger, membership: Membership, agenda: Agenda, partner: PeerId, seconds: float
) -> bool:
    """Have the exchange that `agenda` is about with `partner`; False when none was completed in time."""
    exchanger.agenda = agenda
    with trio.move_on_after(seconds):
        if membership.network.me < partner:
            await _offer(exchanger, membership, agenda, partner)
        else:
            await _await_offer(exchanger, membership, agenda, partner)
    return agenda.done.is_set()


async def _offer(exchanger: Exchanger, membership: Membership, agenda: Agenda, partner: PeerId) -> None:
    while not agenda.done.is_set() and (member := membership.view.get(partner)) is not None:
        if await exchanger.offer(member) in (Result.STRANGER, Result.ABORTED, Result.UNREACHABLE):
            membership.suspect(partner)
        await trio.sleep(AGAIN)


async def _await_offer(exchanger: Exchanger, membership: Membership, agenda: Agenda, partner: PeerId) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, membership, partner, nursery.cancel_scope)
        await agenda.done.wait()
        nursery.cancel_scope.cancel()
    while exchanger.slot.busy:  # a commit may still be on its way to being answered
        await exchanger.slot.free.wait()


async def _cancel_when_gone(membership: Membership, peer: PeerId, scope: trio.CancelScope) -> None:
    while peer in membership.view:
        await membership.changed.wait()
    scope.cancel()
