"""The conversations of a node with its peers, over the ports."""
