"""A whole internet in one process: the deterministic twin of the libp2p host.

Everything that talks to peers talks to `ports.Network`, so everything can run over this one: many
nodes under one virtual clock, with latency, thin links, partitions, crashes, and a tap that can
lose any single message. The same seed gives the same run, to the last byte and instant
(`run_deterministic`). In-memory twins as first-class backends are httpcore's idea; running the real
protocol over a seeded, simulated network is FoundationDB's and iroh-gossip's.

    fabric = MemoryFabric(seed=1, link=Link(latency=0.05))
    async with fabric.network(alice) as a, fabric.network(bob) as b:
        b.serve("/echo/1", echo)
        await a.connect(f"{b.addresses[0]}/p2p/{bob}")
        stream = await a.open(bob, "/echo/1")

A direct connection is a stream of a protocol whose name begins with `bulk_keys.PROTOCOL`: a tap refuses
it by dropping its first message, and breaks it with any later one.

What real hosts have and this does not: connections (streams alone are modelled, and one round trip
opens any of them), handshakes that prove identity (everybody is who they say), and framing bytes
(`traffic` counts what was sent and read, nothing more).
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import TypeVar

import trio
from trio._core import _run as scheduler

from p2pnode.errors import LinkError, PeerFault, Unreachable
from p2pnode.net.bulk_keys import SEED, invite
from p2pnode.net.meeting import Meeting
from p2pnode.net.memory_link import Line, Link, Outage
from p2pnode.net.memory_stream import MemoryStream, Meter, Pipe, Verdict
from p2pnode.ports import Bytes, Handler, PeerAddress, PeerId, Stream, Traffic

T = TypeVar("T")

CONNECT_SECONDS = 10.0
"""How long dialling waits for an answer, as the libp2p host does."""

LOOKUP_LIMIT = 20
"""Most peers that one lookup finds, as in the DHT."""

Tap = Callable[[PeerId, PeerId, str, bytes], Verdict]
"""Decides on every send from its source, target, protocol and data."""


def memory_address(place: str) -> str:
    """Where who is at `place` is dialled: a peer, at the place of its own name unless it says otherwise."""
    return f"/memory/{place}"


class MemoryFabric:
    """The links between all peers, and what goes wrong with them.

    Args:
        seed: of all jitter and loss, and of what lookups find.
        link: every direction between two peers, until `set_link` says otherwise.

    Attributes:
        tap: asked at every `Stream.send`; None delivers all.
        listing: whether the directory answers, and takes announcements.
    """

    def __init__(self, seed: int, link: Link = Link()) -> None:  # noqa: B008 - frozen
        self.seed = seed
        self.tap: Tap | None = None
        self.listing = True
        self._link = link
        self._lines: dict[tuple[PeerId, PeerId], Line] = {}
        self._outages: list[Outage] = []  # those that are on
        self._partition: Outage | None = None
        self._networks: dict[str, MemoryNetwork] = {}  # by place
        self._directory: dict[str, dict[PeerId, PeerAddress]] = {}

    @asynccontextmanager
    async def network(
        self, peer: PeerId, direct: bool = True, place: str = ""
    ) -> AsyncIterator["MemoryNetwork"]:
        """Be `peer` for a while, with direct connections or without. Leaving cancels its handlers.

        Two that have the same name need a `place` of their own each.
        An exception that a handler raises, `LinkError` apart, leaves in an exception group.
        """
        place = place or peer
        if place in self._networks:
            raise ValueError(f"{place} is on the network already")
        async with trio.open_nursery() as nursery:
            network = self._networks[place] = MemoryNetwork(self, peer, nursery, direct, place)
            try:
                yield network
            finally:
                if self._networks.get(place) is network:  # not so when it was killed, perhaps reborn
                    self.kill(place)
                nursery.cancel_scope.cancel()

    def kill(self, place: str) -> None:
        """Let who is at `place` vanish as a killed process does. Whoever calls also cancels its tasks."""
        self._networks.pop(place).hang_up()

    def set_link(self, source: PeerId, target: PeerId, link: Link) -> None:
        """Replace one direction, for what is sent from now on."""
        self.line(source, target).link = link

    def partition(self, groups: Iterable[Iterable[PeerId]]) -> None:
        """Part each group from the others, and all from those who are named in none.

        A partition that was there before is healed.
        """
        self.heal()
        side = {peer: number for number, group in enumerate(groups) for peer in group}
        self._partition = self.cut(lambda source, target: side.get(source) != side.get(target))

    def heal(self) -> None:
        """Join everybody again whom `partition` has parted."""
        if self._partition is not None:
            self.join(self._partition)
            self._partition = None

    def cut(self, cuts: Callable[[PeerId, PeerId], bool]) -> Outage:
        """Let nothing through from now on from each source to each target for which `cuts` is true."""
        outage = Outage(cuts, start=trio.current_time())
        self._outages.append(outage)
        for line in self._lines.values():
            line.notice(outage)
        return outage

    def join(self, outage: Outage) -> None:
        """End an outage."""
        self._outages.remove(outage)
        outage.end = trio.current_time()
        for line in self._lines.values():
            if outage.cuts(line.source, line.target):
                line.changed()

    def line(self, source: PeerId, target: PeerId) -> Line:
        """The one line in this direction; made when first asked for."""
        if (source, target) not in self._lines:
            self._lines[source, target] = Line(source, target, self._link, self._outages, self.seed)
        return self._lines[source, target]

    def resident(self, address: str) -> "MemoryNetwork | None":
        """Who answers at an address."""
        return self._networks.get(address.removeprefix(memory_address("")))

    def name_at(self, address: str) -> PeerId:
        """Whose line leads to an address; that of nobody has the name of the place."""
        there = self.resident(address)
        return there.me if there else PeerId(address.removeprefix(memory_address("")))

    def judge(self, source: PeerId, target: PeerId, protocol: str, data: Bytes) -> Verdict:
        """Ask the tap."""
        return self.tap(source, target, protocol, bytes(data)) if self.tap else Verdict.DELIVER

    def announce(self, swarm: str, peer: PeerAddress) -> None:
        """Enter `peer` in the directory of `swarm`, where it stays: a directory hears of no death."""
        if self.listing:
            self._directory.setdefault(swarm, {})[peer.peer] = peer

    def lookup(self, swarm: str, asker: PeerId, random: Random) -> list[PeerAddress]:
        """Some of those announced under `swarm`, except the asker and whoever it is parted from."""
        found = [entry for peer, entry in self._directory.get(swarm, {}).items() if peer != asker]
        for outage in self._outages:
            found = [e for e in found if not (outage.cuts(e.peer, asker) and outage.cuts(asker, e.peer))]
        return random.sample(found, min(len(found), LOOKUP_LIMIT)) if self.listing else []


class MemoryNetwork:
    """One peer's end of the fabric; implements `ports.Network`. Made by `MemoryFabric.network`.

    Attributes:
        on_fault: never called: nothing is broken below the handlers.
    """

    def __init__(
        self, fabric: MemoryFabric, me: PeerId, nursery: trio.Nursery, direct: bool, place: str
    ) -> None:
        self.me = me
        self._place = place
        self._fabric = fabric
        self._nursery = nursery
        self._alive = True
        self._handlers: dict[str, Handler] = {}
        self._known: dict[PeerId, dict[str, None]] = {}
        self._streams: list[MemoryStream] = []
        self._meter = Meter()
        self.on_fault: Callable[[PeerId, PeerFault], None] = lambda *_: None
        seeds = Random(f"{fabric.seed} {me} direct")
        self._meeting = Meeting[MemoryStream, MemoryStream](
            (lambda: invite(0, seeds.randbytes(SEED))) if direct else None,
            self.open,
            lambda stream, *_: stream,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        return (memory_address(self._place),)

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._meter.sent, self._meter.received)

    def serve(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    def learn(self, peer: PeerAddress) -> None:
        self._known.setdefault(peer.peer, {}).update(dict.fromkeys(peer.addresses))

    async def connect(self, address: str) -> PeerId:
        place, _, expected = address.partition("/p2p/")
        peer = self._fabric.name_at(place)
        if not await self._visit(peer, place, lambda there: there.meet(self)):
            raise Unreachable(f"nobody answers at {place}")
        if expected not in ("", peer):
            raise Unreachable(f"{peer} answers at {place}, not {expected}")
        self.learn(PeerAddress(peer, (place,)))
        return peer

    async def open(self, peer: PeerId, protocol: str) -> MemoryStream:
        places = [place for place in self._known.get(peer, ()) if place.startswith(memory_address(""))]
        if not places:
            await trio.lowlevel.checkpoint()
            raise Unreachable(f"no address of {peer} is known")
        there, back = (Pipe(self._fabric.line(*way)) for way in ((self.me, peer), (peer, self.me)))
        stream = self._own(incoming=back, outgoing=there, protocol=protocol, dialled=True)
        opened = False
        try:
            while places and not opened:  # the newest is the likeliest
                opened = await self._visit(
                    peer, places.pop(), lambda far: far.accept(self, protocol, there, back)
                )
        finally:
            if not opened:
                stream.hang_up()
        if not opened:
            raise Unreachable(f"{peer} is gone or does not speak {protocol}")
        return stream

    def invitation(self, stream: Stream) -> bytes:
        return self._meeting.invitation(stream.peer)

    async def direct(self, stream: Stream, mine: bytes, theirs: bytes, context: bytes) -> MemoryStream | None:
        assert isinstance(stream, MemoryStream)
        return await self._meeting.meet(stream, mine, theirs, context)

    async def disconnect(self, peer: PeerId) -> None:
        for stream in self._streams:
            if stream.peer == peer:
                stream.hang_up()

    async def _visit(self, peer: PeerId, address: str, ask: Callable[["MemoryNetwork"], bool]) -> bool:
        """Put a question to `peer` at the middle of a round trip; False if it is not there."""
        if peer == self.me or not self._alive:
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(CONNECT_SECONDS):
            await self._travel(self.me, peer)
            far = self._fabric.resident(address)
            answer = far is not None and far.me == peer and ask(far)
            await self._travel(peer, self.me)
            return answer and self._alive
        raise Unreachable(f"no answer from {peer} within {CONNECT_SECONDS:g} s")

    async def _travel(self, source: PeerId, target: PeerId) -> None:
        line = self._fabric.line(source, target)
        due = partial(line.due, line.depart(0))
        if due() <= trio.current_time():
            await trio.lowlevel.checkpoint()
        await line.until(due, trio.lowlevel.ParkingLot())

    def meet(self, visitor: "MemoryNetwork") -> bool:
        """Somebody has dialled this network, which now knows where to dial back."""
        self.learn(PeerAddress(visitor.me, visitor.addresses))
        return True

    def accept(self, visitor: "MemoryNetwork", protocol: str, incoming: Pipe, outgoing: Pipe) -> bool:
        """Start to serve a stream that `visitor` opens; False if `protocol` is not served or waited for."""
        self.meet(visitor)
        if protocol in self._meeting.awaited:
            stream = self._own(incoming, outgoing, protocol)
            if not (met := self._meeting.arrived(protocol, stream)):
                stream.hang_up()
            return met
        handler = self._handlers.get(protocol)
        if handler is None:
            return False
        self._nursery.start_soon(self._serve, handler, self._own(incoming, outgoing, protocol))
        return True

    def _own(self, incoming: Pipe, outgoing: Pipe, protocol: str, dialled: bool = False) -> MemoryStream:
        judge = partial(self._fabric.judge, self.me, outgoing.line.target, protocol)
        stream = MemoryStream(incoming, outgoing, self._meter, judge, dialled)
        self._streams = [*(other for other in self._streams if not other.over), stream]
        return stream

    async def _serve(self, handler: Handler, stream: MemoryStream) -> None:
        try:
            with suppress(LinkError):  # nobody's fault: the stream just ends
                await handler(stream)
        finally:
            stream.hang_up()

    def hang_up(self) -> None:
        """End every stream. Nothing can be opened from now on."""
        self._alive = False
        for stream in self._streams:
            stream.hang_up()


class MemoryDiscovery:
    """Finds peers in the fabric's directory; implements `ports.Discovery`.

    Args:
        longest: seconds between two lookups at most, drawn anew each time; the first comes in 2 s.
        addresses: where `me` is; at the place of its name unless it says otherwise.
    """

    def __init__(
        self, fabric: MemoryFabric, me: PeerId, longest: float = 2.0, addresses: tuple[str, ...] = ()
    ) -> None:
        self._fabric = fabric
        self._here = PeerAddress(me, addresses or (memory_address(me),))
        self._longest = longest

    async def run(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        me = self._here.peer
        random = Random(f"{self._fabric.seed} {swarm} {me}")
        pause = min(self._longest, 2.0)
        while True:
            self._fabric.announce(swarm, self._here)
            await trio.sleep(random.uniform(0, pause))
            for peer in self._fabric.lookup(swarm, me, random):
                found(peer)
            pause = self._longest


class VirtualClock(trio.abc.Clock):
    """Stands still while anybody has something to do, and is then at the next deadline at once.

    trio's `MockClock` that jumps does the same, but it takes an idle turn of the event loop for each jump.
    It cannot know of sockets and threads: only of what is called from outside of a task, as the trainer does.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        """Nothing is to be done: it starts with 0."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks when no task can run."""
        runner = scheduler.GLOBAL_RUN_CONTEXT.runner
        calls = runner.entry_queue
        if not (calls.queue or calls.idempotent_queue or runner.waiting_for_idle) and deadline < math.inf:
            self._now = max(self._now, deadline)
        return max(0.0, deadline - self._now)


def run_deterministic(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """`trio.run` under a virtual clock, with tasks scheduled in an order from `seed`.

    trio shuffles runnable tasks on purpose and has no public way to seed that; Hypothesis' plugin
    for trio uses the same two private names. Worker threads are outside all order: use none.
    """
    names = vars(scheduler)
    sorts, shuffler = names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"]
    state = shuffler.getstate()
    names["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    shuffler.seed(seed)
    try:
        return trio.run(main, clock=VirtualClock())
    finally:
        names["_ALLOW_DETERMINISTIC_SCHEDULING"] = sorts
        shuffler.setstate(state)
