"""The HTTP API: a table of routes, and functions from a request to an answer. No sockets, no clock, no waiting."""
