"""The stored form of a message: one versioned record.

Version 1, big-endian:  version u8 = 1 | container u8 | flags u8 (1: persistent) | attempts u32 |
expires_at_ms u64 (0: never) | exchange u8 + bytes | routing key u8 + bytes | content to the end.

To change it: add a layout with the next version number and keep decoding the older ones; records are rewritten
only when their messages are. A data file with a record of a later version is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from pabal.model.errors import StoreError
from pabal.model.message import STORED, Container, Envelope, Message

RECORD_VERSION: Final = 1
PERSISTENT: Final = 1

_HEAD = Struct(">BBBIQ")
_FRESH = _HEAD.size


def encode_record(message: Message, begun: int = 0) -> bytes:
    """The record of a message; `begun` attempts are added to those that it has. One that was never returned and
    does not expire costs a single concatenation."""
    envelope = message.envelope
    head = envelope.record_head
    if not head:
        head = envelope.record_head = _encode_head(envelope)
    if message.attempts or message.expires_at_ms or begun:
        version, container, flags, _, _ = _HEAD.unpack_from(head)
        fixed = _HEAD.pack(version, container, flags, message.attempts + begun, message.expires_at_ms)
        return fixed + head[_FRESH:] + message.content
    return head + message.content


def _encode_head(envelope: Envelope) -> bytes:
    exchange = envelope.exchange.encode("utf-8", "surrogateescape")
    key = envelope.routing_key.encode("utf-8", "surrogateescape")
    flags = PERSISTENT if envelope.persistent else 0
    return b"".join(
        (
            _HEAD.pack(RECORD_VERSION, envelope.container.code, flags, 0, 0),
            bytes((len(exchange),)),
            exchange,
            bytes((len(key),)),
            key,
        )
    )


class RecordReader:
    """Decodes records; messages that were published alike come back with one envelope."""

    def __init__(self, containers: Mapping[int, Container]) -> None:
        self._containers = containers
        self._last_head = b""
        self._last: Envelope | None = None

    def decode(self, position: int, record: bytes) -> Message:
        """The message at `position`, STORED. StoreError when the record is damaged or of a later version."""
        try:
            version, code, flags, attempts, expires_at_ms = _HEAD.unpack_from(record)
            if version != RECORD_VERSION:
                raise StoreError(
                    f"the message at position {position} has record version {version}; this Pabal reads "
                    f"{RECORD_VERSION}: a newer Pabal wrote it"
                )
            key_at = _FRESH + 1 + record[_FRESH]
            content_at = key_at + 1 + record[key_at]
        except (IndexError, ValueError, OSError) as error:
            raise StoreError(f"the record at position {position} is damaged: {error}") from None
        except Exception as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"the record at position {position} is damaged: {error}") from None
        head = record[:3] + record[_FRESH:content_at]
        envelope = self._last
        if envelope is None or head != self._last_head:
            container = self._containers.get(code)
            if container is None or content_at > len(record):
                raise StoreError(f"the record at position {position} is damaged: container {code}")
            envelope = Envelope(
                record[_FRESH + 1 : key_at].decode("utf-8", "surrogateescape"),
                record[key_at + 1 : content_at].decode("utf-8", "surrogateescape"),
                bool(flags & PERSISTENT),
                None,
                container,
            )
            self._last_head, self._last = head, envelope
        message = Message(envelope, record[content_at:], position, expires_at_ms, STORED)
        message.attempts = attempts
        return message
