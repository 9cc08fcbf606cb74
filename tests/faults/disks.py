"""Disks that are full, read-only or closed to a node, made with what the kernel has.

Root can mount a small file system of its own, and needs to give up a privilege to be refused a file;
everybody can limit how long the files of this process may grow.
"""

import ctypes
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PAGE = 4096
"""Bytes: a tmpfs gives room by the page."""

_CAPABILITIES_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
_READ_AND_WRITE_ALL = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@dataclass
class Disk:
    """A file system that a node has its data on.

    Attributes:
        folder: where it is.
        fill: leaves room for so many of what is scarce: bytes in a file, pages, or files.
        free: undoes that.
    """

    folder: Path
    fill: Callable[[int], None]
    free: Callable[[], None]


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A tmpfs at `folder`, as long as the block runs."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", ",".join(["mode=755", *options]), "tmpfs", folder)
    try:
        yield
    finally:
        _run("umount", "--lazy", folder)


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    try:
        with tempfile.TemporaryDirectory() as folder, mounted(Path(folder)):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def limited_files(folder: Path) -> Iterator[Disk]:
    """No file may grow beyond a number of bytes: writes fail half-way."""
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(room: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    try:
        yield Disk(folder, limit, partial(limit, soft))
    finally:
        limit(soft)


@contextmanager
def limited_pages(folder: Path) -> Iterator[Disk]:
    """A file system with room for so many pages more."""
    filler = folder / "filler"

    def fill(room: int) -> None:
        with filler.open("wb") as file:
            file.write(bytes((os.statvfs(folder).f_bavail - room) * PAGE))

    with mounted(folder, "size=256k"):
        yield Disk(folder, fill, filler.unlink)


@contextmanager
def limited_names(folder: Path) -> Iterator[Disk]:
    """A file system that has room for so many files more, long or short."""
    filler = folder / "filler"

    def fill(room: int) -> None:
        filler.mkdir()
        for number in range(os.statvfs(folder).f_favail - room):
            (filler / str(number)).touch()

    def free() -> None:
        for file in filler.iterdir():
            file.unlink()
        filler.rmdir()

    with mounted(folder, "size=256k,nr_inodes=64"):
        yield Disk(folder, fill, free)


@contextmanager
def closed_folders(folder: Path) -> Iterator[Disk]:
    """Every folder can be closed to its owner, who then cannot write."""
    folder.mkdir()
    with unprivileged():
        yield Disk(folder, lambda _: _chmod(folder, 0o500), lambda: _chmod(folder, 0o700))
    _chmod(folder, 0o700)


@contextmanager
def read_only(folder: Path) -> Iterator[Disk]:
    """A file system that can be made read-only."""
    remount = partial(_run, "mount", "-o")
    with mounted(folder):
        yield Disk(folder, lambda _: remount("remount,ro", folder), lambda: remount("remount,rw", folder))


def _chmod(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    for path in filter(Path.is_dir, folder.rglob("*")):
        path.chmod(mode)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("heritable", ctypes.c_uint32),
    )


@contextmanager
def unprivileged() -> Iterator[None]:
    """This thread may only do what the modes of files allow, also when it is root's."""
    sets = (_Sets * 2)()
    _capabilities("capget", sets)
    before = sets[0].effective
    sets[0].effective = before & ~_READ_AND_WRITE_ALL
    _capabilities("capset", sets)
    try:
        yield
    finally:
        sets[0].effective = before
        _capabilities("capset", sets)


def _capabilities(call: str, sets: "ctypes.Array[_Sets]") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_CAPABILITIES_3, 0)
    if libc[call](ctypes.byref(header), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), f"{call} failed")
