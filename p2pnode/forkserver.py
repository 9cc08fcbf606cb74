"""One process that has imported everything, and becomes a node as often as it is asked to.

Importing JAX and libp2p takes seconds of CPU and a hundred megabytes. Here it is done once, and each
node is a fork of that state, whose memory it shares until it writes to it. A fork copies one thread
only, so a process must not be forked while it has others, nor once it has touched a device: this one
imports, and never computes. BLAS is told to start no threads, and before each fork their number is
asserted. (The scheme is Android's zygote, and the `forkserver` of Python's multiprocessing.)

Where there is no good fork (other systems than Linux, and CUDA) the same process starts nodes that
import for themselves.

It talks with its owner in lines of JSON over a socket: it is asked to `start` a node, whose own
socket comes with the request, or to send one a `signal`; it says which process a node `started` as,
and with which code it `ended`. Nodes that it is asked to `plug` into a switch start in networks of
their own, which it can `connect` in groups and `throttle`; it says what was in the way of a change of the
`network`. When the socket closes, however the owner died, every node is killed and the folder that was
named to `remove` is removed. When this process is killed, the kernel kills its nodes.
"""

import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from p2pnode.errors import UserError
from p2pnode.machine import importing
from p2pnode.switch import Switch

PR_SET_PDEATHSIG = 1  # prctl(2)

MOST = 1 << 16
"""Bytes read at once from the owner, whose requests have about 30 each, or 30 for each node."""


LATE = ("jaxlib.mlir.dialects.mhlo",)
"""What JAX imports no sooner than at the first compilation; not its public interface, so it may be gone."""


def method(environment: Mapping[str, str]) -> str:
    """`fork` or `spawn`: how nodes are started on this system with these settings."""
    cuda = any(map(find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin")))
    forks = sys.platform == "linux" and (not cuda or environment.get("JAX_PLATFORMS") == "cpu")
    return "fork" if forks else "spawn"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, with one thread for each node's BLAS and XLA where it does not say otherwise."""
    flags = given.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        flags = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        **given,
        "XLA_FLAGS": flags,
    }


class ForkServer:
    """Starts nodes for its owner, until the socket closes.

    Args:
        owner: where requests come from.
        body: what a node runs, as `module:function`; it gets the socket that came with the request.
        method: `fork` or `spawn`.
    """

    def __init__(self, owner: socket.socket, body: str, method: str) -> None:
        self._owner = owner
        self._body = body
        self._method = method
        self._context: Any = multiprocessing.get_context(method)
        self._nodes: dict[str, BaseProcess] = {}
        self._folder: Path | None = None
        self._switch: Switch | None = None
        self._requests = b""
        self._sockets: deque[int] = deque()

    def serve(self) -> None:
        """Do what the owner asks for until it is gone. No node outlives this."""
        try:
            while True:
                sentinels = {process.sentinel: name for name, process in self._nodes.items()}
                ready = wait([self._owner, *sentinels])
                for name in [sentinels[one] for one in ready if isinstance(one, int)]:
                    self._reap(name)
                if self._owner in ready and not self._receive():
                    return
        except ConnectionError:
            return  # the owner has just gone, as everything does one day
        finally:
            self._kill_all()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _receive(self) -> bool:
        """Take in requests; False when the owner has closed the socket."""
        content, sockets, _, _ = socket.recv_fds(self._owner, MOST, 16)
        self._sockets.extend(sockets)
        *lines, self._requests = (self._requests + content).split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"start": name}:
                    self._start(name, socket.socket(fileno=self._sockets.popleft()))
                case {"signal": number, "node": name} if name in self._nodes:
                    self._signal(name, number)
                case {"remove": folder}:
                    self._folder = Path(folder)
                case {"plug": addresses}:
                    self._change_network(partial(self._plug, addresses))
                case {"connect": groups} if self._switch is not None:
                    self._change_network(partial(self._switch.connect, groups))
                case {"throttle": rate, "node": name} if self._switch is not None:
                    self._change_network(partial(self._switch.throttle, name, rate))
        return bool(content)

    def _start(self, name: str, channel: socket.socket) -> None:
        forks = self._method == "fork"
        if forks:
            assert threads() == 1, "a library has started a thread: its locks would never open in a fork"
        network = nullcontext() if self._switch is None else self._switch.within(name)
        with channel, network:
            inherited = [*filter(None, (self._owner, self._switch))] if forks else []
            process = self._context.Process(
                target=become, args=(self._body, channel, os.getpid(), inherited), name=name
            )
            process.start()
        self._nodes[name] = process
        self._tell({"started": name, "pid": process.pid})

    def _plug(self, addresses: Mapping[str, str]) -> None:
        self._switch = Switch(addresses)

    def _change_network(self, change: Callable[[], None]) -> None:
        mistake = ""
        try:
            change()
        except UserError as error:
            mistake = str(error)
        self._tell({"network": mistake})

    def _signal(self, name: str, number: int) -> None:
        pid = self._nodes[name].pid
        assert pid is not None
        os.kill(pid, number)  # not reaped yet, so the number is still this node's

    def _reap(self, name: str) -> None:
        process = self._nodes.pop(name)
        process.join()
        self._tell({"ended": name, "code": process.exitcode})

    def _tell(self, answer: Mapping[str, object]) -> None:
        self._owner.sendall(json.dumps(answer).encode() + b"\n")

    def _kill_all(self) -> None:
        for process in self._nodes.values():
            process.kill()
        for process in self._nodes.values():
            process.join()


def become(
    body: str, channel: socket.socket, parent: int, inherited: Sequence[socket.socket | Switch]
) -> None:
    """What a new process does: be a node, and nothing of the server."""
    for one in inherited:
        one.close()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # it died before it could be said what then
    load(body)(channel)


def load(body: str) -> Callable[[socket.socket], None]:
    """The function called `module:function`, with everything that its module imports."""
    module, _, name = body.partition(":")
    function: Callable[[socket.socket], None] = getattr(import_module(module), name)
    return function


def prepare(body: str) -> None:
    """Import what nodes need, also what they would import later on."""
    load(body)
    for name in LATE:
        with suppress(ModuleNotFoundError):
            import_module(name)


def threads() -> int:
    """How many this process has, Python's or not."""
    return len(list(Path("/proc/self/task").iterdir()))


def main(body: str, method: str, descriptor: str) -> None:
    """Serve the owner at the other end of `descriptor`, from a process of one's own."""
    with socket.socket(fileno=int(descriptor)) as owner:
        serve(owner, body, method)


def serve(owner: socket.socket, body: str, method: str) -> None:
    """Import what nodes need, then serve."""
    if method == "fork":
        with importing():  # a collection in a node would write to every shared page
            prepare(body)
    ForkServer(owner, body, method).serve()


def detach(owner: socket.socket, body: str, inherited: socket.socket) -> None:
    """Serve, in a fork of the owner's process: apart from its terminal, and without its signal handlers."""
    inherited.close()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    serve(owner, body, "fork")
