"""JSON web tokens as passwords, read as RabbitMQ's plugin rabbitmq_auth_backend_oauth2 reads them."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from pabal.broker.access import Answer, Principal, Refused
from pabal.model.scopes import SCOPES_MAX, Scopes
from pabal.server.oauth_settings import OauthSettings

_ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
    "oct": ("HS256", "HS384", "HS512"),
}
"""By type of key: a public key never serves as the secret of another kind of signature."""
_FETCH_SECONDS_MAX: Final = 5
_FETCH_BYTES_MAX: Final = 1024 * 1024
_FETCHED_ANEW_SECONDS: Final = 10
"""Tokens that name keys nobody knows do not make the broker ask for keys all the time."""


class Key(NamedTuple):
    """A public key, and the algorithms that it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


class Keys:
    """The keys of the settings, and those behind the URL, which are fetched when a token names one that is not
    known."""

    def __init__(self, settings: OauthSettings) -> None:
        """OSError, ValueError: a file cannot be read, or is no key."""
        self._settings = settings
        self._own = {name: _read_pem(path) for name, path in settings.signing_keys.items()}
        if settings.jwks_file:
            self._own |= read_jwks(Path(settings.jwks_file).read_bytes())
        self._fetched: dict[str, Key] = {}
        self._fetched_s = -1e9
        self._lock = threading.Lock()

    def find(self, name: str) -> Key | None:
        """`name`: "" when the token names none."""
        name = name or self._settings.default_key
        with self._lock:
            key = self._known(name)
            if key is None and self._settings.jwks_url and time.monotonic() - self._fetched_s > _FETCHED_ANEW_SECONDS:
                self._fetched_s = time.monotonic()
                self._fetched = read_jwks(_fetch(self._settings.jwks_url))
                key = self._known(name)
            return key

    def _known(self, name: str) -> Key | None:
        keys = self._own | self._fetched
        if not name and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(name)


def _read_pem(path: str) -> Key:
    data = Path(path).read_bytes()
    if b"CERTIFICATE" in data:
        key: Any = load_pem_x509_certificate(data).public_key()
    else:
        key = load_pem_public_key(data)
    kind = type(key).__name__
    for prefix, family in (("RSA", "RSA"), ("Elliptic", "EC"), ("EC", "EC"), ("Ed", "OKP")):
        if kind.lstrip("_").startswith(prefix):
            return Key(key, _ALGORITHMS[family])
    raise ValueError(f"{path}: a key of a kind that signs no tokens")


def read_jwks(data: bytes) -> dict[str, Key]:
    """By key id. ValueError when it is no such set, or there is no key in it that can be used."""
    try:
        described = json.loads(data)["keys"]
        keys = {str(each.get("kid", "")): _key(each) for each in described if each.get("use", "sig") == "sig"}
    except (KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ValueError(f"no JSON web key set: {error!r}") from None
    if not keys:
        raise ValueError("a JSON web key set without keys for signatures")
    return keys


def _key(described: Mapping[str, Any]) -> Key:
    algorithms = _ALGORITHMS.get(described["kty"], ())
    if "alg" in described:
        algorithms = tuple(name for name in algorithms if name == described["alg"])
    return Key(jwt.PyJWK(dict(described)).key, algorithms)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_FETCH_SECONDS_MAX) as response:
        data: bytes = response.read(_FETCH_BYTES_MAX)
        return data


class TokenReader:
    """See broker.access.Tokens. OSError, ValueError: a key file cannot be used."""

    def __init__(self, settings: OauthSettings) -> None:
        self._settings = settings
        self._prefix = settings.scope_prefix or settings.resource_server_id + "."
        self._keys = Keys(settings)

    def recognises(self, secret: str) -> bool:
        """Three parts, and the first is a JSON object in base64."""
        return secret.startswith("ey") and secret.count(".") == 2

    def read(self, token: str) -> Answer:
        try:
            claims = self._verified(token)
            names = self._scopes(claims)
        except (jwt.PyJWTError, OSError, ValueError) as error:
            return Refused(f"token refused: {error}")
        texts = {name: value for name, value in claims.items() if isinstance(value, str)}
        name = next((texts[claim] for claim in self._settings.preferred_username_claims if claim in texts), "unknown")
        scopes = Scopes(names, texts)
        return Principal(name, scopes.tags, scopes, int(claims.get("exp", 0)) * 1000)

    def _verified(self, token: str) -> dict[str, Any]:
        settings = self._settings
        key_id = jwt.get_unverified_header(token).get("kid", "")
        key = self._keys.find(key_id)
        if key is None:
            raise ValueError(f"there is no key '{key_id}'")
        algorithms = [name for name in key.algorithms if name in settings.algorithms]
        required = ["exp"] if settings.require_exp else []
        claims: dict[str, Any] = jwt.decode(
            token, key.key, algorithms, options={"require": required, "verify_aud": False, "verify_sub": False}
        )
        audience = claims.get("aud", [])
        audience = audience.split() if isinstance(audience, str) else audience
        if settings.verify_aud and settings.resource_server_id not in audience:
            raise ValueError(f"its audience is not '{settings.resource_server_id}'")
        if settings.issuer and claims.get("iss") != settings.issuer:
            raise ValueError(f"its issuer is not '{settings.issuer}'")
        return claims

    def _scopes(self, claims: Mapping[str, Any]) -> list[str]:
        """Those meant for this broker, without their prefix."""
        scopes = _texts(claims.get("scope"))
        scopes += self._of_permissions(claims.get("authorization"))
        for path in self._settings.additional_scopes_key.split():
            value: Any = claims
            for part in path.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, dict):
                own = value.get(self._settings.resource_server_id)
                scopes += [f"{self._settings.resource_server_id}.{scope}" for scope in _texts(own)]
            else:
                scopes += _texts(value)
        for scope in list(scopes):
            scopes += self._settings.scope_aliases.get(scope, ())
        found = sorted({s.removeprefix(self._prefix) for s in scopes if s.startswith(self._prefix)})
        if len(found) > SCOPES_MAX:
            raise ValueError(f"more than {SCOPES_MAX} scopes")
        return found

    @staticmethod
    def _of_permissions(authorization: Any) -> list[str]:
        """Keycloak's way: authorization.permissions[].scopes."""
        permissions = authorization.get("permissions") if isinstance(authorization, dict) else None
        found: list[str] = []
        for permission in permissions if isinstance(permissions, list) else []:
            found += _texts(permission.get("scopes") if isinstance(permission, dict) else None)
        return found


def _texts(value: Any) -> list[str]:
    """A text is split at its spaces; of a list its texts are taken."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, Iterable) else []
