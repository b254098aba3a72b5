"""Message content as it stands on the wire: one `bytes`, a content-header frame and then its body frames.

The frames are whole, with their 7-byte heads and their end octets, as they were received (AMQP 0-9-1
§4.2.6); they are well-formed, for the frame scanner has checked them, all on one channel. Only the property
list inside the header frame may still be malformed: what reads it raises WireError 502.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from pabal.wire.amqp091.errors import SYNTAX_ERROR, WireError
from pabal.wire.amqp091.fields import (
    MALFORMED,
    FieldValue,
    decode_table,
    decode_timestamp,
    decode_values,
    encode_shortstr,
    encode_table,
    encode_timestamp,
    join_table,
    read_u32,
    split_table,
    walk_table,
)
from pabal.wire.amqp091.methods import FRAME_BODY, FRAME_HEADER, FRAME_OVERHEAD_BYTES, encode_frame

if TYPE_CHECKING:
    from mypy_extensions import i64  # to mypyc a machine integer, to Python an int

BASIC_CLASS_ID: Final = 60

PROPERTY_NAMES: Final[tuple[str, ...]] = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
"""The properties of class basic in wire order; bit 15 flags the first, bit 2 the last (§4.2.6.1)."""

# The types that are not a short string.
_OCTETS: Final = frozenset({"delivery_mode", "priority"})
_HEADERS: Final = 2

_CONTENT_TYPE: Final = 0x8000
_CONTENT_ENCODING: Final = 0x4000
_HEADERS_FLAG: Final = 0x2000
_DELIVERY_MODE: Final = 0x1000
_PRIORITY: Final = 0x0800
_CORRELATION_ID: Final = 0x0400
_REPLY_TO: Final = 0x0200
_EXPIRATION: Final = 0x0100
_MESSAGE_ID: Final = 0x0080
_TIMESTAMP: Final = 0x0040
_TYPE: Final = 0x0020
_USER_ID: Final = 0x0010
_APP_ID: Final = 0x0008
_CLUSTER_ID: Final = 0x0004
# Bit 0 announces more flags, which class basic does not have; bit 1 flags nothing.
_UNKNOWN_FLAGS: Final = 0x0003
_SPECIAL_FLAGS: Final = _UNKNOWN_FLAGS | _EXPIRATION | _USER_ID
_BEFORE_EXPIRATION: Final = _CORRELATION_ID | _REPLY_TO
_AFTER_EXPIRATION: Final = 0x00FC

_UINT16: Final = Struct(">H")
_UINT32: Final = Struct(">I")
_UINT64: Final = Struct(">Q")
_HEADER_START: Final = Struct(">HHQ")  # class id, weight, body size
_SIZE_AT: Final = 3
_BODY_SIZE_AT: Final = 11
_FLAGS_AT: Final = 19
_HEAD_BYTES: Final = 7


SPECIAL: Final = -1
"""See `plain_properties`."""
PSEUDO_QUEUE_BYTES: Final = 21
"""A reply_to of this length, beginning with "a", is not plain: RabbitMQ's pseudo-queue for answers."""
_A: Final = ord("a")


class Unchanged(Enum):
    """The type of UNCHANGED, the default that leaves a property as it is."""

    UNCHANGED = 0


UNCHANGED: Final = Unchanged.UNCHANGED


class Scan(NamedTuple):
    """What routing, expiry and the user check need of a property list."""

    delivery_mode: int  # 0 when absent; 2 is persistent
    priority: int  # 0 when absent
    expiration: str | None  # milliseconds as the sender wrote them, unchecked
    user_id: str | None
    has_headers: bool


def header_frame_bytes(content: bytes) -> int:
    """The length of the whole content-header frame; the body frames start there."""
    size: int = _UINT32.unpack_from(content, _SIZE_AT)[0]
    return size + FRAME_OVERHEAD_BYTES


def property_bytes(content: bytes) -> bytes:
    """The flags and the property list of the header frame, raw."""
    return content[_FLAGS_AT : header_frame_bytes(content) - 1]


def body_bytes(content: bytes) -> int:
    """The body's size in bytes, as the header frame tells it."""
    size: int = _UINT64.unpack_from(content, _BODY_SIZE_AT)[0]
    return size


def body(content: bytes) -> bytes:
    """The body: the payloads of all body frames, joined."""
    return b"".join([content[start : end - 1] for start, end in _body_frames(content)])


