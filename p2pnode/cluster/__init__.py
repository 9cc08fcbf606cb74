"""Many nodes on this machine, started, watched and steered from a script: see `LocalCluster`."""

from p2pnode.cluster.goal import NodeEnded
from p2pnode.cluster.local import LocalCluster
from p2pnode.cluster.node import LocalNode
from p2pnode.cluster.sync import SyncCluster, SyncNode

__all__ = ["LocalCluster", "LocalNode", "NodeEnded", "SyncCluster", "SyncNode"]
