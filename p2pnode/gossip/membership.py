"""Who is in the swarm: hellos.

`/p2pnode/hello/1` is one question and one answer, both a `Hello`: who I am, where I stand, whom I
know. A hello that succeeds makes each side a member of the other's view; exchange and state are
refused to everybody else. Members are greeted again every few seconds, which is also how their
silence is noticed, and the addresses in hellos are how a node that knows one member comes to know
all. Addresses are hints: only the peer who holds the key can answer there.

A member that misses a hello is suspected: no partner until it answers again. A few other members are
asked whether it answers them, as in SWIM (Das, Gupta and Motivala, DSN 2002): if so, only the way between
us is bad, and it is lost later. Who was lost must answer a greeting before it is a member again: its own
hellos prove one direction only.

Two processes with one key: the later incarnation wins. Whoever knows of it answers the earlier one
with the later one's own signed word, so that nobody can talk a node into stopping.
"""

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import trio
from trio import TaskStatus

from p2pnode.bucket import Buckets, Rate
from p2pnode.errors import Fault, LinkError, PeerFault
from p2pnode.events import Event, PeerAlive, PeerFaulted, PeerLost
from p2pnode.gossip.deadlines import Deadlines, Wait, at_most
from p2pnode.gossip.standing import VERSION, Standing, Superseded, check, claim
from p2pnode.gossip.view import Member, View, hints, member_of
from p2pnode.identity.keys import Key, verify
from p2pnode.identity.manifest import Manifest
from p2pnode.ports import Network, PeerAddress, PeerId, Stream
from p2pnode.wire.messages import Goodbye, Hello, Probe, Probed, Refused, receive, send

_log = logging.getLogger(__name__)

PROTOCOL = "/p2pnode/hello/1"

JITTER = 0.05
"""Seconds over which first hellos to new peers are spread, lest everybody dials a newcomer at once."""

MISSES = 2
"""Hellos in a row that must fail before a member is lost: one may have met a hiccup."""

WITNESSES = 3
"""Members that are asked about one who does not answer: as many as in SWIM."""

PATIENCE = 3
"""Times as many hellos may fail when a witness says that the peer lives."""

LOOK = 5.0
"""Seconds between two looks whether members are missing, and between two that make room for others."""

SUCCESSORS = 4
"""Reserves that are greeted at a time: most of them may be dead."""

BUSY = 16
"""Members from which on each is greeted less often, so that all greetings cost the same."""

HELLOS_PER_PEER = Rate(5, 100)
"""Conversations that one peer may begin: 25 times what it does when all is quiet; settling takes bursts."""

HELLOS = Rate(200, 2000)
"""The same of all peers together: a millisecond each, a fifth of a core."""

FAREWELL = 2.0
"""Seconds for goodbyes: some of the others may be leaving too, and answer no more."""


