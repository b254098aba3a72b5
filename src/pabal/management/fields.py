"""Values in request bodies: checked, and as the broker takes them."""

from __future__ import annotations

import math
from typing import Any, Final
from urllib.parse import quote_plus

from pabal.management.call import bad_request
from pabal.model.limits import NAME_BYTES_MAX

_DEPTH_MAX: Final = 32
DEFAULT_EXCHANGE: Final = "amq.default"
"""What paths call the exchange that has no name."""


def boolean(value: Any, otherwise: bool = False) -> bool:
    """Also as a text, which rabbitmqadmin sends."""
    if value is None:
        return otherwise
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise bad_request(["not_boolean", value])


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        shown = "" if name == "password" else f", actually was {value!r}"
        raise bad_request(f"{name} should be a string{shown}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_request(f"{name} is not valid Unicode") from None
    return value


def short(name: str, value: Any) -> str:
    """A name or a routing key."""
    if len(text(name, value).encode()) > NAME_BYTES_MAX:
        raise bad_request(f"{name} exceeds {NAME_BYTES_MAX} bytes")
    return str(value)


def whole(name: str, value: Any) -> int:
    """Also as a text."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise bad_request(["not_integer", value]) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_request(["not_integer", value])
    return value


def table(name: str, value: Any) -> dict[str, Any]:
    """Arguments or headers: what AMQP can carry."""
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"{name} should be an object")
    _check(name, value, 0)
    return value


def _check(name: str, value: Any, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise bad_request(f"{name} is nested too deeply")
    if isinstance(value, dict):
        for key, inner in value.items():
            short(f"a name in {name}", key)
            _check(name, inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(name, inner, depth + 1)
    elif isinstance(value, str):
        text(name, value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise bad_request(f"{name}: {value} does not fit into 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise bad_request(f"{name}: {value} is no number")


def strings(value: Any) -> list[str]:
    """A list of texts, or one text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return list(value)
    raise bad_request("tags should be a list of strings, or one with commas")


def exchange_name(name: str) -> str:
    return "" if name == DEFAULT_EXCHANGE else name


def quoted(value: str) -> str:
    """As RabbitMQ quotes in its own links and keys."""
    return quote_plus(value, errors="surrogateescape").replace("~", "%7E")
