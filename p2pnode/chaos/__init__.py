"""Faults on a schedule, over a swarm of whole processes, and what the swarm makes of them.

`schedule` decides what happens when, `actions` does it and undoes it, `run` drives a cluster, `diary`
finds out of what the nodes said how long each needed to be back, `verdict` says what broke.
"""
