"""The connections that are open, by peer, and which of them make room for others.

Two peers that dial each other at once end with two connections, and both work; the newest is used. Where
there are too many, the oldest idle one is closed for the one that comes: it counts no more from the moment in
which it is chosen, for closing it takes a while, in which others may come.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from p2pnode.net.connection import Connection
from p2pnode.net.limits import MOST_CONNECTIONS, MOST_CONNECTIONS_PER_PEER, MOST_CONNECTIONS_PER_SUBNET
from p2pnode.ports import PeerId


class Connections:
    """All of one node.

    Args:
        close: begins to close one.
    """

    def __init__(self, close: Callable[[Connection], object]) -> None:
        self._close = close
        self._open: dict[PeerId, list[Connection]] = {}

    def __iter__(self) -> Iterator[Connection]:
        return (one for some in self._open.values() for one in some)

    @property
    def peers(self) -> Sequence[PeerId]:
        """Those that a connection is open with."""
        return [peer for peer in self._open if self.newest(peer)]

    def of(self, peer: PeerId) -> Sequence[Connection]:
        """Oldest first."""
        return tuple(self._open.get(peer, ()))

    def newest(self, peer: PeerId) -> Connection | None:
        """The one to use, if there is one."""
        usable = (one for one in reversed(self.of(peer)) if one.alive and one.received != one.doubted)
        return next(usable, None)

    def admit(self, connection: Connection) -> bool:
        """Take one in, if need be in the place of another; False when there is no room."""
        crowd = self._crowd(connection.subnet)
        if crowd is not None:
            idle = next((one for one in crowd if one.idle), None)
            if idle is None:
                return False
            self._retire(idle)
        mine = self._open.setdefault(connection.peer, [])
        mine.append(connection)
        for one in _staying(mine)[:-MOST_CONNECTIONS_PER_PEER]:
            self._retire(one)
        return True

    def full(self, subnet: str | None) -> bool:
        """Whether another that comes from there would find no room."""
        crowd = self._crowd(subnet)
        return crowd is not None and not any(one.idle for one in crowd)

    def remove(self, connection: Connection) -> None:
        """It has ended."""
        mine = self._open[connection.peer]
        mine.remove(connection)
        if not mine:
            del self._open[connection.peer]

    def _crowd(self, subnet: str | None) -> Sequence[Connection] | None:
        """Of whom one must go before another comes; None when there is room."""
        everyone = _staying(self)
        near = [one for one in everyone if subnet is not None and one.subnet == subnet]
        if len(near) >= MOST_CONNECTIONS_PER_SUBNET:
            return near
        return everyone if len(everyone) >= MOST_CONNECTIONS else None

    def _retire(self, connection: Connection) -> None:
        connection.leaving = True
        self._close(connection)


def _staying(connections: Iterable[Connection]) -> list[Connection]:
    return [one for one in connections if not one.leaving]
