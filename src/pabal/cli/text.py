"""How values become text: numbers, sizes, times; and names from the network made harmless for a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, rings a bell or turns the direction of writing; and halves of characters, not printable."""


def visible(text: str) -> str:
    """Control characters as escapes: a queue may be named so that it takes over who looks at it."""
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(character)
    return named.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def plain(value: Any) -> str:
    """For a cell of no known kind."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.3f}".rstrip("0")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if isinstance(value, dict) and not value:
        return ""
    return (
        json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) if not isinstance(value, int) else str(value)
    )


def machine(value: Any) -> str:
    """For programs: a line's part, without control characters; true and false as in the JSON."""
    return visible(json.dumps(value) if isinstance(value, bool) else plain(value))


def count(value: Any) -> str:
    """A whole number in groups of three: 1,234,567."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(value)


def rate(value: Any) -> str:
    """Per second; small ones with one place."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return plain(value)
    if value == 0:
        return "0"
    return f"{value:,.1f}" if abs(value) < 10 else f"{value:,.0f}"


def size(value: Any) -> str:
    """Bytes, in units of 1024: 1.5 MiB."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return plain(value)
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 100 else f"{amount:.1f} {unit}"


def duration(milliseconds: Any) -> str:
    """The two largest units: 3 d 4 h."""
    if not isinstance(milliseconds, int | float):
        return plain(milliseconds)
    left = int(milliseconds // 1000)
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= seconds or (unit == "s" and not parts):
            parts.append(f"{left // seconds} {unit}")
        elif parts:
            parts.append("")
        left %= seconds
    return " ".join(part for part in parts[:2] if part)


def moment(milliseconds: Any) -> str:
    """A time since 1970, as the local one."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return plain(milliseconds)
    from datetime import datetime

    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def pick(row: Any, field: str) -> Any:
    """A field of nested objects by its dotted name, or None: "message_stats.publish_details.rate". A name that has
    dots of its own is found too: "arguments.x-a.b"."""
    if not isinstance(row, dict):
        return None
    if field in row:
        return row[field]
    at = field.find(".")
    while at > 0:
        if field[:at] in row:
            found = pick(row[field[:at]], field[at + 1 :])
            if found is not None:
                return found
        at = field.find(".", at + 1)
    return None


def amount(count_: int, noun: str) -> str:
    """1 queue, 2 queues, 3 policies."""
    if count_ == 1:
        return f"1 {noun}"
    return f"{count_:,} {noun[:-1]}ies" if noun.endswith("cy") else f"{count_:,} {noun}s"
