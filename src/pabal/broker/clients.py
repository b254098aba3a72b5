"""Who is connected: what each connection, of whatever protocol, lets others see of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pabal.broker.consumer import Consumer
from pabal.broker.statistics import Counters


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a connection is encrypted, in OpenSSL's words. `subject`, `issuer`, `validity`: of the certificate that the
    peer showed, "" without one."""

    protocol: str
    cipher: str
    subject: str = ""
    issuer: str = ""
    validity: str = ""


class Link:
    """The socket under a connection: both its ends, and what went over it. The server counts. `received`, `sent`: how
    often something was read or written. `pending_bytes`: written and not taken by the system, as of
    the last second. `encryption`: None
    for a connection in plain text."""

    __slots__ = (
        "encryption",
        "host",
        "peer_host",
        "peer_port",
        "pending_bytes",
        "port",
        "received",
        "received_bytes",
        "sent",
        "sent_bytes",
    )

    def __init__(
        self, peer_host: str, peer_port: int, host: str, port: int, encryption: Encryption | None = None
    ) -> None:
        self.peer_host = peer_host
        self.peer_port = peer_port
        self.host = host
        self.port = port
        self.encryption = encryption
        self.received = 0
        self.received_bytes = 0
        self.sent = 0
        self.sent_bytes = 0
        self.pending_bytes = 0

    @property
    def name(self) -> str:
        """As RabbitMQ names a connection, "127.0.0.1:50312 -> 127.0.0.1:5672"."""
        return f"{_bracketed(self.peer_host)}:{self.peer_port} -> {_bracketed(self.host)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class ClientChannel(Protocol):
    """A part of a connection that has an order of its own. Protocols without channels have one, with the number 1."""

    @property
    def number(self) -> int: ...

    @property
    def client(self) -> Client:
        """The connection it belongs to."""

    @property
    def counters(self) -> Counters:
        """What it published, was handed and settled."""

    @property
    def open_consumers(self) -> Sequence[Consumer]: ...

    @property
    def confirming(self) -> bool:
        """What it publishes is confirmed."""

    @property
    def transactional(self) -> bool: ...

    @property
    def consumer_prefetch(self) -> int:
        """What consumers made from now on may hold each; 0 for any number."""

    @property
    def channel_prefetch(self) -> int:
        """What all its consumers together may hold; 0 for any number."""

    @property
    def unacknowledged(self) -> int:
        """Deliveries that are not settled."""

    @property
    def unconfirmed(self) -> int:
        """Messages published that are not durable yet."""

    @property
    def uncommitted(self) -> int:
        """Messages that a transaction holds."""

    @property
    def uncommitted_acknowledgements(self) -> int:
        """Settlements that a transaction holds."""

    @property
    def since_ms(self) -> int:
        """When it was opened, in ms since the epoch."""


class Client(Protocol):
    """A connection, from accept to end; `Broker.clients` has all of them by their names."""

    @property
    def name(self) -> str:
        """See Link.name."""

    @property
    def link(self) -> Link: ...

    @property
    def protocol(self) -> str:
        """As RabbitMQ calls it: "AMQP 0-9-1"."""

    @property
    def state(self) -> str:
        """A word of the protocol's own."""

    @property
    def public_state(self) -> str:
        """RabbitMQ's word: "starting", "tuning", "opening", "running", "blocking" and "blocked" (an alarm),
        "closing", "closed"."""

    @property
    def user(self) -> str:
        """Its name, "" until it is known."""

    @property
    def vhost_name(self) -> str:
        """ "" until one is opened."""

    @property
    def mechanism(self) -> str:
        """How it authenticated, "PLAIN" for example; "" until it did."""

    @property
    def since_ms(self) -> int:
        """When it was accepted, in ms since the epoch."""

    @property
    def properties(self) -> dict[str, Any]:
        """What the client said of itself: "connection_name", "product" and so on."""

    @property
    def heartbeat_seconds(self) -> int: ...

    @property
    def frame_bytes_max(self) -> int: ...

    @property
    def channel_max(self) -> int: ...

    @property
    def open_channels(self) -> Sequence[ClientChannel]: ...

    def close(self, reason: str) -> None:
        """Somebody wants it to end. The client is told as its protocol tells it (AMQP: 320, CONNECTION_FORCED)."""
