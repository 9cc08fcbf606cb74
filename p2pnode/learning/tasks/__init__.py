"""Tasks that ship with p2pnode."""
