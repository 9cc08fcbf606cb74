"""Thousands of virtual nodes: a node's own functions for all of them at once, on a clock of their own."""