@dataclass
class Membership:
    """Keeps `view` by hellos.

    Attributes:
        interval: seconds between two hellos to one member, see `Config.hello`.
    """

    network: Network
    key: Key
    swarm: bytes
    incarnation: int
    view: View
    publish: Callable[[Event], None]
    random: Random
    interval: float
    deadlines: Deadlines
    manifest: Manifest | None = None
    standing: Standing = field(default_factory=Standing)

    def __post_init__(self) -> None:
        self.changed = trio.Event()  # replaced each time the view changes
        self._proof = self.key.sign(claim(self.swarm, self.incarnation))
        self._greeting: dict[PeerId, trio.CancelScope] = {}
        self._suspected: set[PeerId] = set()
        self._heeded = Buckets[PeerId](HELLOS_PER_PEER, HELLOS)
        self._yielded = -math.inf  # when a member last made room for a stranger
        self._hellos = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer hellos and keep greeting, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.network.serve(PROTOCOL, self.serve)
            task_status.started()
            try:
                while True:
                    # Who has half a view is well connected, and has time.
                    pause = LOOK if 2 * len(self.view) < self.view.limit else self.interval
                    await trio.sleep(self.random.uniform(0.5, 1.5) * pause)
                    self._replenish()
                    self._look_back()
            finally:
                self._nursery = None  # hellos are answered to the end, but nobody is greeted any more

    # --- whom to greet ---

    def found(self, peer: PeerAddress) -> None:
        """Somebody says that `peer` is in this swarm: greet it, or keep it in reserve."""
        if peer.peer == self.network.me:
            return
        known, now = peer.peer in self.view, trio.current_time()
        if not known and self.view.left_alone(peer.peer, now):
            return
        if known or (self._room() > 0 and not self.view.crowded(now)):
            self._meet(peer)
        else:
            self.view.reserve(peer, self.random)

    def _meet(self, peer: PeerAddress) -> None:
        self.network.learn(peer)
        self._begin(peer.peer)

    def _begin(self, peer: PeerId) -> None:
        if self._nursery is not None and peer not in self._greeting:
            scope = self._greeting[peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep_greeting, peer, scope)

    def _room(self) -> int:
        """How many more may be greeted: about so many are missing in the view, where all are greeted."""
        return self.view.limit - len(self._greeting)

    def _replenish(self) -> None:
        """Greet some of the reserves where members are missing."""
        for peer in self.view.successors(min(self._room(), SUCCESSORS), trio.current_time(), self.random):
            self._meet(peer)

    def _look_back(self) -> None:
        """Greet one that fell silent, also where nobody is missing: a cut of the swarm may be healed."""
        if self.view.full() and (peer := self.view.lost(trio.current_time(), self.random)) is not None:
            self._meet(peer)

    async def greet(self, peer: PeerId) -> None:
        """Say hello to `peer` once.

        Raises:
            LinkError: it could not be reached.
            PeerFault: it did not answer in time, broke the protocol, or is not of this swarm.
            Superseded: it proved that another process with our key started later.
        """
        with self.deadlines.within(peer, Wait.ANSWER, "no answer to a hello"):
            async with self._conversation(peer) as stream:
                await send(stream, self._hello(peer, agreed=True))
                answer = await receive(stream, Hello, Refused)
        if isinstance(answer, Refused):
            self._refused(answer)
        else:
            self._heard(peer, answer, answered=True)

    @asynccontextmanager
    async def _conversation(self, peer: PeerId) -> AsyncIterator[Stream]:
        """A new stream to `peer`: closed in good order, or reset on the way out of trouble."""
        stream = await self.network.open(peer, PROTOCOL)
        try:
            yield stream
            await stream.close()
        except BaseException:
            await stream.reset()
            raise

    def suspect(self, peer: PeerId) -> None:
        """Something failed with `peer`: look at once whether it is still there."""
        if self._nursery is not None and peer in self.view and peer not in self._suspected:
            self._suspected.add(peer)
            self._nursery.start_soon(self._check, peer)

    async def greet_all(self) -> None:
        """Tell every member at once where this node stands now."""
        async with trio.open_nursery() as nursery:
            for member in self.view.all():
                nursery.start_soon(self._try_greeting, member.peer)

    async def say_goodbye(self) -> None:
        """Tell the members that this node leaves. They need not answer."""
        with trio.move_on_after(FAREWELL):
            async with trio.open_nursery() as nursery:
                for member in self.view.all():
                    nursery.start_soon(self._tell, member.peer, Goodbye(stays=False))

    async def _tell(self, peer: PeerId, goodbye: Goodbye) -> None:
        with trio.move_on_after(FAREWELL):
            try:
                async with self._conversation(peer) as stream:
                    await send(stream, goodbye)
            except LinkError:
                return  # it will notice by itself

    # --- the answering side ---

    async def serve(self, stream: Stream) -> None:
        """Answer one hello."""
        if not self._heeded.take(stream.peer, trio.current_time()):
            await stream.reset()
            return
        try:
            with at_most(self.deadlines.first(), "no hello"):
                question = await receive(stream, Hello, Goodbye, Probe)
                if isinstance(question, Hello):
                    await send(stream, self._answer(stream.peer, question))
            if isinstance(question, Goodbye):
                self.lose(stream.peer, "elsewhere" if question.stays else "goodbye")
            elif isinstance(question, Probe):
                await send(stream, Probed(await self._vouch(stream.peer, PeerId(question.peer))))
        except PeerFault as error:
            self.fault(stream.peer, error)

    async def _vouch(self, asker: PeerId, peer: PeerId) -> bool:
        """Whether `peer` answers us; only a member is told, of members only, and one at a time."""
        if asker not in self.view or peer not in self.view or peer in self._suspected:
            return False
        self._suspected.add(peer)
        try:
            return await self._try_greeting(peer)
        finally:
            self._suspected.discard(peer)

    def fault(self, peer: PeerId, error: PeerFault) -> None:
        """Count a peer's fault. The node goes on."""
        count = self.view.fault(peer, trio.current_time())
        self.publish(PeerFaulted(peer, str(error.fault), error.detail, count))

    def lose(self, peer: PeerId, reason: str) -> None:
        """Take a peer out of the view, if it is there: what strangers say of themselves changes nothing."""
        member = self.view.get(peer)
        if member is None:
            return
        self.view.remove(peer)
        self.publish(PeerLost(peer, reason))
        self._change()
        if reason == "goodbye":
            self.view.left(peer, member.incarnation)
        else:
            self.view.reserve(PeerAddress(peer, member.addresses), self.random)
        if reason == "silent":
            self.view.unreached(peer, trio.current_time(), self.random)
        elif reason == "elsewhere":
            self.view.declined(peer, trio.current_time(), self.random)
        if reason != "silent" and peer in self._greeting:
            self._greeting.pop(peer).cancel()  # so that it is greeted anew, should it come back at once
        self._replenish()

    def _answer(self, peer: PeerId, hello: Hello) -> Hello | Refused:
        known = self.view.get(peer)
        if known is not None and known.incarnation > hello.incarnation:
            return Refused("superseded", known.incarnation, known.proof)
        try:
            self._heard(peer, hello, answered=False)
        except PeerFault as error:
            self.fault(peer, error)
            self.lose(peer, "faulty")
            return Refused(str(error)[:200], 0, b"")
        return self._hello(peer, agreed=peer in self.view)

    def _heard(self, peer: PeerId, hello: Hello, *, answered: bool) -> None:
        """Take in what a peer said, if it belongs here; `answered` when it did so to a greeting of ours."""
        known = self.view.get(peer)
        check(peer, hello, known, self.swarm, self.standing.layout, self.manifest)
        if known is not None and (known.incarnation, known.serial) > (hello.incarnation, hello.serial):
            return  # overtaken by a later word of the same peer
        if self.view.has_left(peer, hello.incarnation):
            return  # overtaken by its goodbye
        address = PeerAddress(peer, hello.addresses)
        if known is not None and not hello.member:
            self.lose(peer, "elsewhere")
        elif known is not None or (hello.member and self._admits(peer, hello, answered)):
            self._take_in(member_of(peer, hello, trio.current_time()), None if answered else known)
        else:
            self.view.reserve(address, self.random)
        for told in (address, *hints(hello)):
            self.found(told)

    def _take_in(self, member: Member, known: Member | None) -> None:
        """`known`: what it was until now, if it did not answer us: its word says nothing of the way to it."""
        if known is not None:
            member = replace(member, misses=known.misses, greeted=known.greeted)
        if self.view.put(member):
            self.publish(PeerAlive(member.peer, member.round))
        self._change()

    def _admits(self, peer: PeerId, hello: Hello, answered: bool) -> bool:
        """Whether a stranger may become a member, if need be in the place of one who then hears of it."""
        now = trio.current_time()
        if not answered and self.view.silent(peer, now):
            self._begin(peer)  # it reaches us; whether we reach it is to be seen
            return False
        if not self.view.full():
            return True
        parting = self.view.yields(peer, hello.known, self.random)
        if parting is None or now - self._yielded < LOOK or self._nursery is None:
            return False
        self._yielded = now
        self.lose(parting.peer, "elsewhere")
        self._nursery.start_soon(self._tell, parting.peer, Goodbye(stays=True))
        return True

    def _refused(self, answer: Refused) -> None:
        proven = verify(self.key.public, answer.proof, claim(self.swarm, answer.incarnation))
        if answer.incarnation > self.incarnation and proven:
            raise Superseded(answer.incarnation, self.incarnation)
        raise PeerFault(Fault.WRONG_SWARM, f"refused our hello: {answer.reason}")

    def _hello(self, receiver: PeerId, *, agreed: bool) -> Hello:
        standing = self.standing
        self._hellos += 1
        return Hello(
            version=VERSION,
            swarm=self.swarm,
            incarnation=self.incarnation,
            proof=self._proof,
            serial=self._hellos,
            stage=standing.stage,
            round=standing.round,
            layout=standing.layout,
            members=standing.members,
            sketch=standing.sketch,
            credential=b"",
            addresses=self.network.addresses[:8],
            known=len(self.view),
            member=agreed,
            peers=self.view.gossip(receiver, self.random),
        )

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # --- keeping in touch ---

    async def _try_greeting(self, peer: PeerId) -> bool:
        """Greet once, and lose the peer when it has missed too many hellos; whether it answered."""
        began = trio.current_time()
        try:
            await self.greet(peer)
        except LinkError:
            await self._missed(peer, began)
            return False
        except PeerFault as error:
            if error.fault is Fault.STALLED:  # it may have died, which is no fault
                await self._missed(peer, began)
            else:
                self.fault(peer, error)
                self.lose(peer, "faulty")
            return False
        return True

    async def _missed(self, peer: PeerId, began: float) -> None:
        now = trio.current_time()
        if peer not in self.view:
            self.view.unreached(peer, now, self.random)
            return
        misses = self.view.missed(peer, began, now)
        self._change()
        if misses < MISSES or (misses < PATIENCE * MISSES and await self._lives(peer)):
            return
        member = self.view.get(peer)  # it may have answered meanwhile
        if member is not None and member.misses >= misses:
            self.lose(peer, "silent")

    async def _lives(self, peer: PeerId) -> bool:
        """Whether any of a few other members says that `peer` answers it."""
        others = [member.peer for member in self.view.partners(trio.current_time()) if member.peer != peer]
        found = False

        async def ask(witness: PeerId) -> None:
            nonlocal found
            try:
                with self.deadlines.within(witness, Wait.PROBE, "no answer to a probe"):
                    async with self._conversation(witness) as stream:
                        await send(stream, Probe(peer))
                        found = (await receive(stream, Probed)).alive or found
            except (LinkError, PeerFault) as error:
                _log.debug("%s knows nothing of %s: %s", witness, peer, error)

        async with trio.open_nursery() as nursery:
            for witness in self.random.sample(others, min(WITNESSES, len(others))):
                nursery.start_soon(ask, witness)
        return found

    async def _check(self, peer: PeerId) -> None:
        while peer in self.view and not await self._try_greeting(peer):  # noqa: ASYNC110 - asks a peer
            await trio.sleep(self.random.uniform(0, JITTER))
        self._suspected.discard(peer)

    async def _keep_greeting(self, peer: PeerId, scope: trio.CancelScope) -> None:
        """Greet a peer for as long as it answers. Whoever is found again later starts anew."""
        with scope:
            await trio.sleep(self.random.uniform(0, JITTER))
            while True:
                answered = await self._try_greeting(peer)
                if peer not in self.view:
                    break
                await trio.sleep(self.random.uniform(0.5, 1.5) * self._pause())
            if answered and not (scope.cancel_called or self.view.full()):
                self.view.declined(peer, trio.current_time(), self.random)
        if self._greeting.get(peer) is scope:
            del self._greeting[peer]

    def _pause(self) -> float:
        """Seconds between two hellos to one member."""
        return self.interval * max(1.0, len(self.view) / BUSY)
