"""What message number n of a load looks like in AMQP: its exchange, routing key and properties.

All keys of a load have one length and so have all properties: a consumer can count bytes and yet knows what
each message has to be.
"""

from __future__ import annotations

import struct

from spec import Load

BINDINGS = 100
KEYS = 200
_HEADERS_FLAG, _MODE_FLAG, _ID_FLAG, _TIME_FLAG = 0x2000, 0x1000, 0x0080, 0x0040


def short_string(text: str) -> bytes:
    """Encode a shortstr: one byte of length, then UTF-8."""
    data = text.encode()
    return bytes([len(data)]) + data


def long_string(data: bytes) -> bytes:
    """Encode a longstr: four bytes of length, then the bytes."""
    return struct.pack(">I", len(data)) + data


def table(fields: dict[str, str | int | bool | dict[str, bool]]) -> bytes:
    """Encode a field table of strings, integers, booleans and tables."""
    out = bytearray()
    for name, value in fields.items():
        out += short_string(name)
        if isinstance(value, bool):
            out += b"t" + bytes([value])
        elif isinstance(value, int):
            out += b"I" + struct.pack(">i", value)
        elif isinstance(value, str):
            out += b"S" + long_string(value.encode())
        else:
            out += b"F" + table(dict(value))
    return long_string(bytes(out))


def exchange_of(load: Load, queue: str) -> str:
    """The exchange that a load's messages go through; "" is the default one."""
    return f"{queue}.{load.exchange}" if load.exchange else ""


def routing_key(load: Load, queue: str, number: int) -> str:
    """Of message `number`: the queue's name, or one of 200 keys in rotation."""
    if not load.exchange:
        return queue
    key = number % KEYS
    return f"region{key % 10:02}.shop{key // 10:02}.order"


def properties(load: Load, number: int) -> tuple[int, bytes]:
    """Of message `number`: property flags, and the properties themselves."""
    mode = bytes([2 if load.durable else 1])
    if load.own_properties:
        headers = table({"attempt": number})
        message_id = short_string(f"00000000-0000-4000-8000-{number:012x}")
        when = struct.pack(">Q", 1_767_225_600 + number)
        return _HEADERS_FLAG | _MODE_FLAG | _ID_FLAG | _TIME_FLAG, headers + mode + message_id + when
    if load.exchange == "headers":
        key = number % KEYS
        return _HEADERS_FLAG | _MODE_FLAG, table({"region": key % BINDINGS, "shop": key}) + mode
    return _MODE_FLAG, mode


def bindings(load: Load) -> list[tuple[str, bytes]]:
    """Binding keys and arguments for `load.exchange`, 100 of them: each message matches one at least, many more."""
    if load.exchange == "headers":
        return [("", table({"x-match": "all", "region": each})) for each in range(BINDINGS)]
    patterns = [f"region{each:02}.#" for each in range(10)]
    patterns += [f"*.shop{each:02}.order" for each in range(20)]
    patterns += [f"region{each % 10:02}.shop{each // 10:02}.*" for each in range(50)]
    patterns += [f"#.shop{each:02}.refund" for each in range(20)]
    return [(each, table({})) for each in patterns]
