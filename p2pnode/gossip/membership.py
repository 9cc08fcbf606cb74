"""Who is in the swarm: hellos.

`/p2pnode/hello/1` is one question and one answer, both a `Hello`: who I am, where I stand, whom I
know. A hello that succeeds makes each side a member of the other's view; exchange and state are
refused to everybody else. Members are greeted again every few seconds, which is also how their
silence is noticed, and the addresses in hellos are how a node that knows one member comes to know
all. Addresses are hints: only the peer who holds the key can answer there.

Two processes with one key: the later incarnation wins. Whoever knows of it answers the earlier one
with the later one's own signed word, so that nobody can talk a node into stopping.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio
from trio import TaskStatus

from p2pnode.config import Deadlines
from p2pnode.config import Membership as Timing
from p2pnode.errors import Fault, LinkError, PeerFault, UserError
from p2pnode.events import Event, PeerAlive, PeerFaulted, PeerLost
from p2pnode.gossip.view import Stage, View, hints, member_of
from p2pnode.identity.admission import admit
from p2pnode.identity.keys import Key, public_of, verify
from p2pnode.identity.manifest import Manifest
from p2pnode.ports import Network, PeerAddress, PeerId, Stream
from p2pnode.wire.messages import Goodbye, Hello, Refused, receive, send

PROTOCOL = "/p2pnode/hello/1"
VERSION = 1

FAREWELL = 2.0
"""Seconds for goodbyes: some of the others may be leaving too, and answer no more."""


DAY = 86_400_000
"""In milliseconds, which incarnations are the time in."""


class Superseded(UserError):
    """Another process with this node's key has started later: in `incarnation`."""

    def __init__(self, incarnation: int, own: int) -> None:
        line = (
            "another node has been started with this node's key, so this one stops; "
            "give each node a --data-dir of its own"
        )
        if (days := (incarnation - own) // DAY) > 0:
            line += f" (by its clock {days} days later: if that was wrong and it has ended, start this again)"
        super().__init__(line)
        self.incarnation = incarnation


@dataclass
class Standing:
    """What a node says of itself in its hellos. The node's other parts keep it up to date."""

    stage: Stage = Stage.NEWCOMER
    round: int = 0
    layout: bytes = b""
    members: bytes = b""
    sketch: bytes = b""


def claim(swarm: bytes, incarnation: int) -> bytes:
    """What the holder of a key signs about its incarnation."""
    return b"p2pnode incarnation\0" + swarm + incarnation.to_bytes(8, "big")


@dataclass
class Membership:
    """Keeps `view` by hellos."""

    network: Network
    key: Key
    swarm: bytes
    incarnation: int
    view: View
    publish: Callable[[Event], None]
    random: Random
    timing: Timing
    deadlines: Deadlines
    manifest: Manifest | None = None
    standing: Standing = field(default_factory=Standing)

    def __post_init__(self) -> None:
        self.changed = trio.Event()  # replaced each time the view changes
        self._proof = self.key.sign(claim(self.swarm, self.incarnation))
        self._greeting: dict[PeerId, trio.CancelScope] = {}
        self._suspected: set[PeerId] = set()
        self._hellos = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer hellos and keep greeting, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.network.serve(PROTOCOL, self.serve)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # hellos are answered to the end, but nobody is greeted any more

    def found(self, peer: PeerAddress) -> None:
        """Somebody says that `peer` is in this swarm: greet it, unless it is known or greeted now."""
        if peer.peer == self.network.me or not (peer.peer in self.view or self._worth_meeting(peer.peer)):
            return
        self.network.learn(peer)
        if self._nursery is not None and peer.peer not in self._greeting:
            scope = self._greeting[peer.peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep_greeting, peer.peer, scope)

    def _worth_meeting(self, stranger: PeerId) -> bool:
        """Not when told about more peers than a view holds: somebody floods us, or the swarm is large."""
        crowded = self.view.full() or len(self._greeting) >= 2 * self.view.limit
        return not crowded and not self.view.avoided(stranger, trio.current_time())

    async def greet(self, peer: PeerId) -> None:
        """Say hello to `peer` once.

        Raises:
            LinkError: it could not be reached.
            PeerFault: it broke the protocol, or is not of this swarm.
            Superseded: it proved that another process with our key started later.
        """
        with trio.fail_after(self.deadlines.of()):
            stream = await self.network.open(peer, PROTOCOL)
            try:
                await send(stream, self._hello(peer))
                answer = await receive(stream, Hello, Refused)
                await stream.close()
            except BaseException:
                await stream.reset()
                raise
        if isinstance(answer, Refused):
            self._refused(answer)
        else:
            self._heard(peer, answer)

    def suspect(self, peer: PeerId) -> None:
        """An exchange with `peer` failed: look at once whether it is still there."""
        if self._nursery is not None and peer not in self._suspected:
            self._suspected.add(peer)
            self._nursery.start_soon(self._check, peer)

    async def greet_all(self) -> None:
        """Tell every member at once where this node stands now."""
        async with trio.open_nursery() as nursery:
            for member in self.view.all():
                nursery.start_soon(self._try_greeting, member.peer)

    async def say_goodbye(self) -> None:
        """Tell the members that this node leaves. They need not answer."""

        async def tell(peer: PeerId) -> None:
            try:
                stream = await self.network.open(peer, PROTOCOL)
                await send(stream, Goodbye())
                await stream.close()
            except LinkError:
                return  # it will notice by itself

        with trio.move_on_after(FAREWELL):
            async with trio.open_nursery() as nursery:
                for member in self.view.all():
                    nursery.start_soon(tell, member.peer)

    async def serve(self, stream: Stream) -> None:
        """Answer one hello."""
        try:
            with trio.fail_after(self.deadlines.of()):
                question = await receive(stream, Hello, Goodbye)
                if isinstance(question, Goodbye):
                    self.lose(stream.peer, "goodbye")
                else:
                    await send(stream, self._answer(stream.peer, question))
        except PeerFault as error:
            self.fault(stream.peer, error)
        except trio.TooSlowError:
            self.fault(stream.peer, PeerFault(Fault.STALLED, "no hello"))

    def fault(self, peer: PeerId, error: PeerFault) -> None:
        """Count a peer's fault. The node goes on."""
        count = self.view.fault(peer, trio.current_time())
        self.publish(PeerFaulted(peer, str(error.fault), error.detail, count))

    def lose(self, peer: PeerId, reason: str) -> None:
        """Take a peer out of the view."""
        if self.view.remove(peer):
            self.publish(PeerLost(peer, reason))
            self._change()
        if reason != "silent" and peer in self._greeting:
            self._greeting[peer].cancel()

    def _answer(self, peer: PeerId, hello: Hello) -> Hello | Refused:
        known = self.view.get(peer)
        if known is not None and known.incarnation > hello.incarnation:
            return Refused("superseded", known.incarnation, known.proof)
        try:
            self._heard(peer, hello)
        except PeerFault as error:
            self.fault(peer, error)
            return Refused(str(error)[:200], 0, b"")
        return self._hello(peer)

    def _heard(self, peer: PeerId, hello: Hello) -> None:
        """Take in what a peer said, if it belongs here."""
        if hello.version != VERSION:
            raise PeerFault(Fault.WRONG_VERSION, f"speaks version {hello.version}, this node {VERSION}")
        if hello.swarm != self.swarm:
            raise PeerFault(Fault.WRONG_SWARM, f"is in swarm {hello.swarm.hex()[:16]}…")
        try:
            public = public_of(peer)
        except ValueError as error:
            raise PeerFault(Fault.NOT_ADMITTED, "its id holds no Ed25519 key") from error
        if not verify(public, hello.proof, claim(self.swarm, hello.incarnation)):
            raise PeerFault(Fault.FALSE_CLAIM, "did not sign its incarnation")
        if self.standing.layout and hello.layout and hello.layout != self.standing.layout:
            raise PeerFault(Fault.WRONG_LAYOUT, "shares other parameters, or by another rule or codec")
        if self.manifest is not None and not admit(self.manifest, peer, hello.credential):
            raise PeerFault(
                Fault.NOT_ADMITTED, f"its credential does not satisfy {self.manifest.admission.policy}"
            )
        known = self.view.get(peer)
        if known is not None and (known.incarnation, known.serial) > (hello.incarnation, hello.serial):
            return  # overtaken by a later word of the same peer
        if self.view.put(member_of(peer, hello, trio.current_time())):
            self.publish(PeerAlive(peer, hello.round))
        self._change()
        self.found(PeerAddress(peer, hello.addresses))
        for hint in hints(hello):
            self.found(hint)

    def _refused(self, answer: Refused) -> None:
        proven = verify(self.key.public, answer.proof, claim(self.swarm, answer.incarnation))
        if answer.incarnation > self.incarnation and proven:
            raise Superseded(answer.incarnation, self.incarnation)
        raise PeerFault(Fault.WRONG_SWARM, f"refused our hello: {answer.reason}")

    def _hello(self, receiver: PeerId) -> Hello:
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
            peers=self.view.gossip(receiver, self.random),
        )

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def _try_greeting(self, peer: PeerId) -> bool:
        """Greet once, and lose the peer when it has missed too many hellos; whether it answered."""
        try:
            await self.greet(peer)
        except (LinkError, trio.TooSlowError):
            if self.view.missed(peer) >= self.timing.misses:
                self.lose(peer, "silent")
            return False
        except PeerFault as error:
            self.fault(peer, error)
            return False
        return True

    async def _check(self, peer: PeerId) -> None:
        while peer in self.view and not await self._try_greeting(peer):  # noqa: ASYNC110 - asks a peer
            await trio.sleep(self.random.uniform(0, self.timing.jitter))
        self._suspected.discard(peer)

    async def _keep_greeting(self, peer: PeerId, scope: trio.CancelScope) -> None:
        """Greet a peer for as long as it answers. Whoever is found again later starts anew."""
        with scope:
            await trio.sleep(self.random.uniform(0, self.timing.jitter))
            while await self._try_greeting(peer) or peer in self.view:  # noqa: ASYNC110 - asks a peer
                await trio.sleep(self.random.uniform(0.5, 1.5) * self.timing.interval)
        if self._greeting.get(peer) is scope:
            del self._greeting[peer]
