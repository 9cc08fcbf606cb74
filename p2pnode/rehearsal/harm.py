"""What goes wrong with machines, with the network between them, and with the directory."""

from collections.abc import Callable, Iterable, Mapping

import trio

from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link, Outage
from p2pnode.ports import PeerId
from p2pnode.rehearsal.machine import Machine
from p2pnode.rehearsal.scenario import Incident, Way


class Harm:
    """All that is wrong now.

    Args:
        fabric: the network.
        peer: the name of each node by its number, whether it was ever started or not.
        machine: what it runs on.

    Attributes:
        deeds: what can be done, by the incident's kind.
    """

    def __init__(
        self, fabric: MemoryFabric, peer: Callable[[int], PeerId], machine: Callable[[int], Machine]
    ) -> None:
        self.deeds: Mapping[str, Callable[[Incident], None]] = {
            "freeze": lambda deed: self._each(deed.nodes, self._freeze),
            "thaw": lambda deed: self._each(deed.nodes, self._thaw),
            "clock": lambda deed: self._each(deed.nodes, lambda node: machine(node).jump(deed.seconds)),
            "partition": self._partition,
            "heal": lambda _: self._heal(),
            "cut": self._cut,
            "mend": lambda deed: self._join((deed.source, deed.target)),
            "link": self._link,
            "directory-down": lambda _: self._list(answers=False),
            "directory-up": lambda _: self._list(answers=True),
        }
        self._fabric = fabric
        self._peer = peer
        self._machine = machine
        self._outages: dict[object, Outage] = {}
        self._apart: set[str] = set()  # what keeps nodes from finding each other
        self._together = 0.0  # when nothing did for the first time
        self._thawed: dict[int, float] = {}

    def since(self, node: int) -> float | None:
        """From when on nothing has kept a node from the others; None while something does."""
        if self._apart or self._machine(node).frozen is not None:
            return None
        return max(self._together, self._thawed.get(node, 0.0))

    def _each(self, nodes: Iterable[int], do: Callable[[int], None]) -> None:
        for node in nodes:
            do(node)

    def _freeze(self, node: int) -> None:
        peer = self._peer(node)
        self._machine(node).freeze()
        self._begin(("frozen", node), lambda source, target: peer in (source, target))

    def _thaw(self, node: int) -> None:
        self._machine(node).thaw()
        self._join(("frozen", node))
        self._thawed[node] = trio.current_time()

    def _partition(self, deed: Incident) -> None:
        self._fabric.partition(map(self._peer, group) for group in deed.groups)
        self._apart.add("partition")

    def _heal(self) -> None:
        self._fabric.heal()
        self._rejoined("partition")

    def _list(self, *, answers: bool) -> None:
        self._fabric.listing = answers
        if answers:
            self._rejoined("directory")
        else:
            self._apart.add("directory")

    def _rejoined(self, what: str) -> None:
        self._apart.discard(what)
        self._together = trio.current_time()

    def _cut(self, deed: Incident) -> None:
        sources, targets = frozenset(map(self._peer, deed.source)), frozenset(map(self._peer, deed.target))
        self._begin((deed.source, deed.target), lambda s, t: s in sources and t in targets)

    def _link(self, deed: Incident) -> None:
        for source in deed.source:
            for target in deed.target:
                if source != target:
                    self._fabric.set_link(self._peer(source), self._peer(target), link_of(deed.way))

    def _begin(self, name: object, cuts: Callable[[PeerId, PeerId], bool]) -> None:
        if name not in self._outages:
            self._outages[name] = self._fabric.cut(cuts)

    def _join(self, name: object) -> None:
        if (outage := self._outages.pop(name, None)) is not None:
            self._fabric.join(outage)


def link_of(way: Way) -> Link:
    """The same for the network."""
    return Link(way.latency, way.jitter, way.bandwidth, way.loss)
