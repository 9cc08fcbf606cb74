"""What a newcomer needs: the manifest and a model.

`/p2pnode/state/1`: `Fetch` names the manifest or the model and an offset; `Content` answers with its
SHA-256, its size and the donor's round, and the bytes from that offset follow. A transfer that broke
goes on where it stopped as long as the donor still has that very content. When a donor has gone for good,
another one's model fills the rest: models of one swarm are so near each other that parts of two fit
together, and of a large one over a slow line a part may have taken an hour.

The manifest needs no trust: its hash is the swarm id. The model does. A newcomer asks two donors and
then believes whichever set of parameters has the lowest loss on its own rows, its own start included.
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

    async def serve(self, stream: Stream) -> None:
        """Answer one fetch. A broken link ends it quietly."""
        try:
            async with at_most(self.deadlines.first(), "no fetch"):
                question = await receive(stream, Fetch)
            if not self.known(stream.peer):
                raise PeerFault(Fault.UNEXPECTED, "asks for state before its hello")
            content, digest, round = await self._choose(question)
            mine = question.digest in (digest, b"") and question.offset <= len(content)
            offset = question.offset if mine else 0
            async with self.deadlines.within(stream.peer, Wait.STATE, "does not take it", len(content)):
                await send(stream, Content(digest, len(content), offset, round))
                await stream.send(content[offset:])
        except PeerFault as error:
            self.fault(stream.peer, error)

    async def _choose(self, question: Fetch) -> tuple[memoryview, bytes, int]:
        if question.what == "manifest":
            return memoryview(self.manifest), hashlib.sha256(self.manifest).digest(), 0
        if question.what != "model":
            raise PeerFault(Fault.MALFORMED, f"asks for {question.what!r}")
        stale = trio.current_time() - self._made >= FRESH
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
            async with deadlines.within(donor, Wait.STATE, f"its {what} did not arrive", most):
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
        with trio.move_on_after(membership.timing.interval):
            await changed.wait()


async def catch_up(membership: Membership, model: Model) -> PeerId | None:
    """Take the model of one of two donors, where that is better than our own; whose it was.

    A donor that fails is made up for by another.

    Either way the round becomes the donors', the lower one if they differ: a node that joins late
    does not repeat the rounds it missed, and one liar cannot make it skip those still to come.
    Nobody is late for those who have finished no round by now, however fast they begin.
    """
    members = sorted(membership.view.partners(trio.current_time()), key=lambda m: (-m.round, m.peer))
    donors = [m for m in members if m.stage >= Stage.TRAINING and m.round > 0]
    size = (await model.vector()).nbytes
    best, chosen = await model.loss(), None
    vector: npt.NDArray[np.float32] | None = None
    rounds: list[int] = []
    begun = Arrival()
    for donor in donors:
        if len(rounds) == 2:
            break
        mixed = begun.mixed
        try:
            offered, loss = await _judged(membership, donor, model, size, begun)
            if mixed and not loss < best:  # one of two has sent nonsense, and perhaps not this one
                begun = Arrival()
                offered, loss = await _judged(membership, donor, model, size, begun)
        except LinkError:
            membership.suspect(donor.peer)
            begun.hand_over()
            continue
        except PeerFault as error:
            membership.fault(donor.peer, error)
            begun = Arrival()
            continue
        rounds.append(begun.round)
        begun = Arrival()
        if loss < best:
            best, chosen, vector = loss, donor.peer, offered
    if rounds:
        await model.jump(max(model.round, min(rounds)), vector)
    return chosen


async def _judged(
    membership: Membership, donor: Member, model: Model, size: int, begun: Arrival
) -> tuple[npt.NDArray[np.float32], float]:
    """The donor's parameters, or the rest of them, f32[n], and their loss on this node's rows."""
    arrival = await fetch(
        membership.network, donor.peer, "model", membership.deadlines, least=size, most=size, begun=begun
    )
    offered = np.frombuffer(arrival.content, np.float32)
    if np.isfinite(offered).all():
        return offered, await model.loss(offered)
    if not arrival.mixed:
        raise PeerFault(Fault.NOT_FINITE, "gives away parameters with NaN or infinity")
    return offered, math.inf
