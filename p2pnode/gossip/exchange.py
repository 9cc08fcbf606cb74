"""One conversation in which two nodes average: `/p2pnode/exchange/1`.

    initiator                                 acceptor
        | offer -------------------------------> |  decides at once: accept or decline
        | <------------------------------ accept |
        | begin -------------------------------> |  the offer still stands: both take a snapshot
        | snapshot <------------------> snapshot |  and send it, at the same time
        | <------------------------------- ready |  has everything, keeps the difference aside
        | commit ------------------------------> |  both apply

**The initiator decides.** Having the acceptor's snapshot and its `ready`, it says so and applies;
otherwise it says `abort`, or nothing. An acceptor that said `ready` and hears no decision asks for
the outcome on new streams, for ten seconds at least, or until the initiator is known to be gone. An
initiator that is asked while it waits for that `ready` aborts, for it must have been lost; what it
committed it remembers; and a node that knows nothing of an exchange answers `unknown`, which means
aborted. So both apply or neither does, unless the initiator dies or stays cut off past the deadline
in just that moment: then the acceptor drops the difference and reports the exchange as unsettled.
This is two-phase commit with presumed abort (Mohan, Lindsay and Obermarck, 1986), for two.

**One exchange at a time, in either role.** Who is in an exchange declines at once. A node that waits
for an answer may still accept an offer from a peer with a lower id, and withdraws its own. Only from
lower ids: else the nodes of a ring, each waiting for the next, would all withdraw at once. The same
rule settles two offers that cross: the lower id stays initiator.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from functools import partial

import trio
from attrs import evolve

from p2pnode.errors import Disconnected, Fault, LinkError, PeerFault
from p2pnode.events import Event, ExchangeAborted, ExchangeCompleted, ExchangeDeclined, ExchangeUnsettled
from p2pnode.gossip.agenda import AGAIN, Agenda, Reason, Slot, answer, union
from p2pnode.gossip.deadlines import Deadlines, Wait, at_most
from p2pnode.gossip.transfer import Room, Transfer
from p2pnode.gossip.view import Member, View
from p2pnode.ports import Network, PeerId, Shared, Stream
from p2pnode.wire.messages import (
    Abort,
    Accept,
    AskOutcome,
    Begin,
    Commit,
    Decline,
    Offer,
    Outcome,
    Ready,
    Withdraw,
    receive,
    send,
)

PROTOCOL = "/p2pnode/exchange/1"

DIRECT_BYTES = 4_000_000
"""Snapshots from this size on go over a direct connection: for smaller ones it is not worth opening one."""

REMEMBERED = 4096
"""Partners of whom the last committed exchange is kept: who asks for an outcome asks for that, or never."""


class Result(Enum):
    """What became of an offer of ours."""

    COMPLETED = "completed"
    DECLINED = "declined"
    STRANGER = "stranger"  # declined, until we say hello
    WITHDRAWN = "withdrawn"  # another exchange came first
    ABORTED = "aborted"
    UNREACHABLE = "unreachable"


class Exchanger:
    """This node's end of all its exchanges.

    Args:
        network: opens and serves streams.
        model: what is averaged. Another may take its place between two exchanges.
        incarnation: of this process.
        view: of the swarm.
        publish: takes events.
        fault: counts a peer's fault.
        suspect: has it looked at whether a peer is still there; the view has it no more when it is not.
        deadlines: how long each peer may take.
    """

    def __init__(
        self,
        network: Network,
        model: Shared,
        incarnation: int,
        view: View,
        publish: Callable[[Event], None],
        fault: Callable[[PeerId, PeerFault], None],
        suspect: Callable[[PeerId], None],
        deadlines: Deadlines,
    ) -> None:
        self.model = model
        self.agenda = Agenda()
        self.slot = Slot()
        self.completed = 0
        self.again: dict[PeerId, float] = {}  # when a peer that declined wants to be asked again
        self._network = network
        self._incarnation = incarnation
        self._view = view
        self._publish = publish
        self._fault = fault
        self._suspect = suspect
        self._deadlines = deadlines
        self._offers = 0
        self._committed: OrderedDict[PeerId, bytes] = OrderedDict()
        self._room = Room()

    async def offer(self, partner: Member) -> Result:
        """Offer `partner` an exchange, and carry it out if it accepts.

        What goes wrong is published and counted, never raised.
        """
        agenda = self.agenda
        try:
            async with self._conversation(partner.peer) as stream:
                if self.slot.busy or self.slot.waiting or self.slot.closed or self.slot.gate.shut:
                    return Result.WITHDRAWN
                self._offers += 1
                offer = self._offer(agenda, partner.peer, self._incarnation, partner.incarnation)
                reply = await self._ask(stream, offer)
                if reply is None:
                    return Result.WITHDRAWN
                if isinstance(reply, Decline):
                    return self._declined(partner.peer, reply)
                with self._exchanging():
                    return await self._initiate(stream, offer, agenda, reply)
        except LinkError:
            return Result.UNREACHABLE
        except PeerFault as error:
            self._fault(partner.peer, error)
            return Result.ABORTED

    async def serve(self, stream: Stream) -> None:
        """Answer one offer, or one question for an outcome. A broken link ends it quietly."""
        try:
            with at_most(self._deadlines.first(), "no offer"):
                question = await receive(stream, Offer, AskOutcome)
            if isinstance(question, AskOutcome):
                await send(stream, Outcome(self._outcome(stream.peer, question.exchange)))
                return
            agenda = self.agenda
            reply = self._answer(stream.peer, question)
            if isinstance(reply, Decline):
                await send(stream, reply)
                return
            with self._exchanging():
                await self._accept(stream, question, agenda, reply)
        except PeerFault as error:
            self._fault(stream.peer, error)

    async def close(self) -> None:
        """Begin nothing new, and wait until the exchange under way has ended."""
        self.slot.closed = True
        if self.slot.busy:
            await self.slot.free.wait()

    # --- the initiator ---

    def _declined(self, peer: PeerId, reply: Decline) -> Result:
        now = trio.current_time()
        self.again = {other: due for other, due in self.again.items() if due > now}
        self.again[peer] = now + reply.again
        self._publish(ExchangeDeclined(peer, reply.reason))
        return Result.STRANGER if reply.reason == Reason.STRANGER else Result.DECLINED

    async def _ask(self, stream: Stream, offer: Offer) -> Accept | Decline | None:
        """The answer to our offer; None when we accepted somebody else's while we waited."""
        reply: Accept | Decline | None = None
        waiting = self.slot.waiting = trio.CancelScope()
        try:
            with at_most(self._deadlines.first(), "does not take an offer"):
                await send(stream, offer)  # outside of the scope: to withdraw must not cut it in half
            with waiting, self._deadlines.within(stream.peer, Wait.ANSWER, "no answer to an offer"):
                reply = await receive(stream, Accept, Decline)
        finally:
            self.slot.waiting = None
        if waiting.cancel_called:
            with trio.move_on_after(self._deadlines.first()):
                await _quietly(send(stream, Withdraw()))
            await stream.reset()  # the answer, which nobody reads, would keep it open
            return None
        return reply

    async def _initiate(self, stream: Stream, offer: Offer, agenda: Agenda, accept: Accept) -> Result:
        started = trio.current_time()
        self.slot.pending, self.slot.partner = offer.exchange, stream.peer
        try:
            # A quarter sooner than the acceptor's time, which so hears soon enough that ours was up.
            granted = min(accept.seconds, max(offer.seconds, self._usual(offer)))
            with at_most(0.75 * granted, "its snapshot did not arrive"):
                mine = self._invitation(stream, offer) if accept.direct else b""
                await send(stream, Begin(mine))
                taken = await self._swap(stream, offer, mine, accept.direct)
                refusal = await self._await_ready(stream)
            if refusal:
                await stream.reset()  # a ready may still come, which nobody reads
                self._aborted(stream.peer, offer, refusal)
                return Result.ABORTED
            self._remember(stream.peer, offer.exchange)
            with trio.CancelScope(shield=True):  # decided: neither a deadline nor a shutdown undoes it
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._commit, stream)  # both ends apply at the same time
                    await self.model.apply(taken, offer.weight)
            self._complete(stream.peer, offer, agenda, accept.counted, started, initiator=True)
            return Result.COMPLETED
        except (LinkError, PeerFault) as error:
            # As an acceptor this node counts no miss: who offers shall earn no time by stalling.
            if isinstance(error, PeerFault) and error.fault is Fault.STALLED:
                self._deadlines.missed(stream.peer, Wait.EXCHANGE)
            self._aborted(stream.peer, offer, str(error))
            raise
        finally:
            self.slot.pending = b""
            self.model.drop()

    async def _commit(self, stream: Stream) -> None:
        with trio.move_on_after(self._deadlines.first()):
            await _quietly(send(stream, Commit()))

    async def _await_ready(self, stream: Stream) -> str:
        """Why the acceptor is not ready; empty when it is."""
        reply: Ready | Abort = Abort("its ready was lost")
        with trio.CancelScope() as unready:
            self.slot.unready = unready
            try:
                reply = await receive(stream, Ready, Abort)
            finally:
                self.slot.unready = None
        if isinstance(reply, Abort):
            return reply.reason
        return "its ready came too late" if unready.cancel_called else ""

    # --- the acceptor ---

    def _answer(self, initiator: PeerId, offer: Offer) -> Accept | Decline:
        member = self._view.get(initiator)
        if member is None:
            return Decline(Reason.STRANGER, AGAIN)
        if not self.agenda.members and (seconds := self._view.avoided(initiator, trio.current_time())):
            return Decline(Reason.AVOIDED, seconds)
        own = self._offer(self.agenda, initiator, member.incarnation, self._incarnation)
        reply = answer(offer, own, self.agenda, self.slot, initiator, self._network.me)
        if isinstance(reply, Accept):  # who knows better what the line takes is believed, within reason
            return evolve(reply, seconds=max(own.seconds, min(offer.seconds, self._usual(offer))))
        return reply

    async def _accept(self, stream: Stream, offer: Offer, agenda: Agenda, accept: Accept) -> None:
        started = trio.current_time()
        deadline = started + accept.seconds
        with at_most(accept.seconds, "did not begin"):
            mine = self._invitation(stream, offer)
            await send(stream, evolve(accept, direct=mine))
            begin = await receive(stream, Begin, Withdraw)
            if isinstance(begin, Withdraw):
                return
        committed: bool | None = None
        try:
            with at_most(deadline - trio.current_time(), "its snapshot did not arrive"):
                taken = await self._swap(stream, offer, mine, begin.direct)
            # Whoever is not sure waits for longer than others: lines lose what they carry now and then.
            with trio.move_on_at(max(deadline, trio.current_time() + self._deadlines.first())):
                committed = await self._decision(stream, offer, accept.seconds / 4)
            if committed:
                with trio.CancelScope(shield=True):
                    await self.model.apply(taken, offer.weight)
                self._complete(stream.peer, offer, agenda, offer.counted, started, initiator=False)
            elif committed is None:
                self._publish(ExchangeUnsettled(stream.peer, offer.exchange.hex()))
            else:
                self._aborted(stream.peer, offer, "the initiator aborted")
        except (LinkError, PeerFault) as error:
            self._aborted(stream.peer, offer, str(error))
            raise
        finally:
            self.model.drop()

    async def _decision(self, stream: Stream, offer: Offer, patience: float) -> bool | None:
        """Say `ready`, and learn whether the initiator committed; None when it is gone."""
        with trio.move_on_after(patience):
            try:
                await send(stream, Ready())
                return isinstance(await receive(stream, Commit, Abort), Commit)
            except Disconnected:
                await trio.lowlevel.checkpoint()  # the stream is gone, the decision is not
        while stream.peer in self._view:
            outcome = await self._ask_outcome(stream.peer, offer.exchange)
            if outcome in ("committed", "unknown"):
                return outcome == "committed"
            if outcome == "unreachable":
                self._suspect(stream.peer)
            await trio.sleep(0.1)
        return None

    async def _ask_outcome(self, peer: PeerId, exchange: bytes) -> str:
        try:  # a quarter of the time: one answer that is lost leaves some for the next
            with at_most(self._deadlines.first() / 4, "does not say what became of an exchange"):
                async with self._conversation(peer) as stream:
                    await send(stream, AskOutcome(exchange))
                    return (await receive(stream, Outcome)).outcome
        except (LinkError, PeerFault):
            return "unreachable"

    # --- both ---

    @asynccontextmanager
    async def _conversation(self, peer: PeerId) -> AsyncIterator[Stream]:
        """A new stream to `peer`: closed in good order, or reset on the way out of trouble."""
        with self._deadlines.within(peer, Wait.ANSWER, "did not take a stream"):
            stream = await self._network.open(peer, PROTOCOL)
        try:
            yield stream
            await stream.close()
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise

    async def _swap(self, stream: Stream, offer: Offer, mine: bytes, theirs: bytes) -> list[object]:
        """Take a snapshot and send it while the partner's arrives; the partner's, taken by the model.

        `mine` and `theirs` are what the two ends have told for a direct connection.

        Raises:
            PeerFault: the partner's is not finite, after telling the partner; or it broke the rules.
            Disconnected: the stream ended.
        """
        direct = partial(self._network.direct, stream, mine, theirs, offer.exchange)
        transfer = Transfer(self.model, offer.round % 2**31, stream, self._room)
        try:
            return await transfer.run(direct if mine and theirs else None)
        except PeerFault as error:
            if error.fault == Fault.NOT_FINITE:
                await _quietly(send(stream, Abort(error.detail)))
            raise

    def _invitation(self, stream: Stream, offer: Offer) -> bytes:
        """This node's part in a direct connection; empty for none."""
        return self._network.invitation(stream) if offer.size >= DIRECT_BYTES else b""

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """The slot is taken: an offer of ours that still waits is withdrawn."""
        self.slot.busy = True
        self.slot.free = trio.Event()
        if self.slot.waiting is not None:
            self.slot.waiting.cancel()
        try:
            yield
        finally:
            self.slot.busy = False
            self.slot.free.set()

    def _usual(self, offer: Offer) -> float:
        """Seconds that two strangers would have for the exchange."""
        return self._deadlines.first(2 * offer.size)

    def _offer(self, agenda: Agenda, partner: PeerId, initiator: int, acceptor: int) -> Offer:
        ids = (initiator, acceptor, self._offers)
        size = max(sum(self.model.payload), sum(self.model.expected))
        return Offer(
            exchange=b"".join(number.to_bytes(8, "big") for number in ids),
            layout=self.model.layout,
            round=self.model.round,
            weight=agenda.weight,
            size=size,
            members=agenda.members,
            step=agenda.step,
            counted=agenda.counted,
            seconds=self._deadlines.of(partner, Wait.EXCHANGE, 2 * size),
        )

    def _outcome(self, peer: PeerId, exchange: bytes) -> str:
        if (exchange, peer) == (self.slot.pending, self.slot.partner):
            if self.slot.unready is None:
                return "pending"
            self.slot.unready.cancel()
        return "committed" if self._committed.get(peer) == exchange else "unknown"

    def _remember(self, peer: PeerId, exchange: bytes) -> None:
        self.slot.pending = b""
        self._committed[peer] = exchange
        self._committed.move_to_end(peer)
        if len(self._committed) > REMEMBERED:
            self._committed.popitem(last=False)

    def _complete(
        self, peer: PeerId, offer: Offer, agenda: Agenda, counted: bytes, started: float, *, initiator: bool
    ) -> None:
        self.completed += 1
        if agenda.members:
            agenda.counted = union(agenda.counted, counted)
        agenda.done.set()
        seconds = trio.current_time() - started
        self._deadlines.took(peer, Wait.EXCHANGE, seconds, 2 * offer.size)
        self._publish(ExchangeCompleted(peer, offer.exchange.hex(), initiator, offer.size, seconds))

    def _aborted(self, peer: PeerId, offer: Offer, reason: str) -> None:
        self._publish(ExchangeAborted(peer, offer.exchange.hex(), reason))


async def _quietly(sending: Awaitable[None]) -> None:
    """A last word to somebody who may be gone already, and will then find out by asking."""
    try:
        await sending
    except Disconnected:
        return
