"""How fast things are on this machine, measured between processes beside what bounds them."""
