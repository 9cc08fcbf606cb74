"""A virtual Ethernet switch, and for each node a network of its own that is plugged into it.

A network namespace of Linux has its own interfaces, addresses and connections, as a machine has
(network_namespaces(7)). A node's has one Ethernet interface, `eth0`. The other end of its cable is a
port of a bridge in the namespace of the process that makes the switch (veth(4)). Ports of different
bridges do not hear each other: what is sent there is lost without a word, as if a cable were pulled.

A cable can be made slow, too: a token bucket at each of its ends lets through no more (tc-tbf(8)).

A node's network stays when its process ends, so the next one has the same address, on the same bridge.
Only open files hold the namespaces, not names in the file system: however this process ends, nothing
is left. Who may not make one makes it in a user namespace, where everybody may (user_namespaces(7)).
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from ipaddress import IPv4Address
from pathlib import Path

from p2pnode.errors import UserError

NEWNET, NEWUSER = 0x40000000, 0x10000000  # CLONE_NEWNET and CLONE_NEWUSER, namespaces(7)

FIRST, PREFIX = IPv4Address("10.0.0.1"), 16
"""The first node's address, and the bits that all of them share: nobody outside sees them."""

BUCKET = "burst 4kb latency 400ms"
"""What a slow cable lets through at once, more than the longest frame, and how long anything waits for it."""


def address(index: int) -> str:
    """The IPv4 address of the node with this index, from 0 on."""
    return str(FIRST + index)


class Switch:
    """Networks for nodes, all joined at first. Takes the process that makes it out of its own network.

    That process must have one thread.

    Args:
        addresses: of the nodes, by their names; a bridge has 1024 ports at most.

    Raises:
        UserError: this system has no namespaces, or does not allow them.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        if sys.platform != "linux":
            raise UserError("only Linux gives nodes networks of their own: leave `separate` away")
        self._bridges = 0
        self._ports = {name: f"port{number}" for number, name in enumerate(addresses)}
        try:
            leave()
            self._hub = namespace()
            self._networks = {name: self._plug(name, own) for name, own in addresses.items()}
        except OSError as error:
            raise UserError(
                f"nodes may not have networks of their own here ({error.strerror}): "
                "be root, or have user namespaces allowed; a container must be privileged"
            ) from error
        self.connect([list(addresses)])

    def connect(self, groups: Sequence[Sequence[str]]) -> None:
        """Let the nodes of each group reach each other and nobody else; each is in one of them.

        Raises:
            UserError: `ip` cannot do it.
        """
        commands = []
        for number, group in enumerate(groups):
            bridge = f"bridge{number}"
            if number == self._bridges:
                # Without the spanning tree protocol a port carries traffic as soon as it is there.
                commands += [f"link add {bridge} type bridge stp_state 0", f"link set {bridge} up"]
                self._bridges += 1
            commands += [f"link set {self._ports[name]} master {bridge}" for name in group]
        ip(commands)

    def throttle(self, name: str, rate: int | None) -> None:
        """Let so many bits a second through the node's cable, each way; None for as many as there come.

        Raises:
            UserError: `tc` cannot do it.
        """

        def command(device: str) -> str:
            return f"qdisc del dev {device} root" if rate is None else _bucket(device, rate)

        batch("tc", [command(self._ports[name])])
        with self.within(name):
            batch("tc", [command("eth0")])

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """What is started in this block is in the network of the node called `name`."""
        enter(self._networks[name])
        try:
            yield
        finally:
            enter(self._hub)

    def close(self) -> None:
        """Let go of all networks. They end with the last process in them."""
        for one in (self._hub, *self._networks.values()):
            one.close()

    def _plug(self, name: str, own: str) -> FileIO:
        """Make the network of one node, with a cable to a port here."""
        hub, port = f"/proc/self/fd/{self._hub.fileno()}", self._ports[name]
        call("unshare", NEWNET)
        try:
            network = namespace()
            ip(
                [
                    "link set lo up",
                    f"link add eth0 type veth peer name {port} netns {hub}",
                    f"address add {own}/{PREFIX} dev eth0",
                    "link set eth0 up",
                ],
                self._hub.fileno(),
            )
        finally:
            enter(self._hub)
        ip([f"link set {port} up"])
        return network


def leave(kind: int = NEWNET) -> None:
    """Give this process a namespace of its own, of this kind, and the right to change it.

    Raises:
        OSError: it may not have one.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", kind)
    except PermissionError:
        call("unshare", NEWUSER | kind)
        # Root in there, and who it was outside: others than root lose their rights when they become `ip`.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def namespace() -> FileIO:
    """The network that this process is in, held for as long as this is open."""
    return FileIO("/proc/self/ns/net")


def enter(network: FileIO) -> None:
    """Go there, with this one thread."""
    call("setns", network.fileno(), NEWNET)


def call(name: str, *arguments: int | bytes | None) -> None:
    """A function of the C library; Python has `os.unshare` and `os.setns` from 3.12 on only.

    Raises:
        OSError: it failed.
    """
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(number := ctypes.get_errno(), os.strerror(number))


def ip(commands: Sequence[str], *descriptors: int) -> None:
    """Have `ip` do `commands`, see `batch`."""
    batch("ip", commands, *descriptors)


def batch(name: str, commands: Sequence[str], *descriptors: int) -> None:
    """Have a program of iproute2 do `commands`, each as that takes it, with `descriptors` open.

    Raises:
        UserError: there is no such program, or it failed.
    """
    program = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise UserError(f"the command `{name}` makes the nodes' networks, and is not here: install iproute2")
    done = subprocess.run(  # noqa: S603 - a program of the system
        [program, "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"this system cannot make the nodes' networks: `{name}` says {said!r}")


def _bucket(device: str, rate: int) -> str:
    return f"qdisc replace dev {device} root tbf rate {rate}bit {BUCKET}"
