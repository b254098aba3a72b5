"""Protocols as bytes: one package a specification. No exchange, no queue, no I/O."""
