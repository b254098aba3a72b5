"""What the HTTP API asks of a protocol to publish and to show messages without knowing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pabal.model.message import Envelope


class MessageCodec(Protocol):
    def encode(
        self, exchange: str, routing_key: str, properties: Mapping[str, Any], body: bytes
    ) -> tuple[Envelope, bytes]:
        """A message to be published, its properties under RabbitMQ's names ("delivery_mode", "headers").
        PreconditionFailed, InvalidParameter: it cannot be."""

    def properties(self, content: bytes, attempts: int = 0) -> dict[str, Any]:
        """The properties as a receiver sees them, who is told of `attempts` if there were any; {} when they cannot
        be read."""

    def body(self, content: bytes) -> bytes: ...
