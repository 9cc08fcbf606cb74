"""How each kind of fault is done to a cluster, and undone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2pnode.chaos.means import RATE, clear, fill
from p2pnode.chaos.schedule import Fault
from p2pnode.cluster.sync import SyncCluster, SyncNode
from p2pnode.events import NodeReady

READY = 60.0
"""Seconds in which a started node must be ready."""


@dataclass(frozen=True)
class Action:
    """Does a fault to a cluster, and undoes it.

    Both raise NodeEnded or TimeoutError when a node that was started is not ready.
    """

    do: Callable[[SyncCluster, Fault], None]
    undo: Callable[[SyncCluster, Fault], None]


def each(act: Callable[[SyncNode], None]) -> Callable[[SyncCluster, Fault], None]:
    """Do the same to each of a fault's nodes."""

    def all_of_them(cluster: SyncCluster, fault: Fault) -> None:
        for index in fault.nodes:
            act(cluster[index])

    return all_of_them


def start(node: SyncNode) -> None:
    """Start it, and wait until it is ready."""
    node.start()
    node.wait_for(event=NodeReady, timeout=READY)


def restart(node: SyncNode, skew: float) -> None:
    """End it in good order, and start it with its clock so many seconds ahead."""
    node.stop()
    node.skew = skew
    start(node)


def skew(cluster: SyncCluster, fault: Fault) -> None:
    """Start nodes again with wrong clocks."""
    each(lambda node: restart(node, fault.skew))(cluster, fault)


def limit(rate: int | None) -> Callable[[SyncCluster, Fault], None]:
    """Let so many bits a second through to each node."""

    def throttle(cluster: SyncCluster, fault: Fault) -> None:
        for index in fault.nodes:
            cluster.throttle(index, rate)

    return throttle


def part(cluster: SyncCluster, fault: Fault) -> None:
    """Cut the network."""
    cluster.partition(fault.nodes)


def heal(cluster: SyncCluster, _fault: Fault) -> None:
    """Join it again."""
    cluster.heal()


KILL = Action(each(SyncNode.kill), each(start))

ACTIONS: Mapping[str, Action] = {
    "kill": KILL,
    "swarm": KILL,
    "freeze": Action(each(SyncNode.freeze), each(SyncNode.thaw)),
    "clock": Action(skew, each(lambda node: restart(node, 0.0))),
    "partition": Action(part, heal),
    "throttle": Action(limit(RATE), limit(None)),
    "disk": Action(each(lambda node: fill(node.data_dir)), each(lambda node: clear(node.data_dir))),
}
"""By the names of `schedule.KINDS`."""
