"""The states of an AMQP 0-9-1 connection and its handshake: what the server says of itself, credentials, limits."""

from __future__ import annotations

from typing import Any, Final

from pabal.session.amqp091.settings import SessionSettings
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.errors import NOT_ALLOWED, SYNTAX_ERROR, WireError
from pabal.wire.amqp091.fields import decode_table

CAPABILITIES: Final = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
    "consumer_priorities": True,
    "per_consumer_qos": True,
    "direct_reply_to": True,
}
"""What connection.start says this broker can do, under RabbitMQ's names."""

MECHANISMS: Final = ("PLAIN", "AMQPLAIN")
EXTERNAL: Final = "EXTERNAL"
"""Only for who has shown a certificate."""

STATES: Final[dict[str, frozenset[int]]] = {
    "header": frozenset(),
    "start": frozenset({m.CONNECTION_START_OK.key}),
    "verifying": frozenset(),
    "tune": frozenset({m.CONNECTION_TUNE_OK.key}),
    "opening": frozenset({m.CONNECTION_OPEN.key}),
    "open": frozenset({m.CONNECTION_CLOSE.key, m.CONNECTION_UPDATE_SECRET.key}),
    "closing": frozenset({m.CONNECTION_CLOSE.key, m.CONNECTION_CLOSE_OK.key}),
    "closed": frozenset(),
}
"""What a client may send on channel 0 (§2.2.4). "verifying": who it is, is being
found out. "closing": we sent connection.close and await its answer."""


COMPATIBLE_PRODUCT: Final = "RabbitMQ"
"""Clients look at product and version to know how basic.qos is read (kombu) and what there is: what this broker
is compatible with, then. `information` and `pabal` say what it is."""


def server_properties(settings: SessionSettings) -> dict[str, Any]:
    """What connection.start tells the client."""
    return {
        "capabilities": dict(CAPABILITIES),
        "cluster_name": "pabal@localhost",
        "copyright": "Pabal's authors. Apache License 2.0",
        "information": "Pabal, a message queue broker that RabbitMQ's clients use unchanged",
        "pabal": settings.version,
        "platform": settings.platform,
        "product": COMPATIBLE_PRODUCT,
        "version": settings.compatibility.version,
    }


def read_credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    """PLAIN: RFC 4616, an empty authorization identity. AMQPLAIN: a table without its length."""
    if mechanism == "PLAIN":
        parts = response.split(b"\0")
        if len(parts) == 3:
            return parts[1].decode("utf-8", "replace"), parts[2].decode("utf-8", "replace")
        raise WireError(SYNTAX_ERROR, "PLAIN response is not two strings with a NUL before each")
    table, _ = decode_table(len(response).to_bytes(4, "big") + response)
    name, password = table.get("LOGIN"), table.get("PASSWORD")
    if isinstance(name, str) and isinstance(password, str):
        return name, password
    raise WireError(SYNTAX_ERROR, "AMQPLAIN response without LOGIN and PASSWORD")


def check_tune(settings: SessionSettings, channel_max: int, frame_bytes_max: int) -> None:
    """§1.4.2.6. As in RabbitMQ, 0 asks for no limit, and more than was proposed is refused with NOT_ALLOWED."""
    least = settings.compatibility.frame_bytes_min
    if 0 < frame_bytes_max < least:
        raise WireError(
            NOT_ALLOWED, f"negotiated frame_max = {frame_bytes_max} is lower than the minimum allowed value ({least})"
        )
    for name, asked, most in (
        ("frame_max", frame_bytes_max, settings.frame_bytes_max),
        ("channel_max", channel_max, settings.channel_max),
    ):
        if asked == 0 or asked > most:
            shown = f"{name} = {asked} (no limit)" if asked == 0 else f"{name} = {asked}"
            raise WireError(NOT_ALLOWED, f"negotiated {shown} is higher than the maximum allowed value ({most})")
