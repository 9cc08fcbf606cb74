"""Whole nodes over the memory network, under a virtual clock, while things go wrong as a scenario says."""
