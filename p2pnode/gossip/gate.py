"""Where a node's training waits while a person has paused it.

Only training and exchanges wait. Hellos go on, so the others keep the node in their views; it
declines their offers in a way that makes them ask somebody else.
"""

import trio


class Gate:
    """Open until it is shut."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    @property
    def shut(self) -> bool:
        return not self._opened.is_set()

    def close(self) -> None:
        """Let nobody pass from now on."""
        if not self.shut:
            self._opened = trio.Event()

    def open(self) -> None:
        """Let pass who waits, and everybody after."""
        self._opened.set()

    async def passed(self) -> None:
        """Wait while the gate is shut. When this returns, it is open."""
        while self.shut:
            await self._opened.wait()
