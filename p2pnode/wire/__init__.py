"""What travels: bounded messages, and arrays whose size both ends know in advance."""
