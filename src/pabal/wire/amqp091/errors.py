"""Reply codes of AMQP 0-9-1, the text that goes with them, and the one exception this package raises."""

from __future__ import annotations

from typing import Final

CONTENT_TOO_LARGE: Final = 311
NO_ROUTE: Final = 312
NO_CONSUMERS: Final = 313
CONNECTION_FORCED: Final = 320
INVALID_PATH: Final = 402
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
FRAME_ERROR: Final = 501
SYNTAX_ERROR: Final = 502
COMMAND_INVALID: Final = 503
CHANNEL_ERROR: Final = 504
UNEXPECTED_FRAME: Final = 505
RESOURCE_ERROR: Final = 506
NOT_ALLOWED: Final = 530
NOT_IMPLEMENTED: Final = 540
INTERNAL_ERROR: Final = 541

REPLY_NAMES: Final[dict[int, str]] = {
    CONTENT_TOO_LARGE: "CONTENT_TOO_LARGE",
    NO_ROUTE: "NO_ROUTE",
    NO_CONSUMERS: "NO_CONSUMERS",
    CONNECTION_FORCED: "CONNECTION_FORCED",
    INVALID_PATH: "INVALID_PATH",
    ACCESS_REFUSED: "ACCESS_REFUSED",
    NOT_FOUND: "NOT_FOUND",
    RESOURCE_LOCKED: "RESOURCE_LOCKED",
    PRECONDITION_FAILED: "PRECONDITION_FAILED",
    FRAME_ERROR: "FRAME_ERROR",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    COMMAND_INVALID: "COMMAND_INVALID",
    CHANNEL_ERROR: "CHANNEL_ERROR",
    UNEXPECTED_FRAME: "UNEXPECTED_FRAME",
    RESOURCE_ERROR: "RESOURCE_ERROR",
    NOT_ALLOWED: "NOT_ALLOWED",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    INTERNAL_ERROR: "INTERNAL_ERROR",
}

SHORTSTR_BYTES_MAX: Final = 255
"""What a short string holds at most, in bytes of UTF-8 (§4.2.5.3)."""


class WireError(Exception):
    """The peer broke the protocol.

    `code` is the reply code (§1.2), `text` the reason without the code's name, `class_id` and `method_id` the
    method at fault, or 0 when there is none.
    """

    def __init__(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        super().__init__(code, text, class_id, method_id)
        self.code = code
        self.text = text
        self.class_id = class_id
        self.method_id = method_id

    def __str__(self) -> str:
        return reply_text(self.code, self.text)


def reply_text(code: int, text: str) -> str:
    """The reply-text of a close or a return: "NOT_FOUND - no queue 'x' in vhost '/'", as RabbitMQ writes it.

    An unknown `code` gives `text` alone, an empty `text` the name alone. The result is cut between characters
    so that with "..." behind it it encodes to 255 bytes at most, and it always can be encoded as a short string.
    """
    name = REPLY_NAMES.get(code, "")
    full = f"{name} - {text}" if name and text else name or text
    try:
        encoded = full.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        encoded = full.encode("utf-8", "replace")
    if len(encoded) <= SHORTSTR_BYTES_MAX:
        return encoded.decode("utf-8", "surrogateescape")
    end = most = SHORTSTR_BYTES_MAX - 3
    # Octets 10xxxxxx continue a character; at most three of them follow its first octet.
    while end > most - 3 and encoded[end] & 0xC0 == 0x80:
        end -= 1
    return encoded[:end].decode("utf-8", "surrogateescape") + "..."
