"""What a newcomer needs: the manifest and a model.

`/p2pnode/state/1`: `Fetch` names the manifest or the model and an offset; `Content` answers with its
SHA-256, its size and the donor's round, and the bytes from that offset follow. A transfer that broke
goes on where it stopped as long as the donor still has that very content.

The manifest needs no trust: its hash is the swarm id. The model does. A newcomer asks two donors and
then believes whichever set of parameters has the lowest loss on its own rows, its own start included.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import trio

from p2pnode.config import Deadlines
from p2pnode.errors import Disconnected, Fault, LinkError, PeerFault
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.view import Stage, View
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
            with trio.fail_after(self.deadlines.of()):
                question = await receive(stream, Fetch)
            if not self.known(stream.peer):
                raise PeerFault(Fault.UNEXPECTED, "asks for state before its hello")
            content, digest, round = await self._choose(question)
            offset = question.offset if question.digest == digest and question.offset <= len(content) else 0
            with trio.fail_after(self.deadlines.of(len(content))):
                await send(stream, Content(digest, len(content), offset, round))
                await stream.send(content[offset:])
        except trio.TooSlowError:
            self.fault(stream.peer, PeerFault(Fault.STALLED, "fetches too slowly"))
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


@dataclass(frozen=True)
class Fetched:
    """Content whose hash is right. `round` is the donor's."""

    content: bytearray
    round: int


@dataclass
class _Partial:
    """What has arrived of a content so far."""

    content: bytearray = field(default_factory=bytearray)
    arrived: int = 0
    digest: bytes = b""


async def fetch(
    network: Network, donor: PeerId, what: str, deadlines: Deadlines, *, least: int, most: int
) -> Fetched:
    """Fetch the manifest or the model from `donor`, resuming where a broken transfer stopped.

    Raises:
        LinkError: the donor cannot be reached, or its transfers keep breaking.
        PeerFault: it stalls, or sends something of another size or hash than it should.
    """
    partial = _Partial()
    for attempt in range(RESUMES + 1):
        try:
            with trio.fail_after(deadlines.of(most)):
                stream = await network.open(donor, PROTOCOL)
                try:
                    round = await _go_on(stream, what, partial, least, most)
                    await stream.close()
                except BaseException:
                    await stream.reset()
                    raise
        except Disconnected:
            if attempt == RESUMES:
                raise
        except trio.TooSlowError as error:
            raise PeerFault(Fault.STALLED, f"did not deliver its {what}") from error
        else:
            if hashlib.sha256(partial.content).digest() != partial.digest:
                raise PeerFault(Fault.FALSE_CLAIM, f"its {what} does not have the hash it named")
            return Fetched(partial.content, round)
    raise AssertionError("unreachable")


async def _go_on(stream: Stream, what: str, partial: _Partial, least: int, most: int) -> int:
    """Receive the rest of `partial`, or another content from its beginning; the donor's round."""
    await send(stream, Fetch(what, partial.digest, partial.arrived))
    head = await receive(stream, Content)
    if not least <= head.size <= most:
        raise PeerFault(Fault.OVERSIZED, f"a {what} of {head.size} bytes")
    if head.offset == 0:
        partial.content, partial.arrived, partial.digest = bytearray(head.size), 0, head.digest
    rest = (partial.arrived, partial.digest, len(partial.content))
    if (head.offset, head.digest, head.size) != rest:
        raise PeerFault(Fault.FALSE_CLAIM, f"goes on with another {what} than it began")
    while partial.arrived < head.size:
        piece = memoryview(partial.content)[partial.arrived : partial.arrived + PIECE]
        await stream.receive_into(piece)
        partial.arrived += len(piece)
    return head.round


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


async def catch_up(
    network: Network,
    view: View,
    model: Model,
    deadlines: Deadlines,
    fault: Callable[[PeerId, PeerFault], None],
) -> PeerId | None:
    """Take the model of one of two donors, where that is better than our own; whose it was.

    A donor that fails is made up for by another.

    Either way the round becomes the donors', the lower one if they differ: a node that joins late
    does not repeat the rounds it missed, and one liar cannot make it skip those still to come.
    Nobody is late for those who have finished no round by now, however fast they begin.
    """
    members = sorted(view.partners(trio.current_time()), key=lambda m: (-m.round, m.peer))
    donors = [m for m in members if m.stage >= Stage.TRAINING and m.round > 0]
    size = (await model.vector()).nbytes
    best, chosen = await model.loss(), None
    vector: npt.NDArray[np.float32] | None = None
    rounds: list[int] = []
    for donor in donors:
        if len(rounds) == 2:
            break
        try:
            fetched = await fetch(network, donor.peer, "model", deadlines, least=size, most=size)
            offered = np.frombuffer(fetched.content, np.float32)
            if not np.isfinite(offered).all():
                raise PeerFault(Fault.NOT_FINITE, "gives away parameters with NaN or infinity")
        except LinkError:
            continue
        except PeerFault as error:
            fault(donor.peer, error)
            continue
        loss = await model.loss(offered)
        rounds.append(fetched.round)
        if loss < best:
            best, chosen, vector = loss, donor.peer, offered
    if rounds:
        await model.jump(max(model.round, min(rounds)), vector)
    return chosen
