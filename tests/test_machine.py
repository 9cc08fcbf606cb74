"""What the machine gives: numbers read from Linux, and what they mean."""

import gc
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from p2pnode import machine
from p2pnode.machine import pages

NOW = 1_900_000_000.0


@pytest.mark.parametrize(
    ("now", "last", "words"),
    [
        (NOW, NOW, None),
        (NOW, NOW + 3600, None),  # a clock may be set back by an hour
        (NOW, NOW + 10 * machine.DAY, "says 2030-03-17, at this node's last start it said 2030-03-27"),
        (0.0, 0.0, "says 1970-01-01: set it"),
        (-1e15, 0.0, "says nonsense: set it"),
        (NOW, 1e15, "it said nonsense"),
    ],
)
def test_a_wrong_clock_is_noticed(now: float, last: float, words: str | None) -> None:
    doubt = machine.doubt_clock(now, last)
    assert doubt is None if words is None else words in str(doubt)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_of_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_free_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal:  8 kB\nMemFree:  1 kB\nMemAvailable:   4 kB\nHugePages_Total: 0\n")
    assert machine._free_of_machine(tmp_path / "meminfo") == 4096


def test_a_share_of_the_memory_counts_without_what_is_only_cached(tmp_path: Path) -> None:
    assert machine._free_of_share(tmp_path) == float("inf")
    stat = "anon 300\nactive_file 100\ninactive_file 150\n"
    write(tmp_path, memory_of_max="max\n", memory_of_current="700\n", memory_of_stat=stat)
    assert machine._free_of_share(tmp_path) == float("inf")
    write(tmp_path, memory_of_max="1000\n")
    assert machine._free_of_share(tmp_path) == 1000 - (700 - 250)


def test_the_limits_of_all_groups_around_a_process_hold(tmp_path: Path) -> None:
    two, one = tmp_path, tmp_path / "memory"
    assert list(machine._shares(two, "0::/a/b\n")) == [two / "a" / "b", two / "a", two]
    assert list(machine._shares(two, "5:cpu:/x\n4:hugetlb,memory:/a\n")) == [one / "a", one]
    assert list(machine._shares(two, "0::/\n")) == [two]


@pytest.mark.parametrize("limit", [1_000_000_000, 3_000_000_000])
def test_memory_that_a_process_may_not_take_is_not_free(limit: int) -> None:
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
        "from p2pnode import machine\n"
        "print(machine.free_memory())\n"
        "machine.allow_memory()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert limit / 2 < float(ended.stdout) < limit
    assert ended.returncode == (limit < machine.LEAST_MEMORY)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
@pytest.mark.parametrize("shared", [True, False])
def test_threads_share_two_arenas(shared: bool) -> None:
    program = f"""
import ctypes, threading
from p2pnode.machine import share_arenas
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
if {shared}:
    share_arenas()
gate = threading.Barrier(7)
def take():
    gate.wait()
    libc.malloc(1000)
    gate.wait()
for _ in range(6):
    threading.Thread(target=take).start()
gate.wait()
gate.wait()
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    arenas = ran.stdout.count("<heap nr=")
    assert arenas == 2 if shared else arenas > 2


def test_this_machine_has_memory_and_a_steady_clock() -> None:
    assert machine.free_memory() > 1e6
    assert abs(machine.drift(0.01)) < 3600


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_importing_all_that_a_node_needs_starts_no_thread() -> None:
    program = """
import os
from p2pnode.cli import join  # as the command does, before it imports the rest
from p2pnode.machine import importing
with importing():
    import p2pnode.session
print(len(os.listdir("/proc/self/task")))
"""
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1\n"


def test_what_is_imported_is_spared_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # taken back
    try:
        with machine.importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_memory_for_large_arrays_is_zeros_and_begins_where_a_page_does() -> None:
    memory = pages(5_000_001)
    assert len(memory) == 5_000_001
    assert not any(memory)
    assert not memory.readonly
    assert np.frombuffer(memory, np.uint8).ctypes.data % mmap.PAGESIZE == 0
    assert len(pages(0)) == 0