def build(props: bytes, body: bytes, channel: int, frame_bytes_max: int) -> bytes:
    """A content of raw properties (flags and list) and a body, no body frame longer than `frame_bytes_max`.

    `frame_bytes_max` counts a whole frame; 0 is no limit. The header frame cannot be cut and may be longer.
    """
    payload = _HEADER_START.pack(BASIC_CLASS_ID, 0, len(body)) + props
    return encode_frame(FRAME_HEADER, channel, payload) + _cut_body(body, channel, frame_bytes_max)


def set_channel(content: bytes, channel: int) -> bytes:
    """`content` with `channel` in each of its frames, and nothing else changed."""
    number = _UINT16.pack(channel)
    if content[1:3] == number:
        return content
    at = header_frame_bytes(content)
    total = len(content)
    if at == total:
        return content[:1] + number + content[3:]
    if at + FRAME_OVERHEAD_BYTES + _UINT32.unpack_from(content, at + _SIZE_AT)[0] == total:
        return b"".join((content[:1], number, content[3 : at + 1], number, content[at + 3 :]))
    patched = bytearray(content)
    patched[1:3] = number
    for start, _ in _body_frames(content):
        patched[start - 6 : start - 4] = number
    return bytes(patched)


def refit(content: bytes, channel: int, frame_bytes_max: int) -> bytes:
    """`content` on `channel`, its body cut again if any body frame is longer than `frame_bytes_max`.

    `frame_bytes_max` counts a whole frame; 0 is no limit. The header frame cannot be cut and may be longer.
    """
    at = header_frame_bytes(content)
    if (
        frame_bytes_max == 0
        or len(content) - at <= frame_bytes_max
        or all(end - start + _HEAD_BYTES <= frame_bytes_max for start, end in _body_frames(content))
    ):
        return set_channel(content, channel)
    return set_channel(content[:at], channel) + _cut_body(body(content), channel, frame_bytes_max)


def plain_properties(content: bytes) -> int:
    """What the properties ask of the broker, in one number, the same for all that ask the same: delivery mode and
    above it the priority, 0 where absent. SPECIAL when they ask for more than that, or perhaps; or are malformed.

    The headers table is looked through, so that nothing with a malformed one is plain.
    """
    try:
        return _plain_properties(content)
    except IndexError:  # a length led beyond the content
        return SPECIAL


def _plain_properties(content: bytes) -> int:
    end = 7 + read_u32(content, _SIZE_AT)
    flags: i64 = content[19] << 8 | content[20]
    if flags & _SPECIAL_FLAGS:
        return SPECIAL
    pos: i64 = 21
    asked = 0
    # A length that leads too far is found out at the end: `pos` never goes back.
    if flags & _CONTENT_TYPE:
        pos += 1 + content[pos]
    if flags & _CONTENT_ENCODING:
        pos += 1 + content[pos]
    if flags & _HEADERS_FLAG:
        start = pos + 4
        pos = start + read_u32(content, pos)
        if pos > end or walk_table(content, start, pos):
            return SPECIAL
    if flags & _DELIVERY_MODE:
        asked = content[pos]
        pos += 1
    if flags & _PRIORITY:
        asked |= content[pos] << 8
        pos += 1
    if flags & _CORRELATION_ID:
        pos += 1 + content[pos]
    if flags & _REPLY_TO:
        if content[pos] == PSEUDO_QUEUE_BYTES and content[pos + 1] == _A:
            return SPECIAL
        pos += 1 + content[pos]
    if flags & _AFTER_EXPIRATION:
        if flags & _MESSAGE_ID:
            pos += 1 + content[pos]
        if flags & _TIMESTAMP:
            pos += 8
        if flags & _TYPE:
            pos += 1 + content[pos]
        if flags & _APP_ID:
            pos += 1 + content[pos]
        if flags & _CLUSTER_ID:
            pos += 1 + content[pos]
    return asked if pos == end else SPECIAL


def scan_properties(props: bytes) -> Scan:
    """What a publish must know of its properties, in one pass that decodes no table.

    Checks that the list ends exactly where `props` ends; the inside of the headers table is not looked at.
    Raises WireError 502.
    """
    end = len(props)
    if end < 2:
        _malformed("flags cut short")
    flags = props[0] << 8 | props[1]
    if flags & _UNKNOWN_FLAGS:
        _malformed("unknown property flags")
    pos = 2
    delivery_mode = priority = 0
    expiration: str | None = None
    user_id: str | None = None
    # A length that leads too far is caught by the IndexError of the next read, or at the end by `pos`.
    try:
        if flags & _CONTENT_TYPE:
            pos += 1 + props[pos]
        if flags & _CONTENT_ENCODING:
            pos += 1 + props[pos]
        if flags & _HEADERS_FLAG:
            pos += 4 + int.from_bytes(props[pos : pos + 4], "big")
        if flags & _DELIVERY_MODE:
            delivery_mode = props[pos]
            pos += 1
        if flags & _PRIORITY:
            priority = props[pos]
            pos += 1
        if flags & _BEFORE_EXPIRATION:
            if flags & _CORRELATION_ID:
                pos += 1 + props[pos]
            if flags & _REPLY_TO:
                pos += 1 + props[pos]
        if flags & _EXPIRATION:
            start = pos + 1
            pos = start + props[pos]
            expiration = props[start:pos].decode("utf-8", "surrogateescape")
        if flags & _AFTER_EXPIRATION:
            pos, user_id = _scan_rest(props, pos, flags)
    except IndexError:
        _malformed("list cut short")
    if pos != end:
        _malformed("list longer or shorter than its frame")
    return Scan(delivery_mode, priority, expiration, user_id, flags & _HEADERS_FLAG != 0)


