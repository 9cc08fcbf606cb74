"""A swarm on this machine, for scripts and tests: every node a process, each to be steered.

    async with LocalCluster(manifest, nodes=8) as cluster:
        await cluster.wait_for(round=10)
        await cluster[3].kill()
        await cluster[3].restart()

The nodes are whole ones: libp2p on loopback, a data directory each. All but the first are told where
the first one is (its port is held for it, so that all can start at once), and find the others through
the DHT and through each other. Nothing outlives the block, nor this process: no node, no socket, and
no temporary folder.

Separate nodes have a network each, as machines have, joined by a virtual switch: see `p2pnode.switch`.
The network can then be parted, and healed.
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from p2pnode import switch
from p2pnode.cluster.assignment import Assignment, Source, file_of, sources, usual
from p2pnode.cluster.goal import Changes, Goal, arrive
from p2pnode.cluster.launcher import Server, launcher, prepared
from p2pnode.cluster.node import LocalNode, Watch
from p2pnode.cluster.sync import SyncCluster
from p2pnode.cluster.wiring import cut, entry, listening
from p2pnode.config import Config
from p2pnode.errors import UserError
from p2pnode.events import Event, NodeReady, RoundFinished
from p2pnode.identity.manifest import Manifest, load_manifest
from p2pnode.observe.stream import Stamped

if TYPE_CHECKING:  # it brings JAX, which only nodes need
    from p2pnode.learning.own import Own

HINTS = 3
"""Running nodes whose addresses a restarted one is told: one of them may end in that moment."""


class LocalCluster:
    """Some nodes of one swarm. An async context manager, and a sequence of `LocalNode` inside of it.

    Entering it returns when all nodes are ready; leaving it ends them in good order.

    Args:
        manifest: of the swarm, or its file.
        nodes: how many.  [default: as many as `data` has, or 4]
        data: for each node a file, its `Rows`, or a `Shard`.  [default: a share of the task's own data]
        uneven: deals the task's own data out by Dirichlet's alpha: 0.3 is very uneven, 100 hardly.
        folder: for the data directories `node-1`, `node-2`, …, which are used again where they
            exist.  [default: a temporary one, removed in the end]
        config: of every node, or one for each. Where they listen is the cluster's choice, and peers
            are added.  [default: training begins when all have met]
        separate: give each node a network of its own, for `partition`. On Linux, to root or where
            user namespaces are allowed; entering raises UserError elsewhere. Nobody else reaches them.
        task: where the manifest's task is in a file, `mymodel.py:task` or what `learning.own.run` made
            of it. Every node runs the file: who names it here has agreed to that.

    Raises:
        UserError: what is asked for does not fit together.
    """

    def __init__(
        self,
        manifest: Manifest | Path | str,
        nodes: int | None = None,
        data: Sequence[Source] | None = None,
        uneven: float | None = None,
        folder: Path | None = None,
        config: Config | Sequence[Config] | None = None,
        separate: bool = False,
        task: "Own | Path | str | None" = None,
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else load_manifest(Path(manifest))
        self._file = None if task is None else file_of(task, self.manifest)
        self._sources = sources(nodes, data, uneven)
        count = len(self._sources)
        config = usual(count, self.manifest) if config is None else config
        self._configs = [config] * count if isinstance(config, Config) else list(config)
        if len(self._configs) != count:
            raise UserError(f"{len(self._configs)} configs for {count} nodes: give one, or one for each")
        self._folder = folder
        self._server: Server | None = None
        self._separate = separate
        self._parts = cut([], count)
        self._watchers: list[Watch] = []
        self._changes = Changes()
        self._nodes: list[LocalNode] = []
        self._entry = ""
        self._block: AbstractAsyncContextManager[None] = self._run()

    def sync(self, live: bool = True, server: Server | None = None) -> SyncCluster:
        """The same for scripts and notebooks without an event loop: `with LocalCluster(…).sync() as cluster`.

        Args:
            live: show on stderr what the nodes do.
            server: a fork server of `launcher.forked`, spent by this cluster.  [default: one is started]
        """
        self._server = server
        return SyncCluster(self, live)

    def subscribe(self, watch: Watch) -> None:
        """Let `watch` be told every event from now on, with the node's name, from within the event loop."""
        self._watchers.append(watch)

    async def __aenter__(self) -> Self:
        await self._block.__aenter__()
        try:
            await self._start()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if cancelled(error):
            return await self._block.__aexit__(kind, error, trace)
        # An error of the block's is not one of the tasks in here: it leaves as it came, in no group.
        await self._block.__aexit__(None, None, None)
        return False

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> LocalNode:
        return self._nodes[index]

    def __iter__(self) -> Iterator[LocalNode]:
        return iter(self._nodes)

    @property
    def running(self) -> list[LocalNode]:
        """The nodes whose processes live."""
        return [node for node in self._nodes if node.running]

    async def wait_for(
        self,
        *,
        round: int | None = None,
        accuracy: float | None = None,
        event: type[Event] | Callable[[Event], bool] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - its error names who is late
        nodes: Iterable[LocalNode] | None = None,
    ) -> None:
        """Wait until every one of `nodes` (all) has come to everything that is named.

        Args:
            round: finished.
            accuracy: the latest; on the common test set, or on the node's hold-out where there is none.
            event: a kind of event, or a predicate of events; since the node's last start.
            timeout: seconds.
            nodes: e.g. `cluster.running`, when others were killed.

        Raises:
            UserError: the swarm has not so many rounds.
            NodeEnded: one of them has ended elsewhere; the message says how.
            TimeoutError: the message names those that are late.
        """
        awaited = self._nodes if nodes is None else list(nodes)
        rounds = self.manifest.training.rounds
        await arrive(awaited, Goal(round, accuracy, event), rounds, self._changes, timeout)

    async def partition(self, *groups: Iterable[int]) -> None:
        """Part the network: nodes reach those of their own group only, as when a cable is pulled.

        Nothing is refused or reset. What is sent to the others is lost without a word, and connections
        with them hang until a node gives up on them. A node that is restarted stays in its group.
        The next call replaces this one's groups.

        Args:
            groups: indices of nodes; those that no group names are one more.

        Raises:
            UserError: the nodes are not `separate`, or an index is of no node, or there twice.
        """
        if not self._separate:
            raise UserError("all nodes share one network: make the cluster with separate=True to part it")
        parts = cut(groups, len(self))
        await self._launcher.connect([[self._nodes[index].name for index in part] for part in parts])
        self._parts = parts

    async def heal(self) -> None:
        """Let all nodes reach each other again after a `partition`."""
        await self.partition()

    async def throttle(self, index: int, rate: int | None) -> None:
        """Let no more than `rate` bits a second through to a node and as many from it; None for no limit.

        Raises:
            UserError: the nodes are not `separate`, or this system cannot do it.
        """
        if not self._separate:
            raise UserError("nodes share one network: make the cluster with separate=True to throttle one")
        await self._launcher.throttle(self._nodes[index].name, rate)

    async def wait_end(self) -> dict[str, int]:
        """Wait until no node runs; their exit codes by name, 0 for a good end."""
        await self._changes.until(lambda: not self.running)
        return {node.name: node.exit_code for node in self._nodes if node.exit_code is not None}

    def events(self, kind: type[Event] = Event) -> list[tuple[str, Stamped]]:
        """The nodes' events of one kind, with their names, in the order of time."""
        return sorted(
            ((node.name, stamped) for node in self._nodes for stamped in node.events(kind)),
            key=lambda one: one[1].time,
        )

    def records(self) -> list[dict[str, Any]]:
        """A row for each round that a node has finished, e.g. for `pandas.DataFrame`."""
        rows = []
        for name, stamped in self.events(RoundFinished):
            row = {"node": name, "time": stamped.time, **vars(stamped.event)}
            rows.append(row | row.pop("metrics"))
        return rows

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        ready = prepared() if self._server is None else nullcontext(self._server)
        places = listening(len(self), self._separate)
        with ready as server, place(self._folder) as folder, places as listen:
            temporary = None if self._folder else folder
            async with trio.open_nursery() as nursery, launcher(server, temporary) as self._launcher:
                nursery.start_soon(self._launcher.listen)
                for index in range(len(self)):
                    name, data_dir = f"node {index + 1}", folder / f"node-{index + 1}"
                    assign = partial(self._assign, index, data_dir, listen[index])
                    self._nodes.append(
                        LocalNode(name, data_dir, assign, self._launcher, nursery, self._changes, self._tell)
                    )
                self._entry = entry(self._nodes[0].data_dir, listen[0])
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self._stop()

    async def _start(self) -> None:
        if self._separate:
            addresses = {node.name: switch.address(index) for index, node in enumerate(self)}
            await self._launcher.plug(addresses)
        for node in self._nodes:
            await node.start()
        await self.wait_for(event=NodeReady)

    def _tell(self, name: str, stamped: Stamped) -> None:
        for watch in self._watchers:
            watch(name, stamped)

    async def _stop(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                nursery.start_soon(node.stop)

    def _assign(self, index: int, data_dir: Path, listen: str) -> Assignment:
        """What a node is told when it starts for the first time, or again."""
        config = self._configs[index]
        known, start = [self._entry] if index else [], config.start
        if self._nodes[index].events():  # the first may be gone by now, and not all there to be waited for
            [part] = [part for part in self._parts if index in part]
            others = [self._nodes[other] for other in part if other != index]
            running = [address for other in others if other.running for address in other.addresses]
            known, start = running[:HINTS], replace(start, peers=min(start.peers, 1, len(running)))
        config = replace(config, listen=(listen,), peers=(*known, *config.peers), mdns=False, start=start)
        skew = self._nodes[index].skew
        return Assignment(data_dir, self.manifest, config, self._sources[index], self._file, skew)


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    """`folder`, made if need be, or a temporary one for this block.

    Raises:
        UserError: it cannot be made.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="p2pnode-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot keep data in {folder} ({error.strerror}): choose another folder") from error
    yield folder.resolve()


def cancelled(error: BaseException | None) -> bool:
    """Whether it is, or holds, what trio cancels with."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)
