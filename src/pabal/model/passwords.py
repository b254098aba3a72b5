"""Passwords as they are kept: scrypt with a salt, written `scrypt:N:r:p:salt:hash` in hexadecimal."""

from __future__ import annotations

import hashlib
import hmac

COST = 2**14
"""scrypt's N: some tens of milliseconds, by design."""
_R, _P = 8, 1


def hash_password(password: str, salt: bytes, cost: int = COST) -> str:
    """The form to keep. `salt`: 16 random bytes. A smaller `cost` is for a password that is no secret."""
    return f"scrypt:{cost}:{_R}:{_P}:{salt.hex()}:{_scrypt(password, salt, cost, _R, _P).hex()}"


def verify_password(password: str, kept: str) -> bool:
    """Whether `kept` was made from this password. ValueError when `kept` is in no known form."""
    scheme, *parts = kept.split(":")
    if scheme != "scrypt" or len(parts) != 5:
        raise ValueError("a password hash is written scrypt:N:r:p:salt:hash")
    n, r, p = (int(part) for part in parts[:3])
    found = _scrypt(password, bytes.fromhex(parts[3]), n, r, p)
    return hmac.compare_digest(found, bytes.fromhex(parts[4]))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)
