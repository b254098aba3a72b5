"""What the broker refuses, in words of no protocol; each session gives them its own codes."""


class BrokerError(Exception):
    """Something asked of the broker cannot be done. `str(error)` is the reason, fit for the peer."""


class NotFound(BrokerError):
    """There is no such exchange, queue or vhost."""


class AccessRefused(BrokerError):
    """The name is reserved, or the entity belongs to somebody else."""


class Locked(BrokerError):
    """The queue is exclusive to another connection."""


class PreconditionFailed(BrokerError):
    """The entity is there with other settings, is in use, or an argument is not valid."""


class InvalidCommand(BrokerError):
    """No broker could do this: an unknown exchange type."""


class Deprecated(BrokerError):
    """Older releases did it; the one that the broker stands for does not."""

    def __init__(self, feature: str) -> None:
        super().__init__(
            f"Feature `{feature}` is deprecated.\nBy default, this feature is not permitted anymore.\nThe feature "
            f"will be removed from a future major RabbitMQ version, regardless of the configuration; actual version "
            f"to be determined.\nTo use it, let the broker stand for an older release."
        )


class NotAllowed(BrokerError):
    """Not for this user."""


class InvalidParameter(BrokerError):
    """A policy or a limit is not valid. `str(error)` has a line for each reason."""


class StoreError(Exception):
    """The store cannot go on or cannot be opened. `str(error)` says why and what to do."""


class DiskFull(StoreError):
    """There was no room for a commit on the disk, or none left of a quota. Nothing of it is durable, and it may be
    tried again."""
