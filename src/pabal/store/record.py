"""The stored form of a message: one versioned record.

Version 1, big-endian:  version u8 = 1 | container u8 | flags u8 (1: persistent) | attempts u32 |
expires_at_ms u64 (0: never) | exchange u8 + bytes | routing key u8 + bytes | content to the end.
Version 2, for a message with further routing keys: as 1, and before the content their count u32, each u32 + bytes.
Version 3, for a message whose content is kept by itself: as 2, and in place of the content its id u64.

To change it: add a layout with the next version number and keep decoding the older ones; records are rewritten
only when their messages are. A data file with a record of a later version is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError
from typing import Final

from pabal.model.errors import StoreError
from pabal.model.message import SHARED, STORED, Container, Envelope, Message

RECORD_VERSION: Final = 3
_REFERENCE: Final = 3
_REFERENCE_OCTET: Final = bytes((_REFERENCE,))
PERSISTENT: Final = 1

_HEAD = Struct(">BBBIQ")
_FRESH = _HEAD.size
_U32 = Struct(">I")
_ID = Struct(">Q")


def encode_record(message: Message, begun: int = 0) -> bytes:
    """The record of a message; `begun` attempts are added to those that it has. One that was never returned and
    does not expire costs a single concatenation."""
    return encode_head(message, begun) + message.content


def encode_head(message: Message, begun: int = 0) -> bytes:
    """The record but for the content that follows it."""
    envelope = message.envelope
    head = envelope.record_head
    if not head:
        head = envelope.record_head = _encode_envelope(envelope)
    if message.attempts or message.expires_at_ms or begun:
        version, container, flags, _, _ = _HEAD.unpack_from(head)
        fixed = _HEAD.pack(version, container, flags, message.attempts + begun, message.expires_at_ms)
        return fixed + head[_FRESH:]
    return head


def encode_reference(message: Message, begun: int = 0) -> bytes:
    """The record of a SHARED message."""
    envelope = message.envelope
    head = envelope.record_head or _encode_envelope(envelope)
    version, container, flags, _, _ = _HEAD.unpack_from(head)
    fixed = _HEAD.pack(_REFERENCE, container, flags, message.attempts + begun, message.expires_at_ms)
    no_copies = b"" if version == 2 else _U32.pack(0)
    return fixed + head[_FRESH:] + no_copies + _ID.pack(message.content_id)


def referred_content(record: bytes | memoryview) -> int:
    """The id of the content that a record refers to, 0 when it has it in itself."""
    return int.from_bytes(record[-_ID.size :], "big") if record[:1] == _REFERENCE_OCTET else 0


def _encode_envelope(envelope: Envelope) -> bytes:
    flags = PERSISTENT if envelope.persistent else 0
    copies = envelope.copies
    parts = [
        _HEAD.pack(2 if copies else 1, envelope.container.code, flags, 0, 0),
        _encode_name(envelope.exchange),
        _encode_name(envelope.routing_key),
    ]
    if copies:
        encoded = [key.encode("utf-8", "surrogateescape") for key in copies]
        parts += [_U32.pack(len(encoded)), *(_U32.pack(len(key)) + key for key in encoded)]
    return b"".join(parts)


def _encode_name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    return bytes((len(encoded),)) + encoded


def _read_copies(record: bytes, offset: int) -> tuple[tuple[str, ...], int]:
    """The further routing keys and where they end."""
    (count,) = _U32.unpack_from(record, offset)
    offset += _U32.size
    copies: list[str] = []
    for _ in range(count):
        (size,) = _U32.unpack_from(record, offset)
        offset += _U32.size + size
        if offset > len(record):
            raise ValueError("a routing key without its end")
        copies.append(record[offset - size : offset].decode("utf-8", "surrogateescape"))
    return tuple(copies), offset


class RecordReader:
    """Decodes records; messages that were published alike come back with one envelope. `content_of` knows the
    contents that are kept by themselves, by their ids; None: there is no such one."""

    def __init__(self, containers: Mapping[int, Container], content_of: Callable[[int], bytes | None]) -> None:
        self._containers = containers
        self._content_of = content_of
        self._last_head = b""
        self._last: Envelope | None = None
        # The last record up to its content, if it has that in itself; and what was in there.
        self._prefix = b""
        self._expires_at_ms = 0
        self._attempts = 0

    def decode(self, position: int, record: bytes) -> Message:
        """The message at `position`, STORED or SHARED. StoreError: the record is damaged or of a later version."""
        return self.decode_run([position], [record])[0]

    def decode_run(self, positions: list[int], records: list[bytes]) -> list[Message]:
        """The same for several. A record that begins as the last one did (and says itself where that ends) costs a
        comparison."""
        found: list[Message] = []
        envelope, prefix, content_at, expires_at_ms, attempts = self._last_prefix()
        for position, record in zip(positions, records, strict=True):
            if envelope is None or not record.startswith(prefix):
                found.append(self._decode_other(position, record))
                envelope, prefix, content_at, expires_at_ms, attempts = self._last_prefix()
                continue
            message = Message(envelope, record[content_at:], position, expires_at_ms, STORED)
            if attempts:
                message.attempts = attempts
            found.append(message)
        return found

    def _last_prefix(self) -> tuple[Envelope | None, bytes, int, int, int]:
        prefix = self._prefix
        return self._last if prefix else None, prefix, len(prefix), self._expires_at_ms, self._attempts

    def _decode_other(self, position: int, record: bytes) -> Message:
        copies: tuple[str, ...] = ()
        try:
            version, code, flags, attempts, expires_at_ms = _HEAD.unpack_from(record)
            if not 1 <= version <= RECORD_VERSION:
                raise StoreError(
                    f"the message at position {position} has record version {version}; this Pabal reads up to "
                    f"{RECORD_VERSION}: a newer Pabal wrote it"
                )
            key_at = _FRESH + 1 + record[_FRESH]
            keys_end = content_at = key_at + 1 + record[key_at]
            if version > 1:
                copies, content_at = _read_copies(record, content_at)
        except (IndexError, ValueError, StructError) as error:
            raise StoreError(f"the record at position {position} is damaged: {error}") from None
        head = record[1:3] + record[_FRESH : content_at if copies else keys_end]
        envelope = self._last
        if envelope is None or head != self._last_head:
            container = self._containers.get(code)
            if container is None or content_at > len(record):
                raise StoreError(f"the record at position {position} is damaged: container {code}")
            envelope = Envelope(
                record[_FRESH + 1 : key_at].decode("utf-8", "surrogateescape"),
                record[key_at + 1 : keys_end].decode("utf-8", "surrogateescape"),
                bool(flags & PERSISTENT),
                None,
                container,
                copies,
            )
            self._last_head, self._last = head, envelope
        if version == _REFERENCE:
            self._prefix = b""
            message = self._decode_reference(envelope, position, record, content_at)
        else:
            self._prefix = record[:content_at]
            self._expires_at_ms, self._attempts = expires_at_ms, attempts
            message = Message(envelope, record[content_at:], position, 0, STORED)
        message.expires_at_ms = expires_at_ms
        message.attempts = attempts
        return message

    def _decode_reference(self, envelope: Envelope, position: int, record: bytes, content_at: int) -> Message:
        content_id = int.from_bytes(record[content_at:], "big")
        content = self._content_of(content_id)
        if content is None or len(record) != content_at + _ID.size:
            raise StoreError(f"the record at position {position} is damaged: there is no content {content_id}")
        message = Message(envelope, content, position, 0, SHARED)
        message.content_id = content_id
        return message
