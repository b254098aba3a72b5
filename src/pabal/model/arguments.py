"""The arguments of queues: which ones there are, what they may hold, and when two declarations are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pabal.model.errors import PreconditionFailed
from pabal.model.limits import ARGUMENT_MS_MAX, NAME_BYTES_MAX, PRIORITY_MAX


@dataclass(frozen=True, slots=True)
class QueueArguments:
    """What a queue's arguments ask for. Times in ms; None: not asked for."""

    message_ttl_ms: int | None = None
    expires_ms: int | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    max_priority: int | None = None
    single_active_consumer: bool = False
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    delivery_limit: int | None = None
    lease_ms: int | None = None
    type: str = "classic"


def _integer(value: Any, least: int, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'"expected integer, got {type_name(value)}"')
    if value < 0:
        raise ValueError(f"{{value_negative,{value}}}")
    if value < least:
        raise ValueError(f"{{value_zero,{value}}}")
    if most is not None and value > most:
        raise ValueError(f"{{value_too_large,{value}}}")
    return value


def _duration(value: Any) -> int:
    return _integer(value, 0, ARGUMENT_MS_MAX)


def _positive_duration(value: Any) -> int:
    return _integer(value, 1, ARGUMENT_MS_MAX)


def _count(value: Any) -> int:
    return _integer(value, 0, None)


def _priority(value: Any) -> int:
    if _integer(value, 0, None) > PRIORITY_MAX:
        raise ValueError(f"{{max_value_exceeded,{value}}}")
    return int(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{{unacceptable_type,{type_name(value)}}}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(type_name(value))
    if len(value.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        raise ValueError(f"longer than {NAME_BYTES_MAX} bytes")
    return value


def _overflow(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{{unacceptable_type,{type_name(value)}}}")
    if value not in ("drop-head", "reject-publish", "reject-publish-dlx"):
        raise ValueError("invalid_overflow")
    return value


def _queue_type(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{{unacceptable_type,{type_name(value)}}}")
    if value not in ("classic", "quorum"):
        raise ValueError(f"\"unsupported queue type '{value}'\"")
    return value


KNOWN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "x-message-ttl": ("message_ttl_ms", _duration),
    "x-expires": ("expires_ms", _positive_duration),
    "x-max-length": ("max_length", _count),
    "x-max-length-bytes": ("max_length_bytes", _count),
    "x-max-priority": ("max_priority", _priority),
    "x-single-active-consumer": ("single_active_consumer", _boolean),
    "x-overflow": ("overflow", _overflow),
    "x-dead-letter-exchange": ("dead_letter_exchange", _name),
    "x-dead-letter-routing-key": ("dead_letter_routing_key", _name),
    "x-delivery-limit": ("delivery_limit", _count),
    "x-consumer-timeout": ("lease_ms", _positive_duration),
    "x-queue-type": ("type", _queue_type),
}
"""Argument name to the field of QueueArguments and the check. Others are kept and not acted on."""

DEFAULTS: dict[str, Any] = {"x-queue-type": "classic"}
"""What a declaration without the argument means, where it may as well be written out."""


def parse_queue_arguments(arguments: Mapping[str, Any], queue: str, vhost: str) -> QueueArguments:
    """The meaning of `arguments`; PreconditionFailed, in RabbitMQ's words, when one is not valid or not supported."""
    fields: dict[str, Any] = {}
    where = f"for queue '{queue}' in vhost '{vhost}'"
    for name, value in arguments.items():
        if name in KNOWN:
            field, check = KNOWN[name]
            try:
                fields[field] = check(value)
            except ValueError as error:
                raise PreconditionFailed(f"invalid arg '{name}' {where}: {error}") from None
            except TypeError as error:
                raise PreconditionFailed(
                    f"invalid type '{error}' for arg '{name}' in queue '{queue}' in vhost '{vhost}'"
                ) from None
    if "dead_letter_routing_key" in fields and "dead_letter_exchange" not in fields:
        raise PreconditionFailed(f"invalid arg 'x-dead-letter-routing-key' {where}: routing_key_but_no_dlx_defined")
    return QueueArguments(**fields)


def compare(
    kind: str,
    name: str,
    vhost: str,
    current: Mapping[str, Any],
    asked: Mapping[str, Any],
    keys: Iterable[str],
) -> None:
    """PreconditionFailed when two declarations differ in one of the arguments `keys`; in others they may."""
    for key in keys:
        if key in current and key in asked:
            if not _same(current[key], asked[key]):
                raise PreconditionFailed(
                    f"inequivalent arg '{key}' for {kind} '{name}' in vhost '{vhost}': "
                    f"received '{_plain(asked[key])}' but current is '{_plain(current[key])}'"
                )
        elif key in current or key in asked:
            raise PreconditionFailed(
                f"inequivalent arg '{key}' for {kind} '{name}' in vhost '{vhost}': "
                f"received {_described(asked, key)} but current is {_described(current, key)}"
            )


def compare_flag(kind: str, name: str, vhost: str, flag: str, current: object, asked: object) -> None:
    """The same for a declaration's own fields (durable, auto_delete, type, ...)."""
    if current != asked:
        raise PreconditionFailed(
            f"inequivalent arg '{flag}' for {kind} '{name}' in vhost '{vhost}': "
            f"received '{_plain(asked)}' but current is '{_plain(current)}'"
        )


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _described(table: Mapping[str, Any], key: str) -> str:
    if key not in table:
        return "none"
    value = table[key]
    return f"the value '{_plain(value)}' of type '{type_name(value)}'"


def type_name(value: Any) -> str:
    """RabbitMQ's name of a table value's type."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    names = {str: "longstr", bytes: "binary", float: "double", list: "array", dict: "table"}
    return names.get(type(value), type(value).__name__)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
