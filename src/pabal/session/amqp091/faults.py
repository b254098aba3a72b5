"""From what went wrong to AMQP 0-9-1's reply codes, and whether the channel or the connection is closed for it."""

from __future__ import annotations

from typing import Final

from pabal.model import errors
from pabal.wire.amqp091 import errors as codes


class ChannelFault(Exception):
    """Closes the channel with a reply code. (One that closes the connection is a WireError.)"""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


CHANNEL_CODES: Final[dict[type[Exception], int]] = {
    errors.NotFound: codes.NOT_FOUND,
    errors.AccessRefused: codes.ACCESS_REFUSED,
    errors.Locked: codes.RESOURCE_LOCKED,
    errors.PreconditionFailed: codes.PRECONDITION_FAILED,
}
CONNECTION_CODES: Final[dict[type[Exception], int]] = {
    errors.InvalidCommand: codes.COMMAND_INVALID,
    errors.NotAllowed: codes.NOT_ALLOWED,
    errors.Deprecated: codes.INTERNAL_ERROR,
}
