"""The arguments of queues: which ones there are, what they may hold, and when two declarations are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

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
    dead_letter_strategy: str = "at-most-once"
    delivery_limit: int | None = None
    lease_ms: int | None = None
    retry_type: str = "disabled"
    """Which returned messages wait before they are ready again: all, failed, returned or disabled."""
    retry_min_ms: int | None = None
    retry_max_ms: int | None = None
    type: str = "classic"

    @property
    def counts_attempts(self) -> bool:
        """Attempts are kept over a restart and shown to consumers."""
        return self.delivery_limit is not None or self.type == "quorum"

    @property
    def keeps_dead_letters(self) -> bool:
        """A dead letter that can go nowhere waits until it can (RabbitMQ: at least once, and only where the queue
        does not drop messages by itself)."""
        return self.dead_letter_strategy == "at-least-once" and self.overflow == "reject-publish"

    @property
    def only_delays(self) -> bool:
        """Without consumers, each message leaves for somewhere else when its time is over, and not before."""
        return (
            self.message_ttl_ms is not None
            and self.dead_letter_exchange is not None
            and self.max_length is None
            and self.max_length_bytes is None
            and self.max_priority is None
            and self.retry_min_ms is None
        )

    def retry_delay_ms(self, attempts: int, failed: bool) -> int:
        """How long a message that came back waits, having come back `attempts` times; 0 when it does not. `failed`:
        it was tried (Outcome.RETURN), else it was not."""
        if self.retry_min_ms is None or self.retry_type not in ("all", "failed" if failed else "returned"):
            return 0
        return min(self.retry_min_ms * max(attempts, 1), self.retry_max_ms or self.retry_min_ms)


_NONE: Final = QueueArguments()


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


def _one_of(*values: str, error: str) -> Callable[[Any], str]:
    """A check for one of these texts. `error` is what RabbitMQ says of others, with {} for the value."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{{unacceptable_type,{type_name(value)}}}")
        if value not in values:
            raise ValueError(error.replace("{}", value))
        return value

    return check


def _queue_version(value: Any) -> int:
    if _integer(value, 0, None) not in (1, 2):
        raise ValueError(f"\"unsupported queue version '{value}'\"")
    return int(value)


def _limit(value: Any) -> int | None:
    """A negative delivery limit is none."""
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        return None
    return _integer(value, 0, None)


def _group_size(value: Any) -> int:
    return _integer(value, 1, None)


def _stream_only(value: Any) -> None:
    raise TypeError  # never called: no type of queue that there is takes it


_LOCATOR = _one_of("client-local", "balanced", "min-masters", "random", error="invalid_queue_locator_arg")

KNOWN: dict[str, tuple[str | None, Callable[[Any], Any]]] = {
    "x-message-ttl": ("message_ttl_ms", _duration),
    "x-expires": ("expires_ms", _positive_duration),
    "x-max-length": ("max_length", _count),
    "x-max-length-bytes": ("max_length_bytes", _count),
    "x-max-priority": ("max_priority", _priority),
    "x-single-active-consumer": ("single_active_consumer", _boolean),
    "x-overflow": (
        "overflow",
        _one_of("drop-head", "reject-publish", "reject-publish-dlx", error="invalid_overflow"),
    ),
    "x-dead-letter-exchange": ("dead_letter_exchange", _name),
    "x-dead-letter-routing-key": ("dead_letter_routing_key", _name),
    "x-dead-letter-strategy": (
        "dead_letter_strategy",
        _one_of("at-most-once", "at-least-once", error="invalid_dlx_strategy"),
    ),
    "x-delivery-limit": ("delivery_limit", _limit),
    "x-consumer-timeout": ("lease_ms", _positive_duration),
    "x-delayed-retry-type": (
        "retry_type",
        _one_of("all", "failed", "returned", "disabled", error="\"unsupported delayed retry type '{}'\""),
    ),
    "x-delayed-retry-min": ("retry_min_ms", _positive_duration),
    "x-delayed-retry-max": ("retry_max_ms", _positive_duration),
    "x-queue-type": ("type", _one_of("classic", "quorum", error="\"unsupported queue type '{}'\"")),
    "x-queue-mode": (None, _one_of("default", "lazy", error="\"unsupported queue mode '{}'\"")),
    "x-queue-version": (None, _queue_version),
    "x-queue-leader-locator": (None, _LOCATOR),
    "x-queue-master-locator": (None, _LOCATOR),
    "x-max-in-memory-length": (None, _count),
    "x-max-in-memory-bytes": (None, _count),
    "x-quorum-initial-group-size": (None, _group_size),
    "x-consumer-disconnected-timeout": (None, _count),
    "x-max-age": (None, _stream_only),
    "x-stream-max-segment-size-bytes": (None, _stream_only),
    "x-stream-filter-size-bytes": (None, _stream_only),
    "x-initial-cluster-size": (None, _stream_only),
}
"""Argument name to the field of QueueArguments, None when it means nothing on one node, and the check. Arguments that
are not here are kept and not acted on."""

