"""What `doctor` looks at on this machine: one function each, in one list.

A check is told what somebody is about to do and yields what it found, with what to do about it. What
a number means is decided apart from asking for it, so that every answer can be tested. Nothing is
changed by looking: keys, directories and swarms stay as they are.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2pnode import __version__, machine
from p2pnode.errors import UserError
from p2pnode.identity.manifest import Manifest

LIBP2P = "0.8.1"
"""The one version whose inside is known here; pyproject.toml says so too."""

PROCESS = 350e6
"""Bytes that a node takes before it has any model: Python, JAX, libp2p."""

DISK, LEAST_DISK = 1e9, 100e6
"""Bytes for checkpoints and logs: enough for most, and too few for any node."""


class Verdict(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: what was looked at.
        verdict: how it is.
        found: what there is.
        advice: what to do; empty when there is nothing to do.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Plan:
    """What somebody is about to do.

    Attributes:
        manifest: of the swarm to join, if it is at hand.
        listen: multiaddrs.
        peers: full multiaddrs of bootstrap nodes and members.
        folder: the data directory.
    """

    manifest: Manifest | None
    listen: Sequence[str]
    peers: Sequence[str]
    folder: Path


Check = Callable[[Plan], Iterator[Finding]]


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Verdict.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """A node will run, but not as well as it could."""
    return Finding(check, Verdict.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """A node will not run, or find nobody."""
    return Finding(check, Verdict.FAIL, found, advice)


def python(_plan: Plan) -> Iterator[Finding]:
    """A version and a system that are tested."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info < (3, 14):
        yield fail("python", found, "use Python 3.11, 3.12 or 3.13")
    elif sys.platform != "linux":
        yield warn("python", found, "only Linux is tested")
    else:
        yield ok("python", found)


def packages(_plan: Plan) -> Iterator[Finding]:
    """The libraries that matter most."""
    versions = {name: importlib.metadata.version(name) for name in ("libp2p", "jax")}
    found = ", ".join([f"p2pnode {__version__}", *(f"{name} {one}" for name, one in versions.items())])
    if versions["libp2p"] == LIBP2P:
        yield ok("packages", found)
    else:
        yield fail("packages", found, f"install libp2p {LIBP2P}: parts of its inside are replaced here")


def compute(_plan: Plan) -> Iterator[Finding]:
    """A device that takes a compiled step."""
    from p2pnode.learning.device import compiled_step, devices

    try:
        seconds = compiled_step()
        kinds = [one.device_kind for one in devices()]
    except UserError as error:
        found, _, advice = str(error).partition(": ")
        yield fail("compute", found, advice)
    else:
        each = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
        yield ok("compute", f"{each}; a step compiled and run in {seconds:.2f} s")


def memory(plan: Plan) -> Iterator[Finding]:
    """Enough for a node, and for the swarm's model where it is known."""
    from p2pnode.learning import registry
    from p2pnode.learning.memory import needed
    from p2pnode.learning.own import is_own

    need = PROCESS
    if plan.manifest is not None and not is_own(plan.manifest.task):  # whose file need not be here
        try:
            need += needed(registry.build(plan.manifest))
        except UserError as error:
            yield fail("model", str(error), "see what the swarm agrees on with `p2pnode swarm show FILE`")
    yield judge_memory(machine.free_memory(), need)


def judge_memory(free: float, need: float) -> Finding:
    """Bytes that are free, against those that a node needs."""
    found = f"{free / 1e9:.1f} GB free, a node needs about {need / 1e9:.1f} GB"
    if free < need:
        return fail("memory", found, "end other programs, make the model smaller, or use another machine")
    return ok("memory", found)


def files(_plan: Plan) -> Iterator[Finding]:
    """Open files: each peer takes one."""
    try:
        yield judge_files(machine.allow_files())
    except UserError as error:
        yield fail("open files", str(error).partition(":")[0], f"`ulimit -n {machine.FILES}`")


def judge_files(allowed: int) -> Finding:
    """How many may be open at once."""
    found = f"{allowed} at once"
    if allowed < machine.FILES:
        return warn("open files", found, f"for many peers: `ulimit -n {machine.FILES}`")
    return ok("open files", found)


def clock(_plan: Plan) -> Iterator[Finding]:
    """It says a sane date, and runs steadily. Peers' clocks are not known here."""
    yield judge_clock(time.time(), machine.drift())


def judge_clock(now: float, drift: float) -> Finding:
    """Seconds since the epoch, and how many more passed on the wall than really did in a moment."""
    if doubt := machine.doubt_clock(now, last=now):
        return fail("clock", doubt.partition(": ")[0], "set it: logs and the order of starts go by it")
    if abs(drift) > 0.05:
        return warn("clock", f"jumped by {drift:+.2f} s", "harmless for training; see what sets it")
    return ok("clock", f"{machine.day(now)}, steady; not compared with peers")


def disk(plan: Plan) -> Iterator[Finding]:
    """The data directory, or where it will be made, can be written and has room."""
    place = next(
        folder for folder in (plan.folder.absolute(), *plan.folder.absolute().parents) if folder.exists()
    )
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield fail("disk", f"cannot write in {place}: {error.strerror}", "choose another --data-dir")
    else:
        yield judge_disk(free, plan.folder)


def judge_disk(free: float, folder: Path) -> Finding:
    """Bytes that are free where `folder` is."""
    found = f"{free / 1e9:.1f} GB free for {folder}"
    if free < LEAST_DISK:
        return fail("disk", found, "make room, or choose another --data-dir")
    if free < DISK:
        return warn("disk", found, "checkpoints of a large model may not fit: make room")
    return ok("disk", found)


MACHINE: Sequence[Check] = (python, packages, compute, memory, files, clock, disk)
"""In the order in which a node needs them."""
