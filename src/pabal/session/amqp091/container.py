"""AMQP 0-9-1 contents as the broker sees them: headers, expiration, and the dead-letter history."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pabal.model.message import Death
from pabal.wire.amqp091.content import (
    body_bytes,
    decode_headers,
    decode_property,
    headers_span,
    property_bytes,
    raw_headers,
    replace_properties,
    scan_properties,
)
from pabal.wire.amqp091.errors import WireError
from pabal.wire.amqp091.fields import FieldValue, Int64, decode_value, encode_timestamp, encode_value, find_value

_DELAY: Final = b"x-delay"


class Amqp091Container:
    """See model.message.Container. Headers that cannot be read count as none: the message stays deliverable."""

    code = 1

    def headers(self, content: bytes, names: Collection[str] | None = None) -> dict[str, Any]:
        try:
            return decode_headers(content, names)
        except WireError:
            return {}

    def body_bytes(self, content: bytes) -> int:
        return body_bytes(content)

    def priority(self, content: bytes) -> int:
        return scan_properties(property_bytes(content)).priority

    def property(self, content: bytes, name: str) -> str | None:
        try:
            value = decode_property(content, name)
        except WireError:
            return None
        if isinstance(value, datetime):
            return str(encode_timestamp(value))
        return None if value is None else str(value)

    def ttl(self, content: bytes) -> str | None:
        return scan_properties(property_bytes(content)).expiration

    def deaths(self, content: bytes) -> list[Death]:
        entries = self.headers(content).get("x-death")
        if not isinstance(entries, list):
            return []
        return [_read_death(entry) for entry in entries if isinstance(entry, dict)]

    def delay_ms(self, content: bytes) -> int:
        """The header `x-delay`, a whole number, or one that can be read as such."""
        try:
            start, end = headers_span(content)
            raw = find_value(content, start, end, _DELAY)
            if raw is None:
                return 0
            value = decode_value(raw)
        except WireError:
            return 0
        if type(value) is int:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return 0
        try:
            return int(value)
        except (ValueError, OverflowError):
            return 0

    def delayed(self, content: bytes) -> bytes:
        """With `x-delay` negated, as RabbitMQ's plugin does: it says still how long it was."""
        delay = encode_value(-self.delay_ms(content))
        headers = [(name, delay if name == "x-delay" else raw) for name, raw in raw_headers(content)]
        return replace_properties(content, headers=headers)

    def copies(self, content: bytes) -> tuple[str, ...]:
        keys = self.headers(content).get("CC")
        return tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else ()

    def with_death(self, content: bytes, death: Death, keep_copies: bool) -> bytes:
        """Adds to `x-death` as RabbitMQ does: one entry for each queue and reason, the latest first, and the
        `x-first-death-*` and `x-last-death-*` headers. Every other header keeps its bytes."""
        deaths = self.deaths(content)
        count = 1
        for index, earlier in enumerate(deaths):
            if (earlier.queue, earlier.reason) == (death.queue, death.reason):
                count = min(earlier.count + 1, 2**63 - 1)
                del deaths[index]
                break
        table: list[FieldValue] = [_write_death(death, count)]
        table += [_write_death(earlier, earlier.count) for earlier in deaths]
        try:
            headers = raw_headers(content)
        except WireError:
            headers = []
        changes: dict[str, FieldValue] = {"x-death": table}
        names = {name for name, _ in headers}
        for part, value in (("reason", death.reason), ("queue", death.queue), ("exchange", death.exchange)):
            if f"x-first-death-{part}" not in names:
                changes[f"x-first-death-{part}"] = value
            changes[f"x-last-death-{part}"] = value
        gone = changes if keep_copies else {*changes, "CC"}
        kept = [(name, raw) for name, raw in headers if name not in gone]
        added = [(name, encode_value(value)) for name, value in changes.items()]
        return replace_properties(content, headers=kept + added, expiration=None)


def without_blind_copies(content: bytes) -> bytes:
    """The content without the header BCC, which no receiver is to see."""
    headers = raw_headers(content)
    kept = [(name, raw) for name, raw in headers if name != "BCC"]
    if len(kept) == len(headers):
        return content
    return replace_properties(content, headers=kept or None)


def with_delivery_count(content: bytes, attempts: int) -> bytes:
    """The content with the header `x-delivery-count`."""
    try:
        headers = [(name, raw) for name, raw in raw_headers(content) if name != "x-delivery-count"]
    except WireError:
        return content
    return replace_properties(content, headers=[*headers, ("x-delivery-count", encode_value(Int64(attempts)))])


def _write_death(death: Death, count: int) -> dict[str, FieldValue]:
    entry: dict[str, FieldValue] = {
        "count": Int64(count),  # RabbitMQ's type: in Java a Long, to which programs cast
        "reason": death.reason,
        "queue": death.queue,
        "time": datetime.fromtimestamp(death.time_ms // 1000, UTC),
        "exchange": death.exchange,
        "routing-keys": list(death.routing_keys),
    }
    if death.original_ttl is not None:
        entry["original-expiration"] = death.original_ttl
    return entry


def _read_death(entry: Mapping[str, Any]) -> Death:
    """An entry of `x-death`, whoever wrote it: what is missing or of another type reads as empty."""

    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    time, count, keys = entry.get("time"), entry.get("count"), entry.get("routing-keys")
    original = entry.get("original-expiration")
    return Death(
        text("queue"),
        text("reason"),
        text("exchange"),
        tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else (),
        int(time.timestamp() * 1000) if isinstance(time, datetime) else 0,
        original if isinstance(original, str) else None,
        count if isinstance(count, int) and not isinstance(count, bool) else 1,
    )
