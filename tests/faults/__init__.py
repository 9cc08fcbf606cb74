"""What can go wrong with machines, networks and people: the swarm goes on, every time."""
