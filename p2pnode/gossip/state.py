"""What a newcomer needs: the manifest and a model.

`/p2pnode/state/1`: `Fetch` names the manifest or the model and an offset; `Content` answers with its
SHA-256, its size and the donor's round, and the bytes from that offset follow. A transfer that broke
goes on where it stopped as long as the donor still has that very content. When a donor has gone for good,
another one's model fills the rest: models of one swarm are so near each other that parts of two fit
together, and of a large one over a slow line a part may have taken an hour.

The manifest needs no trust: its hash is the swarm id. The model does. A newcomer asks two donors and
then believes whichever set of parameters has the lowest loss on its own rows, its own start included. But
whose rows are like nobody else's must expect the swarm's model to be bad at them: so two donors are also
believed whose models are much nearer to each other than to that start. One liar cannot bring that about.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import trio

from p2pnode.errors import Disconnected, Fault, LinkError, PeerFault
from p2pnode.gossip.deadlines import Deadlines, Wait, at_most
from p2pnode.gossip.meeting import until
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import Member, Stage
from p2pnode.identity.manifest import Manifest, parse_canonical
from p2pnode.ports import Compute, Model, Network, PeerId, Stream
from p2pnode.wire.messages import Content, Fetch, receive, send

PROTOCOL = "/p2pnode/state/1"
MAX_MANIFEST = 256 * 1024  # bytes; the same bound as for a manifest file
FRESH = (
    1.0  # seconds before a donor makes a new content; whoever resumes one gets it for as long as it is kept
)
PIECE = 1 << 20  # bytes received at once, and at most lost when a transfer breaks
RESUMES = 3  # times a broken transfer from one donor is taken up again

SECOND = 2.0
"""Seconds in which a second donor may be found: whom the first one knows is greeted at once."""

Vector = npt.NDArray[np.float32]


@dataclass
class Donor:
    """Serves the manifest and the model to members.

    Attributes:
        manifest: its canonical bytes.
        model: whose parameters are given away.
        compute: where they are hashed.
        known: whether a peer's hello has succeeded.
        fault: counts a peer's fault.
    """

    manifest: bytes
    model: Model
    compute: Compute
    known: Callable[[PeerId], bool]
    fault: Callable[[PeerId, PeerFault], None]
    deadlines: Deadlines
    _content: memoryview = field(default=memoryview(b""), init=False)
    _digest: bytes = field(default=b"", init=False)
    _round: int = field(default=0, init=False)
    _made: float = field(default=0.0, init=False)
    _going: list[bytes] = field(default_factory=list, init=False)  # digests of what is on its way

    async def serve(self, stream: Stream) -> None:
        """Answer one fetch. A broken link ends it quietly."""
        try:
            with at_most(self.deadlines.first(), "no fetch"):
                question = await receive(stream, Fetch)
            if not self.known(stream.peer):
                raise PeerFault(Fault.UNEXPECTED, "asks for state before its hello")
            content, digest, round = await self._choose(question)
            mine = question.digest in (digest, b"") and question.offset <= len(content)
            offset = question.offset if mine else 0
            self._going.append(digest)
            try:
                with self.deadlines.within(stream.peer, Wait.STATE, "does not take it", len(content)):
                    await send(stream, Content(digest, len(content), offset, round))
                    await stream.send(content[offset:])
            finally:
                self._going.remove(digest)
        except PeerFault as error:
            self.fault(stream.peer, error)

    async def _choose(self, question: Fetch) -> tuple[memoryview, bytes, int]:
        if question.what == "manifest":
            return memoryview(self.manifest), hashlib.sha256(self.manifest).digest(), 0
        if question.what != "model":
            raise PeerFault(Fault.MALFORMED, f"asks for {question.what!r}")
        older = any(digest != self._digest for digest in self._going)  # or slow readers keep a model each
        stale = trio.current_time() - self._made >= FRESH and not older
        if not self._digest or (stale and question.digest != self._digest):
            self._made = trio.current_time()
            round, content = self.model.round, (await self.model.vector()).view(np.uint8).data
            digest = await self.compute(lambda: hashlib.sha256(content).digest())
            self._round, self._content, self._digest = round, content, digest
        return self._content, self._digest, self._round


@dataclass
class Arrival:
    """What has come of a content, from one donor or, of a model, from several.

    Attributes:
        content: as long as all of it.
        arrived: bytes of it that are there.
        digest: SHA-256 of the whole, as the donor named it; empty before.
        round: the donor's; of several, the lowest.
        mixed: it is of several donors, whose models differ.
    """

    content: bytearray = field(default_factory=bytearray)
    arrived: int = 0
    digest: bytes = b""
    round: int = 0
    mixed: bool = False

    def hand_over(self) -> None:
        """Its donor has gone: another may send the rest of its own."""
        self.mixed, self.digest = self.arrived > 0, b""


async def fetch(
    network: Network,
    donor: PeerId,
    what: str,
    deadlines: Deadlines,
    *,
    least: int,
    most: int,
    begun: Arrival | None = None,
) -> Arrival:
    """Fetch the manifest or the model from `donor`, resuming where a broken transfer stopped.

    It must have `least` bytes, and may have `most`. What another donor has sent of it, `begun`, is completed.

    Raises:
        LinkError: the donor cannot be reached, or its transfers keep breaking.
        PeerFault: it stalls, or sends something of another size or hash than it should.
    """
    arrival = begun or Arrival()
    for attempt in range(RESUMES + 1):
        try:
            with deadlines.within(donor, Wait.STATE, f"its {what} did not arrive", most):
                stream = await network.open(donor, PROTOCOL)
                try:
                    await _go_on(stream, what, arrival, least, most)
                    await stream.close()
                except BaseException:
                    await stream.reset()
                    raise
        except Disconnected:
            if attempt == RESUMES:
                raise
        else:
            if not arrival.mixed and hashlib.sha256(arrival.content).digest() != arrival.digest:
                raise PeerFault(Fault.FALSE_CLAIM, f"its {what} does not have the hash it named")
            return arrival
    raise AssertionError("unreachable")


async def _go_on(stream: Stream, what: str, arrival: Arrival, least: int, most: int) -> None:
    """Receive the rest, or another content from its beginning."""
    await send(stream, Fetch(what, arrival.digest, arrival.arrived))
    head = await receive(stream, Content)
    if not least <= head.size <= most:
        raise PeerFault(Fault.OVERSIZED, f"a {what} of {head.size} bytes")
    if head.offset == 0:
        arrival.content, arrival.arrived, arrival.mixed = bytearray(head.size), 0, False
        arrival.digest, arrival.round = head.digest, head.round
    elif arrival.mixed and not arrival.digest:
        arrival.digest, arrival.round = head.digest, min(arrival.round, head.round)
    rest = (arrival.arrived, arrival.digest, len(arrival.content))
    if (head.offset, head.digest, head.size) != rest:
        raise PeerFault(Fault.FALSE_CLAIM, f"goes on with another {what} than it began")
    while arrival.arrived < head.size:
        piece = memoryview(arrival.content)[arrival.arrived : arrival.arrived + PIECE]
        await stream.receive_into(piece)
        arrival.arrived += len(piece)


async def fetch_manifest(membership: Membership, swarm_id: str) -> Manifest:
    """Ask members until one sends bytes that have the swarm's id as their hash."""
    network, deadlines = membership.network, membership.deadlines
    while True:
        changed = membership.changed
        for member in membership.view.partners(trio.current_time()):
            try:
                fetched = await fetch(network, member.peer, "manifest", deadlines, least=1, most=MAX_MANIFEST)
                return parse_canonical(bytes(fetched.content), swarm_id)
            except LinkError:
                membership.suspect(member.peer)
            except PeerFault as error:
                membership.fault(member.peer, error)
        with trio.move_on_after(membership.interval):
            await changed.wait()


