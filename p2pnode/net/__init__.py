"""How a node reaches others: the libp2p host, discovery, and the in-memory twin of both."""
