"""p2pnode: a serverless peer-to-peer gossip-learning node."""

__version__ = "0.1.0"