def _scan_rest(props: bytes, pos: int, flags: int) -> tuple[int, str | None]:
    """The properties after expiration: the position behind them, and the user id. IndexError as above."""
    user_id: str | None = None
    if flags & _MESSAGE_ID:
        pos += 1 + props[pos]
    if flags & _TIMESTAMP:
        pos += 8
    for flag in (0x20, _USER_ID, 0x08, 0x04):  # type, user_id, app_id, cluster_id
        if flags & flag:
            start = pos + 1
            pos = start + props[pos]
            if flag == _USER_ID:
                user_id = props[start:pos].decode("utf-8", "surrogateescape")
    return pos, user_id


def decode_properties(props: bytes) -> dict[str, FieldValue]:
    """Every property that is there by its name: headers as dict, delivery_mode and priority as int,
    timestamp as datetime (int when out of its range), all others as str. Raises WireError 502."""
    found: dict[str, FieldValue] = {}
    for name, raw in zip(PROPERTY_NAMES, _split(props), strict=True):
        if raw is not None:
            found[name] = _decode_property(name, raw)
    return found


def decode_property(content: bytes, name: str) -> FieldValue:
    """One property as `decode_properties` gives it, None when it is not there. Raises WireError 502."""
    raw = _split(property_bytes(content))[PROPERTY_NAMES.index(name)]
    return None if raw is None else _decode_property(name, raw)


def encode_properties(properties: Mapping[str, FieldValue]) -> bytes:
    """The flags and the list of `properties`, with types as `decode_properties` gives them; None is absent.

    Raises ValueError for a name that is no property and for values that do not fit, TypeError for wrong
    types.
    """
    unknown = properties.keys() - set(PROPERTY_NAMES)
    if unknown:
        raise ValueError(f"no such property: {', '.join(sorted(unknown))}")
    return _join([_encode_property(name, properties.get(name)) for name in PROPERTY_NAMES])


def decode_headers(content: bytes, names: Container[str] | None = None) -> dict[str, FieldValue]:
    """The headers table, {} when there is none; of it only these names if they are given. Raises WireError 502."""
    if names is not None:
        start, end = headers_span(content)
        return decode_values(content, start, end, names)
    raw = _split(property_bytes(content))[_HEADERS]
    return {} if raw is None else decode_table(raw)[0]


def check_headers(content: bytes) -> None:
    """WireError 502 when the headers table cannot be decoded; nothing is built."""
    start, end = headers_span(content)
    if walk_table(content, start, end) == MALFORMED:
        decode_headers(content)


def headers_span(content: bytes) -> tuple[int, int]:
    """Where the entries of the headers table stand in `content`: nowhere (0, 0) when there is none. WireError 502."""
    flags = content[_FLAGS_AT] << 8
    if not flags & _HEADERS_FLAG:
        return 0, 0
    pos: i64 = _FLAGS_AT + 2
    try:
        if flags & _CONTENT_TYPE:
            pos += 1 + content[pos]
        if flags & _CONTENT_ENCODING:
            pos += 1 + content[pos]
        end = pos + 4 + read_u32(content, pos)
    except IndexError:
        _malformed("list cut short")
    if end > 7 + read_u32(content, _SIZE_AT):
        _malformed("list longer or shorter than its frame")
    return pos + 4, end


def raw_headers(content: bytes) -> list[tuple[str, bytes]]:
    """The headers as `split_table` gives them: name and raw value; [] when there are none. WireError 502."""
    raw = _split(property_bytes(content))[_HEADERS]
    return [] if raw is None else split_table(raw)


