"""What a token allows: the scopes of RabbitMQ's OAuth 2 plugin.

`PERMISSION:VHOST/NAME` or `PERMISSION:VHOST/NAME/ROUTING_KEY`, where PERMISSION is configure, write or read, "*"
stands for any characters, and others that mean something there are written as in a URL (%2F for "/"). "{vhost}" is
the vhost, "{claim}" another claim of the token. `tag:NAME` gives a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote_plus

_PERMISSIONS: Final = ("configure", "write", "read")
_TAG_PREFIX: Final = "tag:"
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
SCOPES_MAX: Final = 2048
"""Of a token, as in RabbitMQ."""


class Scopes:
    """`names`: the scopes without the resource server's prefix. `claims`: those of the token that are text."""

    __slots__ = ("_claims", "_grants", "tags")

    def __init__(self, names: Iterable[str], claims: Mapping[str, str]) -> None:
        self._claims = {name: value for name, value in claims.items() if name != "vhost"}
        self._grants: list[tuple[str, list[str]]] = []
        tags: list[str] = []
        for name in sorted(set(names)):
            if name.startswith(_TAG_PREFIX):
                tags.append(name.removeprefix(_TAG_PREFIX))
            permission, colon, pattern = name.partition(":")
            parts = pattern.split("/")
            if colon and permission in _PERMISSIONS and len(parts) in (2, 3):
                self._grants.append((permission, parts))
        self.tags = tuple(tags)

    def opens(self, vhost: str) -> bool:
        """Whether there is anything at all to be done in this vhost."""
        return any(self._matches(vhost, parts[0], vhost) for _, parts in self._grants)

    def allows(self, permission: str, vhost: str, name: str) -> bool:
        """A queue or an exchange."""
        return any(
            granted == permission and self._matches(vhost, parts[0], vhost) and self._matches(name, parts[1], vhost)
            for granted, parts in self._grants
        )

    def allows_topic(self, permission: str, vhost: str, exchange: str, routing_key: str) -> bool:
        """A routing key at a topic exchange: unlike a user's permissions, a scope must name it."""
        return any(
            granted == permission
            and len(parts) == 3
            and self._matches(vhost, parts[0], vhost)
            and self._matches(exchange, parts[1], vhost)
            and self._matches(routing_key, parts[2], vhost)
            for granted, parts in self._grants
        )

    def _matches(self, subject: str, pattern: str, vhost: str) -> bool:
        if "{" in pattern:
            for name, value in self._claims.items():
                pattern = pattern.replace("{" + name + "}", value)
            pattern = pattern.replace("{vhost}", vhost)
        return wildcard_match(subject, pattern)


def wildcard_match(subject: str, pattern: str) -> bool:
    """Each part between the stars is looked for from where the last one ended, the first time that it is there: as in
    RabbitMQ, "*.log" is not found in "a.log.log"."""
    if _BROKEN_ESCAPE.search(pattern):
        return False
    first, *rest = [unquote_plus(part, errors="surrogateescape") for part in pattern.split("*")]
    if not subject.startswith(first):
        return False
    at, end = len(first), len(subject)
    for index, part in enumerate(rest):
        if not part and index == len(rest) - 1:
            return True
        if at == end:
            return False
        found = subject.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return at == end
