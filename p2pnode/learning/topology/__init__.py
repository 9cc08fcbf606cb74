"""Who averages with whom: pairs that everybody can work out without asking, exact sequences, graphs.

Nodes use `matching` in training and `base_graph` in settling. The simulator can use every one of
`table.TOPOLOGIES`, each made into the arrays of a `Schedule`.
"""

from p2pnode.learning.topology.base import base_graph
from p2pnode.learning.topology.pairs import matching

__all__ = ["base_graph", "matching"]
