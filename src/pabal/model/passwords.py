"""Passwords as they are kept: scrypt with a salt, written `scrypt:N:r:p:salt:hash` in hexadecimal; or as RabbitMQ
keeps them, `ALGORITHM:BASE64` of a salt of four bytes and the digest of salt and password, for users that come from
there. "" is the hash of no password."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

COST = 2**14
"""scrypt's N: some tens of milliseconds, by design."""
_R, _P = 8, 1
_COST_MAX: Final = 16 * COST * _R * _P
"""N times r times p: about a second, and 256 MiB. Others wait meanwhile to log in."""
SCRYPT: Final = "pabal_password_hashing_scrypt"
"""The name of our own form where RabbitMQ's API asks for a hashing algorithm."""
_DIGESTS: Final = {
    "rabbit_password_hashing_sha256": "sha256",
    "rabbit_password_hashing_sha512": "sha512",
    "rabbit_password_hashing_md5": "md5",
}
_SALT_BYTES: Final = 4


def hash_password(password: str, salt: bytes, cost: int = COST) -> str:
    """The form to keep. `salt`: 16 random bytes. A smaller `cost` is for a password that is no secret."""
    return f"scrypt:{cost}:{_R}:{_P}:{salt.hex()}:{_scrypt(password, salt, cost, _R, _P).hex()}"


def import_hash(password_hash: str, algorithm: str) -> str:
    """The form to keep of what an export of definitions (ours or RabbitMQ's) has as `password_hash` and
    `hashing_algorithm`. ValueError, saying which, when one is not valid."""
    if not password_hash:
        return ""
    kept = password_hash if algorithm == SCRYPT else f"{algorithm}:{password_hash}"
    check_hash(kept)
    return kept


def export_hash(kept: str) -> tuple[str, str]:
    """The other way: `password_hash` and `hashing_algorithm`."""
    algorithm, _, encoded = kept.partition(":")
    return (encoded, algorithm) if algorithm in _DIGESTS else (kept, SCRYPT)


def check_hash(kept: str) -> None:
    """ValueError when nothing could ever be verified against it."""
    algorithm, *parts = kept.split(":")
    if algorithm == "scrypt":
        if len(parts) != 5:
            raise ValueError("a password hash is written scrypt:N:r:p:salt:hash")
        n, r, p = (int(part) for part in parts[:3])
        bytes.fromhex(parts[3]), bytes.fromhex(parts[4])
        if not (n > 1 and n & (n - 1) == 0 and r > 0 and p > 0 and n * r * p <= _COST_MAX):
            raise ValueError("a password hash whose cost is out of range")
    else:
        _salt_and_digest(algorithm, ":".join(parts))


def verify_password(password: str, kept: str) -> bool:
    """Whether `kept` was made from this password. ValueError when `kept` is in no known form."""
    if not kept:
        return False
    check_hash(kept)
    algorithm, *parts = kept.split(":")
    if algorithm != "scrypt":
        salt, digest = _salt_and_digest(algorithm, parts[0])
        return hmac.compare_digest(hashlib.new(_DIGESTS[algorithm], salt + _bytes(password)).digest(), digest)
    n, r, p = (int(part) for part in parts[:3])
    found = _scrypt(password, bytes.fromhex(parts[3]), n, r, p)
    return hmac.compare_digest(found, bytes.fromhex(parts[4]))


def _salt_and_digest(algorithm: str, encoded: str) -> tuple[bytes, bytes]:
    if algorithm not in _DIGESTS:
        raise ValueError(f"unknown hashing algorithm '{algorithm}'")
    try:
        salted = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("a password hash that is not base64") from None
    if len(salted) != _SALT_BYTES + hashlib.new(_DIGESTS[algorithm]).digest_size:
        raise ValueError(f"a password hash of the wrong length for {algorithm}")
    return salted[:_SALT_BYTES], salted[_SALT_BYTES:]


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogateescape")


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(_bytes(password), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)
