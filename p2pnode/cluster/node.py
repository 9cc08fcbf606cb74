"""One node of a cluster, as its owner sees and steers it.

A node is a process that may be killed and started again: with the same data directory it is the same
peer. What it says is kept here, over all its starts; a tally is of the last start alone.
"""

import json
import pickle
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from p2pnode.cluster.assignment import Assignment
from p2pnode.cluster.goal import Changes, Goal, accuracy, arrive
from p2pnode.cluster.launcher import Launcher, lines
from p2pnode.events import Event, NodeReady
from p2pnode.observe.control import ask
from p2pnode.observe.stream import Stamped, from_json
from p2pnode.observe.tally import Tally
from p2pnode.ports import PeerId

Watch = Callable[[str, Stamped], None]
"""Is told every event of every node, with the node's name."""

GRACE = 15.0
"""Seconds that a node has for a good end: its goodbyes may take ten."""


class LocalNode:
    """One node of a `LocalCluster`, made by it.

    Attributes:
        name: `node 1`, `node 2`, …
        data_dir: its files, see `storage.directory`.
        pid: of its process, the last one when it has ended; None before its first start.
        exit_code: of the last process; negative for the signal that killed it, None while it runs.
        tally: sums and last values since its last start.
        skew: seconds by which its clock is ahead from its next start on; may be set.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        assign: Callable[[], Assignment],
        launcher: Launcher,
        nursery: trio.Nursery,
        changes: Changes,
        watch: Watch,
    ) -> None:
        self.name = name
        self.data_dir = data_dir
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.tally = Tally()
        self.skew = 0.0
        self._assign = assign
        self._launcher = launcher
        self._nursery = nursery
        self._changes = changes
        self._watch = watch
        self._history: list[Stamped] = []
        self._since = 0  # where in the history the last start is
        self._heard = True  # all that the last process had to say
        self._mistake = ""

    # --- what it is ---

    @property
    def running(self) -> bool:
        """Whether its process lives, or has said something that was not heard yet."""
        return self.pid is not None and (self.exit_code is None or not self._heard)

    @property
    def peer(self) -> PeerId:
        """Its peer id, the same after a restart."""
        return next(one.event.peer for one in self._history if isinstance(one.event, NodeReady))

    @property
    def accuracy(self) -> float:
        """The latest: on the common test set, or on its hold-out where there is none; 0 before the first."""
        return accuracy(self.tally)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is reached, with its peer id; empty until it is ready."""
        for stamped in self.recent():
            if isinstance(ready := stamped.event, NodeReady):
                return tuple(f"{address}/p2p/{ready.peer}" for address in ready.addresses)
        return ()

    @property
    def end(self) -> str:
        """How its last process ended, in words."""
        if self._mistake:
            return f"gave up: {self._mistake}"
        match self.exit_code:
            case None:
                return "has not ended"
            case 0:
                return "ended"
            case code if code < 0:
                return f"was killed ({signal.Signals(-code).name})"
            case code:
                return f"failed (exit code {code}, see stderr)"

    def events(self, kind: type[Event] = Event) -> list[Stamped]:
        """Its events of one kind, over all its starts."""
        return [one for one in self._history if isinstance(one.event, kind)]

    def recent(self) -> list[Stamped]:
        """Its events since its last start."""
        return self._history[self._since :]

    # --- what it is told ---

    async def wait_for(
        self,
        *,
        round: int | None = None,
        accuracy: float | None = None,
        event: type[Event] | Callable[[Event], bool] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - its error names who is late
    ) -> None:
        """As `LocalCluster.wait_for`, for this node alone."""
        rounds = self._assign().manifest.training.rounds
        await arrive([self], Goal(round, accuracy, event), rounds, self._changes, timeout)

    async def start(self) -> None:
        """Start a process, which goes on from the files in the data directory. Returns when it has a pid."""
        assert not self.running, f"{self.name} runs already"
        self.pid = self.exit_code = None
        self.tally, self._mistake = Tally(), ""
        self._since, self._heard = len(self._history), False
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with theirs:
            await self._launcher.start(self.name, self, theirs)
        self._nursery.start_soon(self._listen, stream, pickle.dumps(self._assign()))
        await self._changes.until(lambda: self.pid is not None)

    async def stop(self) -> None:
        """End it in good order: it saves and says goodbye, a frozen one too. After 15 s it is killed."""
        await self.thaw()
        with trio.move_on_after(GRACE):
            await self._end(signal.SIGTERM)
            return
        await self.kill()

    async def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Start it again, after a `stop` if it still runs. Returns when it is ready."""
        await self.stop()
        await self.start()
        await self.wait_for(event=NodeReady)

    async def freeze(self) -> None:
        """Let its process stand still (SIGSTOP): peers wait for it, and hear nothing."""
        await self._launcher.signal(self.name, signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let its process go on after a `freeze` (SIGCONT)."""
        await self._launcher.signal(self.name, signal.SIGCONT)

    async def pause(self) -> None:
        """Let it take no further steps, but answer its peers."""
        await self._ask("pause")

    async def resume(self) -> None:
        """Let it go on after a `pause`."""
        await self._ask("resume")

    async def _ask(self, command: str) -> None:
        await trio.to_thread.run_sync(partial(ask, self.data_dir, command))

    async def _end(self, number: signal.Signals) -> None:
        if self.running:
            await self._launcher.signal(self.name, number)
            await self._changes.until(lambda: not self.running)

    # --- what is heard of it ---

    def started(self, pid: int) -> None:
        """The process is there."""
        self.pid = pid
        self._changes.tell()

    def ended(self, code: int) -> None:
        """The process is gone."""
        self.exit_code = code
        self._changes.tell()

    async def _listen(self, stream: trio.SocketStream, assignment: bytes) -> None:
        """Tell the process what it is to be, and take in its events until it ends, whatever is cancelled."""
        try:
            with trio.CancelScope(shield=True):
                async with stream:
                    await stream.send_all(assignment)
                    await stream.send_eof()
                    async for line in lines(stream):
                        self._take(json.loads(line))
        except trio.BrokenResourceError:
            return  # it was killed; with which code comes from the launcher
        finally:
            self._heard = True
            self._changes.tell()

    def _take(self, content: dict[str, object]) -> None:
        match content:
            case {"mistake": str(mistake)}:
                self._mistake = mistake
            case _:
                stamped = from_json(content)
                self._history.append(stamped)
                self.tally(stamped)
                self._watch(self.name, stamped)
                self._changes.tell()
