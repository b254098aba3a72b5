"""Pabal: a durable message queue broker that RabbitMQ's clients use unchanged."""

__version__ = "0.1.0"


def compiled() -> bool:
    """The hot path runs compiled (hatch_build.py), not as plain Python."""
    from pabal.wire.amqp091 import frames

    return not (frames.__file__ or "").endswith(".py")
