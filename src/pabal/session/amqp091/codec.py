"""Messages for the HTTP API: published by it, and shown by it, in the encoding of AMQP 0-9-1."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pabal.model.errors import InvalidParameter, PreconditionFailed
from pabal.model.limits import FRAME_BYTES_MAX
from pabal.model.message import Envelope
from pabal.session.amqp091.container import Amqp091Container, with_delivery_count, without_blind_copies
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.publishing import read_copies, read_expiration
from pabal.wire.amqp091.content import (
    PROPERTY_NAMES,
    body,
    build,
    decode_properties,
    encode_properties,
    property_bytes,
)
from pabal.wire.amqp091.errors import WireError
from pabal.wire.amqp091.fields import TIMESTAMP_SECONDS_MAX

_NUMBERS: Final = {"delivery_mode": 255, "priority": 255, "timestamp": TIMESTAMP_SECONDS_MAX}
"""Properties that are whole numbers, and how high they may be."""


class Amqp091Codec:
    """See model.codec.MessageCodec."""

    def __init__(self, container: Amqp091Container) -> None:
        self._container = container

    def encode(
        self, exchange: str, routing_key: str, properties: Mapping[str, Any], body: bytes
    ) -> tuple[Envelope, bytes]:
        checked = {name: _checked(name, properties[name]) for name in PROPERTY_NAMES if name in properties}
        try:
            encoded = encode_properties(checked)
            content = build(encoded, body, 1, FRAME_BYTES_MAX)
            copies = read_copies(encoded)
            expiration = checked.get("expiration")
            ttl_ms = None if expiration is None else read_expiration(str(expiration))
        except ChannelFault as fault:
            raise PreconditionFailed(fault.text) from None
        except (WireError, ValueError, TypeError, OverflowError) as error:
            raise InvalidParameter(f"properties: {error}") from None
        mode, priority = checked.get("delivery_mode", 1), checked.get("priority", 0)
        envelope = Envelope(exchange, routing_key, mode == 2, ttl_ms, self._container, copies, priority)
        return envelope, without_blind_copies(content) if copies else content

    def properties(self, content: bytes, attempts: int = 0) -> dict[str, Any]:
        if attempts:
            content = with_delivery_count(content, attempts)
        try:
            return decode_properties(property_bytes(content))
        except WireError:
            return {}

    def body(self, content: bytes) -> bytes:
        return body(content)


def _checked(name: str, value: Any) -> Any:
    """The value as the encoding takes it. InvalidParameter when it is of another type, in RabbitMQ's words."""
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidParameter(f"not_int {name}")
        if not 0 <= value <= _NUMBERS[name]:
            raise InvalidParameter(f"{name} {value} is out of range")
        return datetime.fromtimestamp(value, UTC) if name == "timestamp" else value
    if name == "headers":
        if not isinstance(value, Mapping):
            raise InvalidParameter("not_table headers")
        return value
    if not isinstance(value, str):
        raise InvalidParameter(f"not_string {name}")
    return value
