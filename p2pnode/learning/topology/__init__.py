"""Who averages with whom: pairs that everybody can work out without asking, exact sequences, graphs.

Nodes use `matching` in training, `base_graph` and `halving` in settling. The simulator can use every one of
`table.TOPOLOGIES`, each made into the arrays of a `Schedule`.
"""

from p2pnode.learning.topology.base import base_graph
from p2pnode.learning.topology.halving import blocks, halving
from p2pnode.learning.topology.pairs import matching
from p2pnode.learning.topology.settling import LARGE, by_halving

__all__ = ["LARGE", "base_graph", "blocks", "by_halving", "halving", "matching"]
