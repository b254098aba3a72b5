"""From connection.start to connection.open-ok: who the peer is, what was agreed on, and the vhost it opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pabal.broker.access import Access, Answer, Principal, Refused, Rights
from pabal.model import errors
from pabal.session.amqp091.handshake import EXTERNAL, MECHANISMS, check_tune, read_credentials, server_properties
from pabal.wire.amqp091 import errors as codes
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.errors import WireError

if TYPE_CHECKING:
    from pabal.session.amqp091.connection import Amqp091Session


class Login:
    """One session's handshake, and the renewing of what it was done with. The arguments are the session's."""

    __slots__ = (
        "_access",
        "_certificate_name",
        "_loopback",
        "_mechanism",
        "_peer",
        "_principal",
        "_session",
        "_waits",
        "_wants_failure_close",
    )

    def __init__(
        self, session: Amqp091Session, access: Access, loopback: bool, peer: str, certificate_name: str
    ) -> None:
        self._session = session
        self._access = access
        self._loopback = loopback
        self._peer = peer
        self._certificate_name = certificate_name
        self._mechanism = ""
        self._principal: Principal | None = None
        self._waits = False  # for an answer
        self._wants_failure_close = False

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return (*MECHANISMS, EXTERNAL) if self._certificate_name else MECHANISMS

    def start(self) -> None:
        """The protocol header has come."""
        session = self._session
        session.state = "start"
        properties = server_properties(session.settings)
        session.output.write(
            m.encode_method(0, m.CONNECTION_START, 0, 9, properties, " ".join(self._mechanisms), "en_US")
        )

    # --- Who it is ------------------------------------------------------------------------------------------

    def start_ok(self, properties: dict[str, Any], mechanism: str, response: bytes, locale: str) -> None:
        session = self._session
        session.client.properties, session.client.mechanism = properties, mechanism
        capabilities = properties.get("capabilities")
        if isinstance(capabilities, dict):
            session.wants_cancel_notify = capabilities.get("consumer_cancel_notify") is True
            session.wants_blocked = capabilities.get("connection.blocked") is True
            self._wants_failure_close = capabilities.get("authentication_failure_close") is True
        if mechanism not in self._mechanisms:
            session.log(f"refused: unknown authentication mechanism {mechanism[:100]!r}")
            session.end()
            return
        self._mechanism = mechanism
        if mechanism == EXTERNAL:
            self._authenticated(self._access.certified(self._certificate_name, self._loopback))
            return
        name, secret = read_credentials(mechanism, response)
        session.state = "verifying"
        self._waits = True
        self._access.authenticate(name, secret, self._peer, self._loopback, self._verified)
        if self._waits:
            session.hold()

    def _verified(self, answer: Answer) -> None:
        self._waits = False
        if self._session.state == "verifying":  # and not closed meanwhile
            self._authenticated(answer)
            self._session.resume()

    def _authenticated(self, answer: Answer) -> None:
        session = self._session
        session.broker.statistics.login("amqp091", not isinstance(answer, Refused))
        if isinstance(answer, Refused):
            self._refuse(f"refused: {answer.reason}")
            return
        self._principal = answer
        session.user = answer.name
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

    def _refuse(self, why: str) -> None:
        """Says so to a peer that said it would understand; closes the socket on another. `why` is for the log."""
        if self._wants_failure_close:
            text = (
                f"Login was refused using authentication mechanism {self._mechanism}. For details see the broker "
                f"logfile."
            )
            self._session.close_with(WireError(codes.ACCESS_REFUSED, text), why)
        else:
            self._session.log(why)
            self._session.end()

    # --- Limits and the vhost -------------------------------------------------------------------------------

    def tune_ok(self, channel_max: int, frame_bytes_max: int, heartbeat_seconds: int) -> None:
        session = self._session
        check_tune(session.settings, channel_max, frame_bytes_max)
        session.tune(channel_max, frame_bytes_max, heartbeat_seconds)
        session.state = "opening"

    def open(self, name: str) -> None:
        session = self._session
        assert self._principal is not None
        vhost = session.broker.vhosts.get(name)
        if session.refusal:
            raise WireError(codes.NOT_ALLOWED, session.refusal)
        if vhost is None:
            raise WireError(codes.NOT_ALLOWED, f"vhost {name} not found")
        rights = Rights(self._principal, vhost)
        try:
            vhost.connect(session, session.user)
            rights.enter(session.targets.clear, session.revoke)
        except errors.NotAllowed as error:
            vhost.disconnect(session)
            raise WireError(codes.NOT_ALLOWED, str(error)) from None
        session.vhost = vhost
        session.rights = rights
        session.state = "open"
        session.output.write(m.encode_method(0, m.CONNECTION_OPEN_OK))
        session.heed_alarms()
        session.log(f"opened vhost '{name}' as user '{session.user}'")

    # --- What it was done with ------------------------------------------------------------------------------

    def update_secret(self, secret: bytes, reason: str) -> None:
        """A token is renewed by another before it expires; a user's password is not looked at again."""
        session = self._session
        assert self._principal is not None
        self._waits = True
        self._access.renew(self._principal, secret.decode("utf-8", "replace"), self._peer, self._renewed)
        if self._waits:
            session.hold()

    def _renewed(self, answer: Answer) -> None:
        self._waits = False
        session = self._session
        if session.state != "open":
            return
        if isinstance(answer, Refused):
            text = "New secret was refused by one of the backends"
            update = m.CONNECTION_UPDATE_SECRET
            error = WireError(codes.NOT_ALLOWED, text, update.class_id, update.method_id)
            session.close_with(error, f"closed: new secret refused: {answer.reason}")
        else:
            self._take(answer)
        session.resume()

    def _take(self, principal: Principal) -> None:
        session = self._session
        rights = session.rights
        assert rights is not None
        self._principal = principal
        rights.renew(principal)
        try:
            rights.open_vhost()
        except errors.NotAllowed as error:
            session.close_with(WireError(codes.NOT_ALLOWED, str(error)))
            return
        session.output.write(m.encode_method(0, m.CONNECTION_UPDATE_SECRET_OK))

    def expired(self, now_ms: int) -> bool:
        """The token's time is over."""
        principal = self._principal
        return principal is not None and 0 < principal.expires_at_ms <= now_ms