_STREAM_ONLY = frozenset(name for name, (_, check) in KNOWN.items() if check is _stream_only)
_REFUSED: dict[str, frozenset[str]] = {
    "classic": _STREAM_ONLY,
    "quorum": _STREAM_ONLY | {"x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"},
}
"""What a type of queue does not take. (RabbitMQ's classic queues take fewer: retries, delivery limits and dead-letter
strategies are for quorum queues there.)"""

QUORUM_DELIVERY_LIMIT: int = 20
"""Of a quorum queue that says nothing about it (RabbitMQ since 4.0)."""

DEFAULTS: dict[str, Any] = {"x-queue-type": "classic"}
"""What a declaration without the argument means, where it may as well be written out."""


def parse_queue_arguments(arguments: Mapping[str, Any], queue: str, vhost: str) -> QueueArguments:
    """The meaning of `arguments`; PreconditionFailed, in RabbitMQ's words, when one is not valid or not supported."""
    if not arguments:
        return _NONE
    fields: dict[str, Any] = {}
    where = f"for queue '{queue}' in vhost '{vhost}'"
    kind = arguments.get("x-queue-type", "classic")
    refused = _REFUSED.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    for name, value in arguments.items():
        if name in refused:
            raise PreconditionFailed(f"invalid arg '{name}' {where} of queue type rabbit_{kind}_queue")
        if name in KNOWN:
            field, check = KNOWN[name]
            try:
                parsed = check(value)
            except ValueError as error:
                raise PreconditionFailed(f"invalid arg '{name}' {where}: {error}") from None
            except TypeError as error:
                raise PreconditionFailed(
                    f"invalid type '{error}' for arg '{name}' in queue '{queue}' in vhost '{vhost}'"
                ) from None
            if field is not None:
                fields[field] = parsed
    if "dead_letter_routing_key" in fields and "dead_letter_exchange" not in fields:
        raise PreconditionFailed(f"invalid arg 'x-dead-letter-routing-key' {where}: routing_key_but_no_dlx_defined")
    if kind == "quorum":
        fields.setdefault("delivery_limit", QUORUM_DELIVERY_LIMIT)
    parsed_arguments = QueueArguments(**fields)
    _check_retry(parsed_arguments, where)
    return parsed_arguments


def _check_retry(arguments: QueueArguments, where: str) -> None:
    error = retry_error(arguments.retry_type, arguments.retry_min_ms, arguments.retry_max_ms)
    if error is not None:
        key, reason = error
        raise PreconditionFailed(f"invalid arg 'x-{key}' {where}: \"{reason}\"")


def retry_error(kind: str, least_ms: int | None, most_ms: int | None) -> tuple[str, str] | None:
    """Why delays of retries cannot be so: the key that is wrong, and RabbitMQ's words. None when they can."""
    if kind != "disabled" and least_ms is None:
        return "delayed-retry-type", f"delayed-retry-min is required when delayed-retry-type is {kind}"
    if least_ms is not None and most_ms is not None and most_ms < least_ms:
        return (
            "delayed-retry-max",
            f"delayed-retry-max ({most_ms}) must not be smaller than delayed-retry-min ({least_ms})",
        )
    return None


def parse_consumer_arguments(arguments: Mapping[str, Any], queue: str, vhost: str) -> tuple[int, int | None]:
    """A consumer's priority, and how long in ms it may hold a message if it says so (`x-priority`,
    `x-consumer-timeout`); PreconditionFailed when one is not valid."""
    name = "x-priority"
    try:
        priority = arguments.get(name, 0)
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ValueError(f'"expected integer, got {type_name(priority)}"')
        name = "x-consumer-timeout"
        lease_ms = _positive_duration(arguments[name]) if name in arguments else None
    except ValueError as error:
        raise PreconditionFailed(f"invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': {error}") from None
    return priority, lease_ms


def check_quorum(name: str, vhost: str, durable: bool, exclusive: bool, auto_delete: bool) -> None:
    """PreconditionFailed when a quorum queue is to be what it cannot be."""
    for wrong, what in ((auto_delete, "auto-delete"), (exclusive, "exclusive-owner"), (not durable, "non-durable")):
        if wrong:
            raise PreconditionFailed(f"invalid property '{what}' for queue '{name}' in vhost '{vhost}'")


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
    names = {
        str: "longstr",
        bytes: "binary",
        float: "double",
        Decimal: "decimal",
        datetime: "timestamp",
        list: "array",
        dict: "table",
        type(None): "void",
    }
    return names.get(type(value), type(value).__name__)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
