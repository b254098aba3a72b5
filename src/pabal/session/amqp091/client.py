"""What an AMQP 0-9-1 connection lets others see of itself, and how they end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pabal.broker.clients import ClientChannel, Link

if TYPE_CHECKING:
    from pabal.session.amqp091.connection import Amqp091Session

_PUBLIC_STATES: Final = {
    "header": "starting",
    "start": "starting",
    "verifying": "starting",
    "tune": "tuning",
    "opening": "opening",
    "open": "running",
    "closing": "closing",
    "closed": "closed",
}


class Amqp091Client:
    """See broker.clients.Client. The server sets `link`; the handshake, `properties` and `mechanism`."""

    __slots__ = ("_session", "link", "mechanism", "properties", "since_ms")

    protocol: Final = "AMQP 0-9-1"

    def __init__(self, session: Amqp091Session) -> None:
        self._session = session
        self.link = Link("?", 0, "?", 0)
        self.mechanism = ""
        self.properties: dict[str, Any] = {}
        self.since_ms = session.broker.now_ms

    @property
    def name(self) -> str:
        return self.link.name

    @property
    def state(self) -> str:
        return self._session.state

    @property
    def public_state(self) -> str:
        session = self._session
        if session.state == "open" and session.broker.alarms:
            return "blocked" if session.alarmed else "blocking"
        return _PUBLIC_STATES[session.state]

    @property
    def user(self) -> str:
        return self._session.user

    @property
    def vhost_name(self) -> str:
        vhost = self._session.vhost
        return "" if vhost is None else vhost.name

    @property
    def heartbeat_seconds(self) -> int:
        return self._session.heartbeat_ms // 1000

    @property
    def frame_bytes_max(self) -> int:
        return self._session.frame_bytes_max

    @property
    def channel_max(self) -> int:
        return self._session.channel_max

    @property
    def open_channels(self) -> Sequence[ClientChannel]:
        return list(self._session.channels.values())

    def close(self, reason: str) -> None:
        self._session.shut_down(reason)
