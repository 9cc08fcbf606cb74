"""Everything that shows what a node does. All of it reads the one stream of events."""