def replace_properties(
    content: bytes,
    *,
    headers: list[tuple[str, bytes]] | Unchanged | None = UNCHANGED,
    delivery_mode: int | Unchanged | None = UNCHANGED,
    priority: int | Unchanged | None = UNCHANGED,
    correlation_id: str | Unchanged | None = UNCHANGED,
    reply_to: str | Unchanged | None = UNCHANGED,
    expiration: str | Unchanged | None = UNCHANGED,
    message_id: str | Unchanged | None = UNCHANGED,
    timestamp: datetime | int | Unchanged | None = UNCHANGED,
    user_id: str | Unchanged | None = UNCHANGED,
) -> bytes:
    """`content` with some properties replaced, or removed by None; headers are names and raw values.

    All other properties, the rest of the header frame and the body frames stay byte for byte. Raises
    WireError 502 when the old list is malformed, ValueError for values that do not fit.
    """
    raws = _split(property_bytes(content))
    if not isinstance(headers, Unchanged):
        raws[_HEADERS] = None if headers is None else join_table(headers)
    changes: dict[str, FieldValue | Unchanged] = {
        "delivery_mode": delivery_mode,
        "priority": priority,
        "correlation_id": correlation_id,
        "reply_to": reply_to,
        "expiration": expiration,
        "message_id": message_id,
        "timestamp": timestamp,
        "user_id": user_id,
    }
    for name, value in changes.items():
        if not isinstance(value, Unchanged):
            raws[PROPERTY_NAMES.index(name)] = _encode_property(name, value)
    payload = content[_HEAD_BYTES:_FLAGS_AT] + _join(raws)
    header = content[:_SIZE_AT] + _UINT32.pack(len(payload)) + payload + b"\xce"
    return header + content[header_frame_bytes(content) :]


def _malformed(reason: str) -> NoReturn:
    raise WireError(SYNTAX_ERROR, f"malformed content properties: {reason}", BASIC_CLASS_ID)


def _body_frames(content: bytes) -> list[tuple[int, int]]:
    """For each body frame where its payload starts and where the frame ends, end octet included."""
    frames = []
    at = header_frame_bytes(content)
    while at < len(content):
        start = at + _HEAD_BYTES
        at = start + _UINT32.unpack_from(content, at + _SIZE_AT)[0] + 1
        frames.append((start, at))
    return frames


def _cut_body(body: bytes, channel: int, frame_bytes_max: int) -> bytes:
    step = frame_bytes_max - FRAME_OVERHEAD_BYTES if frame_bytes_max else len(body)
    assert step > 0 or not body, "a frame must hold a byte"
    if not body:
        return b""
    if len(body) <= step:
        return encode_frame(FRAME_BODY, channel, body)
    return b"".join([encode_frame(FRAME_BODY, channel, body[at : at + step]) for at in range(0, len(body), step)])


def _split(props: bytes) -> list[bytes | None]:
    """The raw value of each property in the order of PROPERTY_NAMES, None for those that are not there."""
    scan_properties(props)  # from here on every length is known to fit
    flags = props[0] << 8 | props[1]
    pos = 2
    raws: list[bytes | None] = []
    for index, name in enumerate(PROPERTY_NAMES):
        if not flags & _CONTENT_TYPE >> index:
            raws.append(None)
            continue
        if name == "headers":
            end = pos + 4 + int.from_bytes(props[pos : pos + 4], "big")
        elif name in _OCTETS:
            end = pos + 1
        elif name == "timestamp":
            end = pos + 8
        else:
            end = pos + 1 + props[pos]
        raws.append(props[pos:end])
        pos = end
    return raws


def _join(raws: list[bytes | None]) -> bytes:
    flags = 0
    for index, raw in enumerate(raws):
        if raw is not None:
            flags |= _CONTENT_TYPE >> index
    return _UINT16.pack(flags) + b"".join([raw for raw in raws if raw is not None])


def _decode_property(name: str, raw: bytes) -> FieldValue:
    if name == "headers":
        return decode_table(raw)[0]
    if name in _OCTETS:
        return raw[0]
    if name == "timestamp":
        return decode_timestamp(_UINT64.unpack(raw)[0])
    return raw[1:].decode("utf-8", "surrogateescape")


def _encode_property(name: str, value: FieldValue) -> bytes | None:
    if value is None:
        return None
    if name == "headers":
        if isinstance(value, dict):
            return encode_table(value)
    elif name in _OCTETS:
        if isinstance(value, int):
            return bytes((value,))
    elif name == "timestamp":
        seconds = encode_timestamp(value) if isinstance(value, datetime) else value
        if isinstance(seconds, int):
            if not 0 <= seconds < 2**64:
                raise ValueError("a timestamp beyond 64 bits")
            return _UINT64.pack(seconds)
    elif isinstance(value, str):
        return encode_shortstr(value)
    raise TypeError(f"{name} cannot be {type(value).__name__}")
