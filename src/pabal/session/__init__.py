"""What the frames of a protocol mean here: one package a protocol. No I/O, no clock."""
