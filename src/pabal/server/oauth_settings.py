"""The table [oauth] of the settings file: whose tokens are taken, how they are verified, where they say what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
    *("HS256", "HS384", "HS512"),
)


@dataclass(frozen=True, slots=True)
class OauthSettings:
    """Under the names that RabbitMQ's plugin gives them (`auth_oauth2.…`), or nearly."""

    resource_server_id: str
    """What a token's `aud` must name."""
    scope_prefix: str = ""
    """Of the scopes that are meant for this broker; the id and a dot unless given."""
    additional_scopes_key: str = ""
    """Claims that hold further scopes, separated by spaces; `a.b` is in a table."""
    preferred_username_claims: tuple[str, ...] = ("sub", "client_id")
    scope_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names for one or several scopes."""
    verify_aud: bool = True
    require_exp: bool = True
    """Tokens that never expire are refused."""
    issuer: str = ""
    """What `iss` must be; "" for any."""
    algorithms: tuple[str, ...] = ALGORITHMS
    default_key: str = ""
    """The id of the key for tokens that name none."""
    signing_keys: Mapping[str, str] = field(default_factory=dict)
    """Key id to PEM file of a public key or a certificate."""
    jwks_file: str = ""
    jwks_url: str = ""


def take_oauth(values: dict[str, Any]) -> OauthSettings | None:
    """Takes the table out of the file's `values`. ValueError, saying which and why, when a setting is not valid."""
    table = values.pop("oauth", None)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ValueError("oauth: expected a table")
    known = {f.name: f.type for f in fields(OauthSettings)}
    checked: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"oauth: there is no setting '{name}'")
        checked[name] = _checked(name, str(known[name]), value)
    if not checked.get("resource_server_id"):
        raise ValueError("oauth: 'resource_server_id' is missing")
    settings = OauthSettings(**checked)
    unknown = [name for name in settings.algorithms if name not in ALGORITHMS]
    if unknown:
        raise ValueError(f"oauth: algorithms: {unknown[0]!r}: expected one of {', '.join(ALGORITHMS)}")
    if settings.jwks_url and not settings.jwks_url.startswith(("https://", "http://")):
        raise ValueError(f"oauth: jwks_url = {settings.jwks_url!r}: expected https://…")
    if not (settings.signing_keys or settings.jwks_file or settings.jwks_url):
        raise ValueError("oauth: no keys: expected signing_keys, jwks_file or jwks_url")
    return settings


def _checked(name: str, kind: str, value: Any) -> Any:
    if kind in ("str", "bool"):
        if type(value).__name__ == kind:
            return value
        raise ValueError(f"oauth: {name} = {value!r}: expected {'a text' if kind == 'str' else 'true or false'}")
    if kind.startswith("tuple"):
        return _texts(name, value)
    if not isinstance(value, dict):
        raise ValueError(f"oauth: {name} = {value!r}: expected a table")
    if name == "scope_aliases":
        return {key: _texts(f"{name}.{key}", scopes) for key, scopes in value.items()}
    for key, path in value.items():
        if not isinstance(path, str):
            raise ValueError(f"oauth: {name}.{key} = {path!r}: expected the name of a PEM file")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of them, or one text with spaces in between."""
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ValueError(f"oauth: {name} = {value!r}: expected a list of texts")
