"""From connection.start to connection.open-ok: who the peer is, what was agreed on, and the vhost it opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pabal.broker.access import Access
from pabal.model import errors
from pabal.session.amqp091.handshake import MECHANISMS, check_tune, read_credentials, server_properties
from pabal.wire.amqp091 import errors as codes
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.errors import WireError

if TYPE_CHECKING:
    from pabal.session.amqp091.connection import Amqp091Session


class Login:
    """One session's handshake. `loopback`: the peer is on this machine."""

    __slots__ = ("_access", "_loopback", "_session", "_wants_failure_close")

    def __init__(self, session: Amqp091Session, access: Access, loopback: bool) -> None:
        self._session = session
        self._access = access
        self._loopback = loopback
        self._wants_failure_close = False

    def start(self) -> None:
        """The protocol header has come."""
        session = self._session
        session.state = "start"
        properties = server_properties(session.settings)
        session.output.write(m.encode_method(0, m.CONNECTION_START, 0, 9, properties, " ".join(MECHANISMS), "en_US"))

    def start_ok(self, properties: dict[str, Any], mechanism: str, response: bytes, locale: str) -> None:
        session = self._session
        capabilities = properties.get("capabilities")
        if isinstance(capabilities, dict):
            session.wants_cancel_notify = capabilities.get("consumer_cancel_notify") is True
            session.wants_blocked = capabilities.get("connection.blocked") is True
            self._wants_failure_close = capabilities.get("authentication_failure_close") is True
        if mechanism not in MECHANISMS:
            session.log(f"refused: unknown authentication mechanism {mechanism[:100]!r}")
            session.end()
            return
        name, password = read_credentials(mechanism, response)
        user = self._access.authenticate(name, password, self._loopback)
        if user is None:
            session.log(f"refused: wrong user name or password, or not allowed from there: user {name!r}")
            self._refuse(mechanism)
            return
        session.user = name
        session.state = "tune"
        settings = session.settings
        session.output.write(
            m.encode_method(
                0,
                m.CONNECTION_TUNE,
                settings.channel_max,
                settings.frame_bytes_max,
                settings.heartbeat_seconds,
            )
        )

    def _refuse(self, mechanism: str) -> None:
        """Says so to a peer that said it would understand; closes the socket on another."""
        if self._wants_failure_close:
            text = (
                f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            )
            self._session.close_with(WireError(codes.ACCESS_REFUSED, text))
        else:
            self._session.end()

    def tune_ok(self, channel_max: int, frame_bytes_max: int, heartbeat_seconds: int) -> None:
        session = self._session
        check_tune(session.settings, channel_max, frame_bytes_max)
        session.tune(channel_max, frame_bytes_max, heartbeat_seconds)
        session.state = "opening"

    def open(self, name: str) -> None:
        session = self._session
        vhost = session.broker.vhosts.get(name)
        if session.refusal:
            raise WireError(codes.NOT_ALLOWED, session.refusal)
        if vhost is None:
            raise WireError(codes.NOT_ALLOWED, f"vhost {name} not found")
        if not self._access.may_open(session.user, name):
            raise WireError(codes.NOT_ALLOWED, f"access to vhost '{name}' refused for user '{session.user}'")
        try:
            vhost.connect(session, session.user)
        except errors.NotAllowed as error:
            raise WireError(codes.NOT_ALLOWED, str(error)) from None
        session.vhost = vhost
        session.state = "open"
        session.output.write(m.encode_method(0, m.CONNECTION_OPEN_OK))
        session.heed_alarms()
        session.log(f"opened vhost '{name}' as user '{session.user}'")

    def update_secret(self, secret: bytes, reason: str) -> None:
        self._session.output.write(m.encode_method(0, m.CONNECTION_UPDATE_SECRET_OK))
