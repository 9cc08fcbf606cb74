"""A cluster without an event loop: for scripts and notebooks.

    with LocalCluster(manifest, nodes=8).sync() as cluster:
        cluster.wait_for(round=10)
        cluster[3].kill()

The cluster's event loop runs in a thread of its own; calls are handed to it and wait for what comes of
them. Reading (events, records, tallies) needs no turn there: what is read is only ever added to.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trio

from p2pnode.events import Event
from p2pnode.observe.console import terminal
from p2pnode.observe.live import LiveView, Row
from p2pnode.observe.stream import Stamped
from p2pnode.observe.tally import Tally
from p2pnode.ports import PeerId

if TYPE_CHECKING:
    from p2pnode.cluster.local import LocalCluster
    from p2pnode.cluster.node import LocalNode

T = TypeVar("T")

Wanted = type[Event] | Callable[[Event], bool]


class Loop:
    """An event loop in a thread, in which one cluster is open.

    Args:
        cluster: not open yet.
    """

    def __init__(self, cluster: "LocalCluster") -> None:
        self._cluster = cluster
        self._executor = ThreadPoolExecutor(1, "p2pnode cluster")
        self._token: Future[trio.lowlevel.TrioToken] = Future()
        self._opened: Future[None] = Future()
        self._scope = trio.CancelScope()

    def open(self) -> None:
        """Return when the cluster is open; raise what it raises."""
        self._running = self._executor.submit(trio.run, self._hold)
        try:
            wait([self._opened, self._running], return_when=FIRST_COMPLETED)
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not self._opened.done():
            self.close()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run `function` over there; what it returns or raises."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token.result())

    def close(self) -> None:
        """Return when the cluster is closed; raise what it raises."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.result().run_sync_soon(self._scope.cancel)
        self._executor.shutdown()
        self._running.result()

    async def _hold(self) -> None:
        self._token.set_result(trio.lowlevel.current_trio_token())
        with self._scope:
            async with self._cluster:
                self._opened.set_result(None)
                await trio.sleep_forever()


class SyncNode:
    """A `LocalNode`, whose methods say what each does; here they block."""

    def __init__(self, node: "LocalNode", loop: Loop) -> None:
        self._node = node
        self._loop = loop

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def data_dir(self) -> Path:
        return self._node.data_dir

    @property
    def pid(self) -> int | None:
        return self._node.pid

    @property
    def exit_code(self) -> int | None:
        return self._node.exit_code

    @property
    def running(self) -> bool:
        return self._node.running

    @property
    def peer(self) -> PeerId:
        return self._node.peer

    @property
    def accuracy(self) -> float:
        return self._node.accuracy

    @property
    def tally(self) -> Tally:
        return self._node.tally

    def events(self, kind: type[Event] = Event) -> list[Stamped]:
        return self._node.events(kind)

    @property
    def end(self) -> str:
        return self._node.end

    @property
    def skew(self) -> float:
        return self._node.skew

    @skew.setter
    def skew(self, seconds: float) -> None:
        self._node.skew = seconds

    def start(self) -> None:
        self._loop.call(self._node.start)

    def kill(self) -> None:
        self._loop.call(self._node.kill)

    def stop(self) -> None:
        self._loop.call(self._node.stop)

    def restart(self) -> None:
        self._loop.call(self._node.restart)

    def freeze(self) -> None:
        self._loop.call(self._node.freeze)

    def thaw(self) -> None:
        self._loop.call(self._node.thaw)

    def pause(self) -> None:
        self._loop.call(self._node.pause)

    def resume(self) -> None:
        self._loop.call(self._node.resume)

    def wait_for(
        self,
        *,
        round: int | None = None,
        accuracy: float | None = None,
        event: Wanted | None = None,
        timeout: float | None = None,
    ) -> None:
        async def wait() -> None:
            await self._node.wait_for(round=round, accuracy=accuracy, event=event, timeout=timeout)

        self._loop.call(wait)


class SyncCluster:
    """A `LocalCluster`, whose methods say what each does; here they block. Made by `LocalCluster.sync`."""

    def __init__(self, cluster: "LocalCluster", live: bool) -> None:
        self._cluster = cluster
        self._loop = Loop(cluster)
        self._shown = contextlib.ExitStack()
        self._live = live

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as shown:
            if self._live:
                rows = {f"node {index + 1}": Row() for index in range(len(self._cluster))}
                self._cluster.subscribe(shown.enter_context(LiveView(terminal(), rows)).update)
            self._loop.open()
            self._shown = shown.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._shown:
            self._loop.close()

    def __len__(self) -> int:
        return len(self._cluster)

    def __getitem__(self, index: int) -> SyncNode:
        return SyncNode(self._cluster[index], self._loop)

    def __iter__(self) -> Iterator[SyncNode]:
        return (SyncNode(node, self._loop) for node in self._cluster)

    @property
    def running(self) -> list[SyncNode]:
        return [node for node in self if node.running]

    def wait_for(
        self,
        *,
        round: int | None = None,
        accuracy: float | None = None,
        event: Wanted | None = None,
        timeout: float | None = None,
        nodes: Iterable[SyncNode] | None = None,
    ) -> None:
        awaited = None if nodes is None else {node.name for node in nodes}
        theirs = [node for node in self._cluster if awaited is None or node.name in awaited]

        async def wait() -> None:
            await self._cluster.wait_for(
                round=round, accuracy=accuracy, event=event, timeout=timeout, nodes=theirs
            )

        self._loop.call(wait)

    def partition(self, *groups: Iterable[int]) -> None:
        self._loop.call(self._cluster.partition, *groups)

    def heal(self) -> None:
        self._loop.call(self._cluster.heal)

    def throttle(self, index: int, rate: int | None) -> None:
        self._loop.call(self._cluster.throttle, index, rate)

    def wait_end(self) -> dict[str, int]:
        return self._loop.call(self._cluster.wait_end)

    def events(self, kind: type[Event] = Event) -> list[tuple[str, Stamped]]:
        return self._cluster.events(kind)

    def records(self) -> list[dict[str, Any]]:
        return self._cluster.records()
