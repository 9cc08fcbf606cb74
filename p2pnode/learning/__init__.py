"""What a node computes: pure JAX functions of their arguments, without clock, network or threads."""
