"""What a node takes of this machine, and how much more that may be after a while of faults."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from p2pnode.bench.process import resident
from p2pnode.observe.control import ask


@dataclass(frozen=True)
class Usage:
    """What a node takes.

    Attributes:
        memory: resident, in bytes.
        descriptors: open ones.
        tasks: of its event loop.
        files: in its data directory.
    """

    memory: int
    descriptors: int
    tasks: int
    files: int


def usage(process: int, data_dir: Path) -> Usage:
    """Of a node that runs.

    Raises:
        UserError: it does not answer.
    """
    descriptors = len(list(Path(f"/proc/{process}/fd").iterdir()))
    files = sum(path.is_file() for path in data_dir.rglob("*"))
    return Usage(resident(process), descriptors, ask(data_dir, "status")["tasks"], files)


def bound(before: Sequence[Usage]) -> Usage:
    """The most that any node of a swarm may take in the end, by what its nodes took after the warm-up.

    A tenth and 16 MB more memory than the one with most of it: an allocator never hands back all. For
    each node of the swarm two more descriptors and ten more tasks, which is two connections: how many
    there are between two peers depends on who began one. Three checkpoints and three files of the event
    log, of which there may be one yet.
    """
    most = Usage(*(max(getattr(one, name.name) for one in before) for name in fields(Usage)))
    return Usage(
        memory=int(1.1 * most.memory) + (16 << 20),
        descriptors=most.descriptors + 2 * len(before),
        tasks=most.tasks + 10 * len(before),
        files=most.files + 4,
    )
