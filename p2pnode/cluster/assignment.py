"""What a node is told when it starts, and what is made for that of what a person has asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

from p2pnode.config import Config, Start
from p2pnode.errors import UserError
from p2pnode.identity.manifest import Manifest
from p2pnode.learning.data import Shard

if TYPE_CHECKING:  # it brings JAX, which only nodes need
    from p2pnode.learning.own import Own
    from p2pnode.learning.own import Source as File
    from p2pnode.world import Rows

NODES = 4

Source = Union[Path, Shard, "Rows"]
"""Where a node's rows come from: a file, a share of the task's own data, or the rows themselves."""


@dataclass(frozen=True)
class Assignment:
    """What a node is told when it starts.

    Where the swarm's task is in a person's file, `file` is that as it was read: it runs in the node.
    Its clock is wrong by `skew` seconds.
    """

    folder: Path
    manifest: Manifest
    config: Config
    data: Source
    file: "File | None" = None
    skew: float = 0.0


def sources(nodes: int | None, data: Sequence[Source] | None, uneven: float | None) -> list[Source]:
    """Where each node's rows come from.

    Raises:
        UserError: there are not as many as nodes, or rows of one's own are to be dealt out.
    """
    if data is None:
        count = NODES if nodes is None else nodes
        if count < 1:
            raise UserError(f"{count} nodes: at least one is needed")
        return [Shard(index, count, uneven) for index in range(count)]
    if uneven is not None:
        raise UserError("uneven deals out the task's own data: leave it away with data of your own")
    if not data or len(data) != (nodes or len(data)):
        raise UserError(f"data for {len(data)} nodes, not {nodes or 'one'}: give a file or rows for each")
    return list(data)


def file_of(task: "Own | Path | str", manifest: Manifest) -> "File":
    """The file that every node is to run, read here and not run.

    Raises:
        UserError: it cannot be read, or is not the manifest's.
    """
    from p2pnode.learning.own import Own, check_source, read  # noqa: PLC0415 - it brings JAX

    file = task.source if isinstance(task, Own) else read(str(task))
    check_source(manifest.task, file)
    return file


def usual(count: int, manifest: Manifest) -> Config:
    """A node's choices when nobody says otherwise: training begins when all have met."""
    return Config(start=Start(peers=min(count - 1, manifest.bounds.peers)))