@dataclass(frozen=True)
class Offered:
    """A donor's parameters, f32[n], their loss on this node's rows, and the donor's round."""

    donor: PeerId
    vector: Vector
    loss: float
    round: int


async def catch_up(membership: Membership, model: Model) -> PeerId | None:
    """Take the model of one of two donors, where that is to be believed; whose it was.

    A donor that fails is made up for by another.

    Either way the round becomes the donors', the lower one if they differ: a node that joins late
    does not repeat the rounds it missed, and one liar cannot make it skip those still to come.
    Nobody is late for those who have finished no round by now, however fast they begin.
    """
    if not _donors(membership):
        return None
    await until(membership, lambda view: len(_donors(membership)) > 1, SECOND)
    donors = _donors(membership)
    start, least = await model.vector(), finite(await model.loss())
    offers: list[Offered] = []
    begun = Arrival()
    for donor in donors:
        if len(offers) == 2:
            break
        mixed, size = begun.mixed, start.nbytes
        try:
            offered = await _judged(membership, donor, model, size, begun)
            if mixed and not offered.loss < least:  # one of two has sent nonsense, and perhaps not this one
                begun = Arrival()
                offered = await _judged(membership, donor, model, size, begun)
        except LinkError:
            membership.suspect(donor.peer)
            begun.hand_over()
            continue
        except PeerFault as error:
            membership.fault(donor.peer, error)
            begun = Arrival()
            continue
        offers.append(offered)
        begun = Arrival()
    if not offers:
        return None
    best = min(offers, key=lambda offered: offered.loss)
    believed = best.loss < least or (len(offers) == 2 and alike(offers[0].vector, offers[1].vector, start))
    rounds = [offered.round for offered in offers]
    await model.jump(max(model.round, min(rounds)), best.vector if believed else None)
    return best.donor if believed else None


def _donors(membership: Membership) -> list[Member]:
    """Members with a model that somebody has trained, those that have come furthest first."""
    members = sorted(membership.view.partners(trio.current_time()), key=lambda m: (-m.round, m.peer))
    return [member for member in members if member.stage >= Stage.TRAINING and member.round > 0]


def finite(loss: float) -> float:
    """The loss of huge parameters is no number, and then worse than any."""
    return loss if math.isfinite(loss) else math.inf


def alike(one: Vector, other: Vector, start: Vector) -> bool:
    """Whether two models, f32[n], are less than half as far from each other as from `start`."""
    apart = np.linalg.norm(one - other)
    return bool(2 * apart < min(np.linalg.norm(one - start), np.linalg.norm(other - start)))


async def _judged(membership: Membership, donor: Member, model: Model, size: int, begun: Arrival) -> Offered:
    """What the donor has, or the rest of it, and its loss."""
    arrival = await fetch(
        membership.network, donor.peer, "model", membership.deadlines, least=size, most=size, begun=begun
    )
    vector, loss = np.frombuffer(arrival.content, np.float32), math.inf
    if np.isfinite(vector).all():
        loss = finite(await model.loss(vector))
    elif not arrival.mixed:
        raise PeerFault(Fault.NOT_FINITE, "gives away parameters with NaN or infinity")
    return Offered(donor.peer, vector, loss, arrival.round)
