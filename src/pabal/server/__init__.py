"""asyncio: listeners, connections, the turn, configuration, signals."""
