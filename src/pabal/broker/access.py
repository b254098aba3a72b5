"""Who may connect, and to which vhosts."""

from __future__ import annotations

import hashlib
import hmac

from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition
from pabal.model.passwords import verify_password

_CACHED_MAX = 1024


class Access:
    """Checks passwords against the broker's users. A password that was right is remembered as a digest under a
    key of this process, since checking it anew takes tens of milliseconds on purpose."""

    def __init__(self, broker: Broker, process_key: bytes) -> None:
        self._broker = broker
        self._key = process_key
        self._verified: dict[tuple[str, str], bytes] = {}

    def authenticate(self, name: str, password: str, loopback: bool) -> UserDefinition | None:
        """The user, or None. `loopback`: the peer is on this machine."""
        user = self._broker.accounts.users.get(name)
        if user is None or (user.loopback_only and not loopback):
            return None
        digest = hashlib.blake2b(password.encode("utf-8", "surrogateescape"), key=self._key).digest()
        known = self._verified.get((name, user.password_hash))
        if known is not None and hmac.compare_digest(known, digest):
            return user
        if not verify_password(password, user.password_hash):
            return None
        if len(self._verified) >= _CACHED_MAX:
            self._verified.clear()
        self._verified[(name, user.password_hash)] = digest
        return user

    def may_open(self, name: str, vhost: str) -> bool:
        return (name, vhost) in self._broker.accounts.permissions
