"""Nodes in processes of their own on this machine, and their events in one stream.

The imports (JAX and libp2p: seconds of CPU) are paid once: the parent makes them and forks. That is
safe only while it has a single thread and has touched no device, which is asserted; so BLAS is told
to start no threads, and everything that computes happens in the children or after them. Where there
is no fork (macOS, Windows) the children import for themselves.

Whatever ends the parent, short of SIGKILL, ends the children first.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # it brings numpy, which must not be imported before `single_threaded`
    from p2pnode.observe.stream import Stamped

Body = Callable[..., None]
"""What a child runs: gets a subscriber for its events, then its arguments."""

GRACE = 15.0
"""Seconds that a child has for a good end: its goodbyes may take ten."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def single_threaded() -> None:
    """Before the imports: let no library start threads, and each compiled program use one."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


class Fleet:
    """Child processes by name."""

    def __init__(self, children: Mapping[str, tuple[BaseProcess, Connection]]) -> None:
        self._children = children

    def events(self) -> Iterator[tuple[str, "Stamped"]]:
        """Every child's events as they come, until all children have ended."""
        names = {pipe: name for name, (_, pipe) in self._children.items()}
        while names:
            for ready in wait(list(names)):
                assert isinstance(ready, Connection)
                try:
                    yield names[ready], ready.recv()
                except EOFError:
                    del names[ready]

    def exit_codes(self) -> dict[str, int | None]:
        """Of each child, once it has ended."""
        for process, _ in self._children.values():
            process.join()
        return {name: process.exitcode for name, (process, _) in self._children.items()}

    def end(self) -> None:
        """Ask every child that still runs to end, and kill those that do not."""
        processes = [process for process, _ in self._children.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


@contextmanager
def started(body: Body, arguments: Mapping[str, Sequence[Any]]) -> Iterator[Fleet]:
    """Run `body` once for each name, in a process of its own. None outlives the block."""
    method = "fork" if sys.platform == "linux" else "spawn"
    if method == "fork":
        assert threading.active_count() == 1, "a process with threads must not be forked"
        assert len(list(Path("/proc/self/task").iterdir())) == 1, "a library has started a thread"
    context: Any = multiprocessing.get_context(method)
    children: dict[str, tuple[BaseProcess, Connection]] = {}
    fleet = Fleet(children)
    with _unwinding():
        try:
            for name, given in arguments.items():
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(body, sender, given), name=name)
                process.start()
                sender.close()
                children[name] = (process, receiver)
            yield fleet
        finally:
            fleet.end()


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let a signal that ends this process unwind it, so that it ends its children first."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)  # as a shell would report it

    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _child(body: Body, sender: Connection, given: Sequence[Any]) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # it need not unwind, and soon takes care of itself

    def tell(stamped: "Stamped") -> None:
        sender.send(stamped)

    body(tell, *given)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free TCP port on loopback that nobody else is given while the block runs.

    It stays bound, not listening, so that a child may listen there because both allow it (SO_REUSEADDR).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
