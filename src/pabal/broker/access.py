"""Who somebody is, and what they may do in a vhost.

`Access` finds out who a peer is; `Rights` decides what it may do there. Whatever protocol asks for an operation calls
the method of that name first; nothing else decides.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition
from pabal.model.errors import AccessRefused, InvalidParameter, NotAllowed, PreconditionFailed
from pabal.model.passwords import verify_password
from pabal.model.patterns import Pattern
from pabal.model.policies import compile_pattern
from pabal.model.scopes import Scopes

if TYPE_CHECKING:
    from pabal.broker.exchange import Exchange
    from pabal.broker.vhost import Vhost

IMPERSONATOR: Final = "impersonator"
CONFIGURE: Final = "configure"
WRITE: Final = "write"
READ: Final = "read"
_GRANTED_MAX: Final = 64
_CACHED_MAX: Final = 1024


class Principal(NamedTuple):
    """Somebody who has shown who they are. `tags`: as a user's. `scopes`: of a token, which then says what they may
    do; without, the permissions of the user of that name do. `expires_at_ms`: since the epoch; 0: never."""

    name: str
    tags: tuple[str, ...] = ()
    scopes: Scopes | None = None
    expires_at_ms: int = 0


class Refused(NamedTuple):
    """Who it is remains open. `reason`: for the log, never for the peer."""

    reason: str


Answer = Principal | Refused


def as_of_now(principal: Principal, broker: Broker) -> Principal | None:
    """The same somebody with the tags they have by now. None: they are there no more, or their token is over."""
    if principal.scopes is not None:
        return None if 0 < principal.expires_at_ms <= broker.now_ms else principal
    user = broker.accounts.users.get(principal.name)
    return None if user is None else _of_user(user)


def _nothing() -> None:
    pass


def _not_revoked(reason: str) -> None:
    pass


class Rights:
    """What `principal` may do in `vhost`. Each method raises AccessRefused, in RabbitMQ's words, when it is not
    allowed. `channels`: those that it has open here."""

    def __init__(self, principal: Principal, vhost: Vhost) -> None:
        self.principal = principal
        self.name = principal.name
        self.vhost = vhost
        self.channels = 0
        self._accounts = vhost.broker.accounts
        self._granted: set[tuple[str, str, str]] = set()
        self._any_key: set[str] = set()  # exchanges that may be published to with whatever routing key
        self._on_change: Callable[[], None] = _nothing
        self._on_revoked: Callable[[str], None] = _not_revoked

    # --- Being here -----------------------------------------------------------------------------------------

    def enter(self, on_change: Callable[[], None], on_revoked: Callable[[str], None]) -> None:
        """A connection opens the vhost. `on_change` is called when what it may do has changed, so that it forgets
        what it knows; `on_revoked`, with the reason, when it must end. NotAllowed: not there, or not one more."""
        limits = self._accounts.limits.get(self.name)
        most = None if limits is None else limits.max_connections
        if most is not None and len(self._accounts.holders.get(self.name, ())) >= most:
            raise NotAllowed(f"connection refused for user '{self.name}': user connection limit ({most}) is reached")
        self.open_vhost()
        self._on_change = on_change
        self._on_revoked = on_revoked
        self._accounts.enter(self)

    def leave(self) -> None:
        """The connection ended."""
        self._accounts.leave(self)
        self._on_change = _nothing
        self._on_revoked = _not_revoked

    def open_vhost(self) -> None:
        """NotAllowed."""
        scopes = self.principal.scopes
        if scopes is None:
            allowed = (self.name, self.vhost.name) in self._accounts.permissions
        else:
            allowed = scopes.opens(self.vhost.name)
        if not allowed:
            raise NotAllowed(f"access to vhost '{self.vhost.name}' refused for user '{self.name}'")

    def open_channel(self) -> None:
        """One more; NotAllowed: there are as many as the user may have. Undone by taking one from `channels`."""
        limits = self._accounts.limits.get(self.name)
        most = None if limits is None else limits.max_channels
        if most is not None and sum(h.channels for h in self._accounts.holders.get(self.name, ())) >= most:
            raise NotAllowed(
                f"number of channels opened for user '{self.name}' has reached the maximum allowed user limit of "
                f"{most}"
            )
        self.channels += 1

    def renew(self, principal: Principal) -> None:
        """The same somebody has shown a new token."""
        self.principal = principal
        self.changed()

    def changed(self) -> None:
        """See accounts.Holder."""
        self._granted.clear()
        self._any_key.clear()
        self._on_change()

    def revoked(self, reason: str) -> None:
        """See accounts.Holder."""
        self._on_revoked(reason)

    @property
    def by_token(self) -> bool:
        """See accounts.Holder."""
        return self.principal.scopes is not None

    # --- Exchanges ------------------------------------------------------------------------------------------

    def declare_exchange(self, name: str, arguments: Mapping[str, Any]) -> None:
        _check_not_default(name)
        self._check(CONFIGURE, "exchange", name)
        alternate = arguments.get("alternate-exchange")
        if isinstance(alternate, str) and name not in self.vhost.exchanges:
            self._check(READ, "exchange", name)
            self._check(WRITE, "exchange", alternate)

    def declare_exchange_passively(self, name: str) -> None:
        """To see whether it is there takes no permission (RabbitMQ up to 4.3.0)."""
        _check_not_default(name)

    def delete_exchange(self, name: str) -> None:
        _check_not_default(name)
        if not name.startswith("amq."):  # nobody may delete those, and is told so by the vhost
            self._check(CONFIGURE, "exchange", name)

    # --- Queues ---------------------------------------------------------------------------------------------

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        """`name`: also of a queue that the broker names."""
        self._check(CONFIGURE, "queue", name)
        dead_letter = arguments.get("x-dead-letter-exchange")
        if isinstance(dead_letter, str) and name not in self.vhost.queues:
            self._check(READ, "queue", name)
            self._check(WRITE, "exchange", dead_letter)

    def declare_queue_passively(self, name: str) -> None:
        """As an exchange."""

    def delete_queue(self, name: str) -> None:
        self._check(CONFIGURE, "queue", name)

    def purge(self, name: str) -> None:
        self._check(READ, "queue", name)

    def consume(self, name: str) -> None:
        self._check(READ, "queue", name)

    def get(self, name: str) -> None:
        self._check(READ, "queue", name)

    # --- Bindings -------------------------------------------------------------------------------------------

    def bind(self, source: str, destination: str, to_exchange: bool, routing_key: str) -> None:
        """Also for taking a binding away."""
        self._check(WRITE, "exchange" if to_exchange else "queue", destination)
        _check_not_default(source)
        if to_exchange:
            _check_not_default(destination)
        self._check(READ, "exchange", source)
        self._check_topic(READ, source, routing_key)

    def unbind(self, source: str, destination: str, to_exchange: bool, routing_key: str) -> None:
        self.bind(source, destination, to_exchange, routing_key)

    # --- Publishing -----------------------------------------------------------------------------------------

    def publish(self, exchange: str, routing_key: str, copies: Iterable[str] = ()) -> None:
        """`copies`: further routing keys. What it allows holds until `on_change` is called."""
        if exchange in self._any_key:
            return
        self._check(WRITE, "exchange", exchange)
        there = self.vhost.exchanges.get(exchange)
        if there is None or there.definition.internal:
            return  # the vhost says so
        if self._needs_no_topic(there):
            self._any_key.add(exchange)
            return
        self._check_topic(WRITE, exchange, routing_key)
        for key in copies:
            self._check_topic(WRITE, exchange, key)

    def _needs_no_topic(self, exchange: Exchange) -> bool:
        if exchange.definition.type != "topic":
            return True
        key = (self.name, self.vhost.name, exchange.name)
        return self.principal.scopes is None and key not in self._accounts.topic_permissions

    def claim_user_id(self, claimed: str) -> None:
        """A message says who published it. PreconditionFailed."""
        if claimed != self.name and IMPERSONATOR not in self.principal.tags:
            raise PreconditionFailed(f"user_id property set to '{claimed}' but authenticated user was '{self.name}'")

    # --- Deciding -------------------------------------------------------------------------------------------

    def _check(self, permission: str, kind: str, name: str) -> None:
        if kind == "exchange" and name == "":
            name = "amq.default"
        key = (permission, kind, name)
        if key in self._granted:
            return
        if not self._allows(permission, name):
            raise AccessRefused(
                f"{permission} access to {kind} '{name}' in vhost '{self.vhost.name}' refused for user '{self.name}'"
            )
        if len(self._granted) >= _GRANTED_MAX:
            self._granted.clear()
        self._granted.add(key)

    def _allows(self, permission: str, name: str) -> bool:
        scopes = self.principal.scopes
        if scopes is not None:
            return scopes.allows(permission, self.vhost.name, name)
        granted = self._accounts.permissions.get((self.name, self.vhost.name))
        if granted is None:
            return False
        if permission == CONFIGURE:
            return matches(granted.configure, name)
        return matches(granted.write if permission == WRITE else granted.read, name)

    def _check_topic(self, permission: str, exchange: str, routing_key: str) -> None:
        there = self.vhost.exchanges.get(exchange)
        if there is None or self._needs_no_topic(there):
            return
        if not self._allows_topic(permission, exchange, routing_key):
            raise AccessRefused(
                f"{permission} access to topic '{routing_key}' in exchange '{exchange}' in vhost "
                f"'{self.vhost.name}' refused for user '{self.name}'"
            )

    def _allows_topic(self, permission: str, exchange: str, routing_key: str) -> bool:
        scopes = self.principal.scopes
        if scopes is not None:
            return scopes.allows_topic(permission, self.vhost.name, exchange, routing_key)
        granted = self._accounts.topic_permissions[self.name, self.vhost.name, exchange]
        pattern = granted.write if permission == WRITE else granted.read
        if "{" in pattern:  # the values are no patterns, which in RabbitMQ they were until 4.3
            pattern = pattern.replace("{username}", re.escape(self.name))
            pattern = pattern.replace("{vhost}", re.escape(self.vhost.name))
        return matches(pattern, routing_key)


def _check_not_default(exchange: str) -> None:
    if exchange == "":
        raise AccessRefused("operation not permitted on the default exchange")


def matches(pattern: str, name: str) -> bool:
    """Whether a permission's regular expression is found in a name, as RabbitMQ looks for it: anywhere, and an empty
    one nowhere but in an empty name. One that is none matches nothing."""
    if pattern == ".*":
        return True
    compiled = _compiled(pattern or "^$")
    return compiled is not None and compiled.search(name)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Pattern | None:
    try:
        return compile_pattern(pattern)
    except InvalidParameter:
        return None


# --- Finding out who it is ----------------------------------------------------------------------------------


class Verifier(Protocol):
    """Does what takes its time where that harms nobody."""

    def run(self, peer: str, name: str, check: Callable[[], Answer], done: Callable[[Answer], None]) -> bool:
        """Calls `check` on some thread, and then `done` with its answer, in a turn of the broker. `peer`, `name`: by
        whom and as whom it is asked, so that each gets its share. False: too many wait already."""


class AtOnce:
    """A Verifier for where there is only one thread."""

    def run(self, peer: str, name: str, check: Callable[[], Answer], done: Callable[[Answer], None]) -> bool:
        done(check())
        return True


class Tokens(Protocol):
    """Reads tokens."""

    def recognises(self, secret: str) -> bool:
        """It looks like a token."""

    def read(self, token: str) -> Answer:
        """Who it says that its bearer is. On any thread, and may take its time."""


class Access:
    """Finds out who a peer is. A password that was right is remembered as a digest under a key of this process, since
    checking it anew takes tens of milliseconds on purpose; several who wait for the same check wait for one."""

    def __init__(
        self,
        broker: Broker,
        process_key: bytes,
        verifier: Verifier | None = None,
        tokens: Tokens | None = None,
        token_verifier: Verifier | None = None,
    ) -> None:
        self._accounts = broker.accounts
        self._key = process_key
        self._verifier: Verifier = verifier or AtOnce()
        self._tokens = tokens
        self._token_verifier: Verifier = token_verifier or self._verifier
        self._verified: dict[tuple[str, str], bytes] = {}
        self._waiting: dict[tuple[str, str, bytes], list[Callable[[Answer], None]]] = {}

    def authenticate(self, name: str, secret: str, peer: str, loopback: bool, done: Callable[[Answer], None]) -> None:
        """Calls `done` with who it is: at once, or in a later turn. `secret`: a password, or a token where the broker
        takes those. `peer`: the address. `loopback`: it is on this machine."""
        tokens = self._tokens
        if tokens is not None and tokens.recognises(secret):

            def read() -> Answer:
                assert tokens is not None
                return tokens.read(secret)

            if not self._token_verifier.run(peer, name, read, done):
                done(_TOO_MANY)
            return
        user = self._accounts.users.get(name)
        if user is not None and user.loopback_only and not loopback:
            done(Refused(f"user '{name}' can only connect via localhost"))
            return
        if not secret:
            done(Refused(f"user '{name}' with an empty password"))
            return
        self._check_password(name, user.password_hash if user else "", secret, peer, done)

    def _check_password(
        self, name: str, password_hash: str, password: str, peer: str, done: Callable[[Answer], None]
    ) -> None:
        """One who is not there is checked too, so that how long it takes does not tell."""
        digest = hashlib.blake2b(password.encode("utf-8", "surrogateescape"), key=self._key).digest()
        known = self._verified.get((name, password_hash))
        if known is not None and hmac.compare_digest(known, digest):
            done(self._principal(name, password_hash))
            return
        key = (name, password_hash, digest)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(done)
            return
        self._waiting[key] = [done]

        def check() -> Answer:
            right = verify_password(password, password_hash or _NOBODYS)
            if password_hash and not password_hash.startswith("scrypt:"):
                verify_password(password, _NOBODYS)  # RabbitMQ's digests take no time, and that would tell
            return Principal(name) if right and password_hash else Refused(f"user '{name}' - invalid credentials")

        def answered(answer: Answer) -> None:
            if isinstance(answer, Principal):
                if len(self._verified) >= _CACHED_MAX:
                    self._verified.clear()
                self._verified[name, password_hash] = digest
                answer = self._principal(name, password_hash)
            for each in self._waiting.pop(key):
                each(answer)

        share = name if password_hash else ""  # who makes up names has one share for all of them
        if not self._verifier.run(peer, share, check, answered):
            del self._waiting[key]
            done(_TOO_MANY)

    def _principal(self, name: str, password_hash: str) -> Answer:
        """The user, if it is still the one whose password was checked."""
        user = self._accounts.users.get(name)
        if user is None or user.password_hash != password_hash:
            return Refused(f"user '{name}' was changed meanwhile")
        return _of_user(user)

    def certified(self, name: str, loopback: bool) -> Answer:
        """Who has shown a certificate in this name, which was verified."""
        user = self._accounts.users.get(name)
        if user is None:
            return Refused(f"user '{name}' of a certificate is not there")
        if user.loopback_only and not loopback:
            return Refused(f"user '{name}' can only connect via localhost")
        return _of_user(user)

    def renew(self, principal: Principal, secret: str, peer: str, done: Callable[[Answer], None]) -> None:
        """The same with another token (connection.update-secret); for others a new password means nothing."""
        if principal.scopes is None:
            done(principal)
            return

        def answered(answer: Answer) -> None:
            if isinstance(answer, Principal) and answer.name != principal.name:
                answer = Refused("Not allowed to change username on refreshed token")
            done(answer)

        tokens = self._tokens
        if tokens is None:
            done(Refused("tokens are not taken"))
        elif not self._token_verifier.run(peer, principal.name, lambda: tokens.read(secret), answered):
            done(_TOO_MANY)


_TOO_MANY: Final = Refused("too many wait to be authenticated")
_NOBODYS: Final = "scrypt:16384:8:1:00000000000000000000000000000000:" + "00" * 32
"""No password has this hash."""


def _of_user(user: UserDefinition) -> Principal:
    return Principal(user.name, tuple(user.tags))
