"""Which browser pages may call the HTTP API.

A browser calls it for any page that asks, with the name and password that its user gave it or that everybody knows:
the page's origin, and the name it called, tell whether it is one of ours.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_PRIVATE: Final = (".localhost", ".local", ".internal", ".test", ".home.arpa")
"""Names that nobody can get on the Internet."""


def allowed(origin: str, origins: Sequence[str]) -> bool:
    return origin in origins or "*" in origins


def forged(method: str, headers: Mapping[str, str], origins: Sequence[str]) -> bool:
    """Whether a page of another origin wants something changed. It could not read the answer, but needs none."""
    if method in _SAFE:
        return False
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return not (allowed(origin, origins) or _authority(origin) == headers.get("host", "").lower())


def rebound(headers: Mapping[str, str], origins: Sequence[str]) -> bool:
    """Whether the name that was called is one that others may have pointed at this machine (DNS rebinding): its pages
    are of the same origin then. For who may come from this machine only."""
    host = (_split("//" + headers.get("host", "")) or "").rstrip(".")
    if "." not in host or host.endswith(_PRIVATE) or "*" in origins or _is_address(host):
        return False
    return host != socket.gethostname().lower() and host not in [_split(origin) for origin in origins]


def _authority(origin: str) -> str:
    scheme, _, rest = origin.lower().partition("://")
    return rest if scheme in ("http", "https") else ""


def _split(url: str) -> str | None:
    """The name of the host; of what is no address, all of it."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return url.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
