"""Who a node is, and what its swarm agrees on: keys, manifests, links and admission."""
