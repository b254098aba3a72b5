"""How messages and definitions survive: the interface, memory, LMDB."""
