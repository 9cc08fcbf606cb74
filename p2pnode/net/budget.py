"""How many bytes peers may make a node keep, on one connection and on all of them together.

Who is beyond what one connection may have has broken a rule. When there is too much on all of them, it may
be many that have a little each, and whoever happens to send next is not to blame: then the one goes on which
most lies unread.
"""

from typing import Protocol


class User(Protocol):
    """A connection that spends."""

    @property
    def unread(self) -> int:
        """Bytes that lie there unread."""
        ...

    def cut(self) -> None:
        """End it soon: it has most of all that lies unread."""
        ...


class Budget:
    """Bytes that may be spent, here and in what this is a part of.

    Args:
        most: bytes.
        parent: of the node; None if this is that.

    Attributes:
        users: of a node's: the connections that spend it.
    """

    def __init__(self, most: int, parent: "Budget | None" = None) -> None:
        self.users: list[User] = []
        self._most = most
        self._parent = parent
        self._spent = 0

    @property
    def overdrawn(self) -> bool:
        """Whether more is spent than there was."""
        return self._spent > self._most

    @property
    def spare(self) -> int:
        """How much may be granted: half of all stays for what senders need not ask for."""
        mine = max(0, self._most // 2 - self._spent)
        return mine if self._parent is None else min(mine, self._parent.spare)

    def spend(self, size: int) -> None:
        """Spend so much, or give back what is negative."""
        self._spent += size
        if self._parent is not None:
            self._parent.spend(size)
        elif size > 0 and self.overdrawn and self.users:
            max(self.users, key=lambda user: user.unread).cut()
