"""Tokens as passwords: what is verified, whose they are, and what they allow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import pabal.server.oauth
from pabal.broker.access import Principal, Refused
from pabal.server.oauth import TokenReader
from pabal.server.oauth_settings import OauthSettings, take_oauth

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


@pytest.fixture
def reader(tmp_path: Path) -> Callable[..., TokenReader]:
    def make(**settings: Any) -> TokenReader:
        (tmp_path / "rsa.pem").write_bytes(pem(RSA))
        keys = {"one": str(tmp_path / "rsa.pem")}
        return TokenReader(OauthSettings("rabbitmq", **{"signing_keys": keys, **settings}))

    return make


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **claims: Any) -> str:
    payload = {"aud": "rabbitmq", "sub": "ann", "exp": int(time.time()) + 60, "scope": "rabbitmq.read:*/*", **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm, {"kid": kid} if kid else {})


def test_a_token_says_who_bears_it_and_until_when(reader: Callable[..., TokenReader]) -> None:
    expires = int(time.time()) + 60
    found = reader().read(token(exp=expires))
    assert isinstance(found, Principal)
    assert (found.name, found.expires_at_ms) == ("ann", expires * 1000)
    assert found.scopes is not None
    assert found.scopes.allows("read", "/", "q")
    assert not found.scopes.allows("write", "/", "q")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: token(exp=int(time.time()) - 1), "expired"),
        (lambda: token(exp=None), '"exp"'),
        (lambda: token(nbf=int(time.time()) + 60), "not yet valid"),
        (lambda: token(aud="another"), "audience"),
        (lambda: token(aud=None), "audience"),
        (lambda: token(iss="somebody"), "issuer"),
        (lambda: token(key=OTHER_RSA), "Signature"),
        (lambda: token(kid="two"), "no key 'two'"),
        (lambda: token(key=EC, algorithm="ES256"), "alg"),
        (lambda: token(scope=" ".join(f"rabbitmq.read:*/{n}" for n in range(2049))), "scopes"),
        (lambda: "ey.ey.ey", ""),
        (lambda: token()[:-10], ""),
        (lambda: f"{unsigned({'alg': 'none'})}.{unsigned({'sub': 'ann'})}.", ""),
        (lambda: forged_with_public_key(), "alg"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_right_is_refused(reader: Callable[..., TokenReader], made: Callable[[], str], why: str) -> None:
    refused = reader(issuer="us").read(made()) if why == "issuer" else reader().read(made())
    assert isinstance(refused, Refused)
    assert why in refused.reason


def unsigned(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged_with_public_key() -> str:
    """Signed with what everybody knows, in the hope that it is taken for a shared secret."""
    import hashlib
    import hmac

    head = f"{unsigned({'alg': 'HS256', 'kid': 'one'})}.{unsigned({'sub': 'ann', 'aud': 'rabbitmq', 'exp': 2**32})}"
    digest = hmac.new(pem(RSA), head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("settings", "claims", "allowed", "denied"),
    [
        ({}, {"scope": ["rabbitmq.write:a/b", "other.write:c/c"]}, ("write", "a", "b"), ("write", "c", "c")),
        ({"scope_prefix": "api://"}, {"scope": "api://write:a/b"}, ("write", "a", "b"), ("read", "a", "b")),
        (
            {"scope_aliases": {"role": ("rabbitmq.write:a/*", "rabbitmq.read:b/*")}},
            {"scope": "role"},
            ("read", "b", "x"),
            ("write", "b", "x"),
        ),
        (
            {"additional_scopes_key": "roles"},
            {"roles": {"rabbitmq": ["write:a/b"]}, "scope": None},
            ("write", "a", "b"),
            ("read", "a", "b"),
        ),
        (
            {"additional_scopes_key": "realm.roles", "scope_aliases": {"role": ("rabbitmq.write:a/b",)}},
            {"realm": {"roles": ["role"]}},
            ("write", "a", "b"),
            ("write", "a", "c"),
        ),
        (
            {},
            {"authorization": {"permissions": [{"scopes": ["rabbitmq.write:a/b"]}, {"rsid": 1}]}},
            ("write", "a", "b"),
            ("write", "a", "c"),
        ),
    ],
)
def test_where_scopes_come_from(
    reader: Callable[..., TokenReader], settings: Any, claims: Any, allowed: Any, denied: Any
) -> None:
    found = reader(**settings).read(token(**claims))
    assert isinstance(found, Principal)
    assert found.scopes is not None
    assert found.scopes.allows(*allowed)
    assert not found.scopes.allows(*denied)


def test_tags_and_names_come_from_claims(reader: Callable[..., TokenReader]) -> None:
    scope = "rabbitmq.tag:management rabbitmq.tag:administrator"
    found = reader(preferred_username_claims=("email", "sub")).read(token(scope=scope, email="a@b"))
    assert isinstance(found, Principal)
    assert (found.name, found.tags) == ("a@b", ("administrator", "management"))
    nameless = reader(preferred_username_claims=("none",)).read(token())
    assert isinstance(nameless, Principal)
    assert nameless.name == "unknown"


def test_a_token_without_expiry_is_taken_where_that_is_wanted(reader: Callable[..., TokenReader]) -> None:
    found = reader(require_exp=False).read(token(exp=None))
    assert isinstance(found, Principal)
    assert found.expires_at_ms == 0


def test_a_key_set_from_a_file(tmp_path: Path) -> None:
    described = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key()))
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**described, "kid": "e"}]}))
    reader = TokenReader(OauthSettings("rabbitmq", jwks_file=str(tmp_path / "keys.json")))
    assert isinstance(reader.read(token(EC, "ES256", "e")), Principal)
    assert isinstance(reader.read(token(EC, "ES256", None)), Principal)  # the only one
    assert isinstance(reader.read(token(RSA, "RS256", "e")), Refused)


def test_keys_are_fetched_when_a_token_names_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))
    kids = ["one"]
    fetched: list[str] = []
    now_s = [100.0]

    def fetch(url: str) -> bytes:
        fetched.append(url)
        return json.dumps({"keys": [{**described, "kid": kid} for kid in kids]}).encode()

    monkeypatch.setattr(pabal.server.oauth, "_fetch", fetch)
    monkeypatch.setattr(pabal.server.oauth.time, "monotonic", lambda: now_s[0])
    reader = TokenReader(OauthSettings("rabbitmq", jwks_url="https://keys"))
    assert isinstance(reader.read(token()), Principal)
    assert isinstance(reader.read(token()), Principal)
    assert len(fetched) == 1
    for _ in range(5):
        assert isinstance(reader.read(token(kid="two")), Refused)
    assert len(fetched) == 1  # too soon
    kids.append("two")
    now_s[0] += 11
    assert isinstance(reader.read(token(kid="two")), Principal)
    assert fetched == ["https://keys"] * 2


def test_keys_that_cannot_be_had_refuse_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str) -> bytes:
        raise OSError("no route")

    monkeypatch.setattr(pabal.server.oauth, "_fetch", fetch)
    refused = TokenReader(OauthSettings("rabbitmq", jwks_url="https://keys")).read(token())
    assert refused == Refused("token refused: no route")


def test_passwords_are_not_taken_for_tokens(reader: Callable[..., TokenReader]) -> None:
    assert reader().recognises(token())
    assert not reader().recognises("guest")
    assert not reader().recognises("a.b.c")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({}, "'resource_server_id' is missing"),
        ({"resource_server_id": "r"}, "no keys"),
        ({"resource_server_id": 1}, "expected a text"),
        ({"resource_server_id": "r", "resource": 1}, "there is no setting 'resource'"),
        ({"resource_server_id": "r", "jwks_url": "file:///etc/passwd"}, "expected https"),
        ({"resource_server_id": "r", "jwks_file": "f", "algorithms": ["none"]}, "'none'"),
        ({"resource_server_id": "r", "jwks_file": "f", "verify_aud": "no"}, "expected true or false"),
        ({"resource_server_id": "r", "signing_keys": {"a": 1}}, "name of a PEM file"),
    ],
)
def test_settings_that_cannot_be(table: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", "[(]")):
        take_oauth({"oauth": table})


def test_settings_as_in_a_file() -> None:
    values = {
        "oauth": {
            "resource_server_id": "r",
            "jwks_file": "f",
            "scope_aliases": {"role": "r.read:*/* r.write:*/*"},
            "preferred_username_claims": ["email"],
        },
        "port": 1,
    }
    assert take_oauth(values) == OauthSettings(
        "r",
        jwks_file="f",
        scope_aliases={"role": ("r.read:*/*", "r.write:*/*")},
        preferred_username_claims=("email",),
    )
    assert values == {"port": 1}
    assert take_oauth(values) is None
