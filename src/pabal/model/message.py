"""A message: the encoded content it came with, and the broker's annotations beside it."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mypy_extensions import mypyc_attr

# Where a message stands with the store (Message.state).
UNSTORED: Final = 0
"""The store does not have it and need not: transient, or settled before it was written."""
PENDING: Final = 1
"""To be in the next commit."""
LOGGED: Final = 2
"""In the write-ahead log, or in a commit to it that has begun; in memory until it is stored."""
STORED: Final = 3
"""In the data file, or in a commit to it that has begun."""
SHARED: Final = 4
"""The same, and the content is in a record of its own, to which those of several messages may refer. So what is in
the data file is STORED or above."""


LEVEL_SHIFT: Final = 56
SEQUENCE_MASK: Final = (1 << LEVEL_SHIFT) - 1
"""A position is the order of arrival, and above it in a priority queue 255 minus the priority: positions sort as
messages are delivered."""


def level_base(priority: int) -> int:
    """The lowest position of messages with this priority, 0 to 255."""
    return (255 - priority) << LEVEL_SHIFT


class Outcome(enum.Enum):
    """What a consumer, or the queue in its place, says of a delivery."""

    ACCEPT = "accept"
    """Processed: the message leaves the queue."""
    RETURN = "return"
    """Tried and failed, or its consumer was lost: the message goes back to its own place."""
    RELEASE = "release"
    """Not tried: the message goes back to its own place."""
    REJECT = "reject"
    """Not processable: the message is dead-lettered."""


@dataclass(frozen=True, slots=True)
class Death:
    """One dead-lettering of a message.

    `time_ms`: when, since the epoch. `original_ttl`: the message's own expiration if it had one, as it was
    written. `count`: how often it died in this queue for this reason.
    """

    queue: str
    reason: str
    exchange: str
    routing_keys: tuple[str, ...]
    time_ms: int
    original_ttl: str | None = None
    count: int = 1


class Container(Protocol):
    """What the broker may ask of a content without knowing its protocol."""

    code: int
    """One octet that names the encoding in stored records."""

    def headers(self, content: bytes, names: Collection[str] | None = None) -> dict[str, Any]:
        """The application's headers by name, empty when there are none; if `names` are given, only those."""

    def property(self, content: bytes, name: str) -> str | None:
        """The property "message_id", "correlation_id" or "timestamp" (seconds since the epoch) as text; None when
        there is none."""

    def deaths(self, content: bytes) -> list[Death]:
        """The dead-letter history, newest first."""

    def priority(self, content: bytes) -> int:
        """0 to 255, 0 when the message says nothing."""

    def ttl(self, content: bytes) -> str | None:
        """The message's own expiration as it was written."""

    def body_bytes(self, content: bytes) -> int:
        """Size of the body alone."""

    def delay_ms(self, content: bytes) -> int:
        """How long the message asks to be held back, 0 when it does not."""

    def delayed(self, content: bytes) -> bytes:
        """The content of a message that was held back: marked so, and not to be held back again."""

    def copies(self, content: bytes) -> tuple[str, ...]:
        """Further routing keys that the message itself names, for all to see (CC)."""

    def with_death(self, content: bytes, death: Death, keep_copies: bool) -> bytes:
        """The content with `death` added to its history, and without its own expiration; unless `keep_copies`
        without the further routing keys too."""


@mypyc_attr(acyclic=True)
class Envelope:
    """What messages published alike share: where to, and what their properties ask of the broker.

    `ttl_ms`: time to live that the publisher gave, None for none. `priority`: 0 to 255. `copies`: further routing
    keys (CC, BCC), of no interest once the message is in its queues. `record_head` is the store's: the encoded
    beginning of a record with this envelope, made when first needed. `encoded_address` is likewise the session's:
    exchange and routing key as the protocol of `container` writes them.
    """

    __slots__ = (
        "container",
        "copies",
        "encoded_address",
        "exchange",
        "persistent",
        "priority",
        "record_head",
        "routing_key",
        "ttl_ms",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        persistent: bool,
        ttl_ms: int | None,
        container: Container,
        copies: tuple[str, ...] = (),
        priority: int = 0,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.persistent = persistent
        self.ttl_ms = ttl_ms
        self.container = container
        self.copies = copies
        self.priority = priority
        self.record_head: bytes = b""
        self.encoded_address: bytes = b""

    def anew(self, content: bytes) -> Envelope:
        """For publishing such a message again: with what its properties ask for, which the store does not keep."""
        container = self.container
        ttl = container.ttl(content)
        return Envelope(
            self.exchange,
            self.routing_key,
            self.persistent,
            None if ttl is None else int(ttl),
            container,
            self.copies,
            container.priority(content),
        )


@mypyc_attr(acyclic=True)
class Message:
    """A message in one queue. A message routed to many queues is one Message in each, sharing the content.

    Kept by the store: `envelope`, `content`, `position` (its place in the queue), `expires_at_ms` (0 for
    never), `attempts` (how often it came back unsettled). The rest lives as long as the process:
    `redelivered`, `state` (above), `content_id` (the store's, of a SHARED content; else it is not set), and while
    it is leased `consumer` and `delivery` (the session's name for this lease).

    Compiled, it is nothing that Python looks for garbage in: who ends a lease takes the consumer out.
    """

    __slots__ = (
        "attempts",
        "consumer",
        "content",
        "content_id",
        "delivery",
        "envelope",
        "expires_at_ms",
        "position",
        "redelivered",
        "state",
    )

    content_id: int

    def __init__(self, envelope: Envelope, content: bytes, position: int, expires_at_ms: int, state: int) -> None:
        self.envelope = envelope
        self.content = content
        self.position = position
        self.expires_at_ms = expires_at_ms
        self.state = state
        self.attempts = 0
        self.redelivered = False
        self.consumer: Any = None  # a broker.consumer.Consumer, which model may not name
        self.delivery: int = 0
