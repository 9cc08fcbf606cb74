"""What this machine allows to be done to nodes, and disks that can be filled.

A node's disk is a small file system in memory (tmpfs(5)), mounted where only this process and its
children see it (mount_namespaces(7)): however it ends, nothing is mounted anywhere.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from p2pnode.chaos.schedule import KINDS, Need
from p2pnode.errors import UserError
from p2pnode.switch import Switch, call, leave

NEWNS = 0x00020000  # CLONE_NEWNS, namespaces(7)
REC, PRIVATE, DETACH = 0x4000, 0x40000, 2  # MS_REC and MS_PRIVATE, mount(2); MNT_DETACH, umount(2)

DISK = 128 << 20
"""Bytes of a node's disk: some checkpoints of the largest built-in model. Only what is full takes memory."""

BALLAST = "ballast"
"""The file that fills a disk."""

RATE = 1_000_000
"""Bits a second of a slow line."""


def possible(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of these kinds of faults that can be done here, and why each of the others cannot be.

    Where a disk is needed, this process takes itself out of the machine's mounts. It must have one thread.
    """
    needed = {need for name in names for need in KINDS[name].needs}
    reasons: dict[Need, str] = {}
    if needed & {Need.NETWORKS, Need.LIMITS}:
        reasons |= lacking()
    if Need.DISKS in needed and (reason := seclude()):
        reasons[Need.DISKS] = reason
    why = {name: reasons[need] for name in names for need in KINDS[name].needs if need in reasons}
    return [name for name in names if name not in why], why


def lacking() -> dict[Need, str]:
    """What of networks this machine does not have, and why, found out by a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    found = {}
    for need in (Need.LIMITS, Need.NETWORKS):
        words = [sys.executable, "-P", "-m", __name__, need.value]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            found[need] = done.stderr.strip().rpartition("\n")[2]
    return found


def try_out(need: Need) -> None:
    """Make a network for a node, and limit it where that is the need.

    Raises:
        UserError: that cannot be done here.
    """
    switch = Switch({"node": "10.0.0.1"})
    if need is Need.LIMITS:
        switch.throttle("node", RATE)


def seclude() -> str:
    """Let what this process mounts be seen by itself and its children alone; what is in the way, if it is."""
    try:
        leave(NEWNS)
        call("mount", None, b"/", None, REC | PRIVATE, None)
    except OSError as error:
        return (
            f"nodes may not have disks of their own here ({error.strerror}): be root, or have user namespaces"
        )
    return ""


@contextmanager
def disks(folders: Sequence[Path]) -> Iterator[None]:
    """A disk of its own at each of `folders`, which are made, for this block; after `seclude`.

    Raises:
        OSError: it cannot be mounted.
    """
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(mode=0o700)
            call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=700,size=%d" % DISK)
            stack.callback(call, "umount2", os.fsencode(folder), DETACH)
        yield


def fill(folder: Path) -> None:
    """Leave no room on the disk at `folder`."""
    zeros = bytes(1 << 20)
    with (folder / BALLAST).open("wb", buffering=0) as file:
        try:
            while True:  # the node writes meanwhile: what is free now may not be a moment later
                file.write(zeros)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def clear(folder: Path) -> None:
    """Make room again."""
    (folder / BALLAST).unlink()


if __name__ == "__main__":
    try:
        try_out(Need(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
