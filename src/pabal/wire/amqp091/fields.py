"""Field tables, field values and short strings (AMQP 0-9-1 §4.2.5), typed as RabbitMQ's errata has it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from struct import Struct
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from pabal.wire.amqp091.errors import SHORTSTR_BYTES_MAX, SYNTAX_ERROR, WireError

if TYPE_CHECKING:
    from mypy_extensions import i64  # to mypyc a machine integer, to Python an int


@dataclass(frozen=True, slots=True)
class Int64:
    """An integer to be encoded in 64 bits ('l') however small it is: some clients, as Java's, tell the two apart."""

    value: int


FieldValue: TypeAlias = (
    "bool | int | Int64 | float | Decimal | str | bytes | datetime | list[FieldValue] | dict[str, FieldValue] | None"
)
"""What a field holds; once decoded, never an Int64. A datetime is aware and in UTC."""

DEPTH_MAX: Final = 64
"""How deep tables and arrays may stand in one another, the outermost table counted."""

TIMESTAMP_SECONDS_MAX: Final = 253_402_300_799
"""The last second that a datetime can hold: the end of the year 9999."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)

_UINT32: Final = Struct(">I")
_UINT64: Final = Struct(">Q")
_TAGGED_INT32: Final = Struct(">ci")
_TAGGED_INT64: Final = Struct(">cq")
_TAGGED_UINT32: Final = Struct(">cI")
_TAGGED_UINT64: Final = Struct(">cQ")
_TAGGED_DOUBLE: Final = Struct(">cd")
_TAGGED_DECIMAL: Final = Struct(">cBi")
_DECIMAL: Final = Struct(">Bi")

# The plain numbers. 's' is an int16 in RabbitMQ's errata (the specification's short string 's' was never
# used), 'U' the specification's own letter for it; 'L' and 'l' are both int64.
_NUMBERS: Final[dict[int, Struct]] = {
    ord("b"): Struct(">b"),
    ord("B"): Struct(">B"),
    ord("U"): Struct(">h"),
    ord("s"): Struct(">h"),
    ord("u"): Struct(">H"),
    ord("I"): Struct(">i"),
    ord("i"): Struct(">I"),
    ord("l"): Struct(">q"),
    ord("L"): Struct(">q"),
    ord("f"): Struct(">f"),
    ord("d"): Struct(">d"),
}
_BOOL: Final = ord("t")
_DECIMAL_TAG: Final = ord("D")
_STRING: Final = ord("S")
_BYTES: Final = ord("x")
_ARRAY: Final = ord("A")
_TIMESTAMP: Final = ord("T")
_TABLE: Final = ord("F")
_VOID: Final = ord("V")
_B: Final = ord("B")
_C: Final = ord("C")

# What each type's value takes after its type octet, in bytes; -1 where a u32 length stands first.
_VALUE_BYTES: Final[dict[int, int]] = {
    **{tag: number.size for tag, number in _NUMBERS.items()},
    _BOOL: 1,
    _DECIMAL_TAG: _DECIMAL.size,
    _TIMESTAMP: _UINT64.size,
    _VOID: 0,
    _STRING: -1,
    _BYTES: -1,
    _ARRAY: -1,
    _TABLE: -1,
}

# The same by type octet, as octets, which are faster to look up than a dict.
_UNKNOWN: Final = 0xFE
_LENGTH_FIRST: Final = 0xFF
_SIZES: Final = bytes([_VALUE_BYTES.get(tag, _UNKNOWN - 256) & 0xFF for tag in range(256)])

MALFORMED: Final = -1
NAMES_COPIES: Final = 1
"""What `walk_table` returns for tables that are not plain."""


def decode_table(data: bytes, pos: int = 0, end: int | None = None) -> tuple[dict[str, FieldValue], int]:
    """The field table at `pos`, where its u32 length stands (§4.2.5.5), and the position after it.

    Reads nothing at or after `end` (the end of `data` when None). Of two entries with one name the last
    counts. Raises WireError 502 for anything malformed.
    """
    return _decode_table(data, pos, len(data) if end is None else min(end, len(data)), 1)


def encode_table(table: Mapping[str, FieldValue]) -> bytes:
    """`table` with its u32 length. Chooses types, and raises ValueError, as `encode_value` does."""
    return _encode_table(table, 1)


def split_table(raw: bytes) -> list[tuple[str, bytes]]:
    """The entries of the table `raw` (from its u32 length on) in order, each a name and its raw value.

    A raw value is the type octet and the value's bytes as they came; what stands inside nested tables and
    arrays is not looked at. Raises WireError 502, for bytes after the table as well.
    """
    pos, end = _container(raw, 0, len(raw))
    if end != len(raw):
        _malformed("bytes after the table")
    entries = []
    while pos < end:
        name, start = _decode_name(raw, pos, end)
        pos = _skip_value(raw, start, end)
        entries.append((name, raw[start:pos]))
    return entries


def join_table(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """The table (with its u32 length) of names and raw values: what `split_table` took apart, byte for byte.

    Raises ValueError for a name over 255 bytes.
    """
    content = b"".join([encode_shortstr(name) + value for name, value in entries])
    return _UINT32.pack(len(content)) + content


def read_u32(data: bytes, pos: i64) -> i64:
    """The unsigned 32 bits at `pos`; a Struct is slower when compiled. IndexError when they are not there."""
    return data[pos] << 24 | data[pos + 1] << 16 | data[pos + 2] << 8 | data[pos + 3]


def walk_table(data: bytes, pos: i64, end: i64) -> int:
    """Looks whether the table whose entries stand between `pos` and `end` can be decoded, and builds nothing: 0 when
    it can, NAMES_COPIES when moreover an entry of it is called CC or BCC, MALFORMED when it cannot."""
    return _walk(data, pos, end, 1, True)


def decode_values(data: bytes, pos: int, end: int, names: Container[str]) -> dict[str, FieldValue]:
    """The entries with these names of a table whose entries stand between `pos` and `end`. Raises WireError 502, but
    does not look into the others."""
    found: dict[str, FieldValue] = {}
    while pos < end:
        name, pos = _decode_name(data, pos, end)
        if name in names:
            found[name], pos = _decode_value(data, pos, end, 1)
        else:
            pos = _skip_value(data, pos, end)
    return found


def find_value(data: bytes, pos: int, end: int, name: bytes) -> bytes | None:
    """The raw value (see `split_table`) of the last entry with this name in a table whose entries stand between `pos`
    and `end`. Raises WireError 502."""
    found: bytes | None = None
    size = len(name)
    while pos < end:
        start = pos + 1 + data[pos]
        pos_of_name = pos + 1
        pos = _skip_value(data, start, end)
        if start - pos_of_name == size and data.startswith(name, pos_of_name):
            found = data[start:pos]
    return found


def decode_value(raw: bytes) -> FieldValue:
    """The value of `raw`, its type octet first. Raises WireError 502, for bytes after the value as well."""
    value, pos = _decode_value(raw, 0, len(raw), 1)
    if pos != len(raw):
        _malformed("bytes after the value")
    return value


def encode_value(value: FieldValue) -> bytes:
    """`value` with its type octet: bool t, int I or else l, float d, Decimal D, str S, bytes x, datetime T
    (whole seconds, rounded down), list A, dict F, None V.

    Raises ValueError for what its type cannot hold: an int beyond 64 bits, a Decimal beyond an int32 and 255
    places, a naive datetime or one before 1970, a name over 255 bytes, nesting over DEPTH_MAX.
    """
    return _encode_value(value, 1)


def decode_shortstr(data: bytes, pos: int) -> tuple[str, int]:
    """The short string at `pos` (§4.2.5.3) and the position after it.

    Octets that are not UTF-8 become lone surrogates (surrogateescape), so that each string encodes to the
    same bytes again. Raises WireError 502.
    """
    return _decode_name(data, pos, len(data))


def encode_shortstr(text: str) -> bytes:
    """`text` as a length octet and UTF-8 (surrogateescape). Raises ValueError over 255 bytes."""
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) > SHORTSTR_BYTES_MAX:
        raise ValueError(f"short string of {len(encoded)} bytes, over {SHORTSTR_BYTES_MAX}")
    return bytes((len(encoded),)) + encoded


def decode_timestamp(seconds: int) -> datetime | int:
    """The moment `seconds` after 1970 (§4.2.5.4), or `seconds` itself when no datetime can hold it."""
    if 0 <= seconds <= TIMESTAMP_SECONDS_MAX:
        return _EPOCH + timedelta(seconds=seconds)
    return seconds


def encode_timestamp(moment: datetime) -> int:
    """Whole seconds from 1970 to `moment`. Raises ValueError when it is naive or before 1970."""
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs a time zone")
    seconds = (moment - _EPOCH) // _SECOND
    if seconds < 0:
        raise ValueError("a timestamp before 1970")
    return seconds


def _malformed(reason: str) -> NoReturn:
    raise WireError(SYNTAX_ERROR, f"malformed field: {reason}")


def _container(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Where the bytes behind the u32 length at `pos` start and end."""
    start = pos + 4
    if pos < 0 or start > end:
        _malformed("length cut short")
    stop = start + int.from_bytes(data[pos:start], "big")
    if stop > end:
        _malformed("length beyond the data")
    return start, stop


def _decode_name(data: bytes, pos: int, end: int) -> tuple[str, int]:
    if pos < 0 or pos >= end:
        _malformed("short string missing")
    start = pos + 1
    stop = start + data[pos]
    if stop > end:
        _malformed("short string beyond the data")
    return data[start:stop].decode("utf-8", "surrogateescape"), stop


def _skip_value(data: bytes, pos: int, end: int) -> int:
    """The position after the value whose type octet is at `pos`."""
    if pos >= end:
        _malformed("value missing")
    size = _SIZES[data[pos]]
    if size == _UNKNOWN:
        _malformed(f"unknown type {data[pos]:#04x}")
    if size == _LENGTH_FIRST:
        return _container(data, pos + 1, end)[1]
    stop = pos + 1 + size
    if stop > end:
        _malformed("value cut short")
    return stop


def _walk(data: bytes, pos: i64, end: i64, depth: i64, named: bool) -> int:
    """`walk_table`, for an array when not `named`. Reads nothing at or after `end`."""
    seen = 0
    while pos < end:
        if named:
            size: i64 = data[pos]
            pos += 1
            if pos + size >= end:
                return MALFORMED
            if (
                depth == 1
                and 2 <= size <= 3
                and data[pos + size - 2] == _C == data[pos + size - 1]
                and (size == 2 or data[pos] == _B)
            ):
                seen = NAMES_COPIES
            pos += size
        size = _SIZES[data[pos]]
        if size < _UNKNOWN:
            pos += 1 + size
            if pos > end:
                return MALFORMED
            continue
        start = pos + 5
        if size == _UNKNOWN or start > end:
            return MALFORMED
        tag = data[pos]
        pos = start + read_u32(data, pos + 1)
        if pos > end:
            return MALFORMED
        nests = tag in (_TABLE, _ARRAY)
        if nests and (depth >= DEPTH_MAX or _walk(data, start, pos, depth + 1, tag == _TABLE) == MALFORMED):
            return MALFORMED
    return seen


def _decode_table(data: bytes, pos: int, end: int, depth: int) -> tuple[dict[str, FieldValue], int]:
    pos, end = _container(data, pos, end)
    table: dict[str, FieldValue] = {}
    while pos < end:
        name, pos = _decode_name(data, pos, end)
        table[name], pos = _decode_value(data, pos, end, depth)
    return table, end


def _decode_value(data: bytes, pos: int, end: int, depth: int) -> tuple[FieldValue, int]:
    """The value whose type octet is at `pos`, in a container at `depth`, and the position after it."""
    stop = _skip_value(data, pos, end)
    tag = data[pos]
    pos += 1
    value: FieldValue
    number = _NUMBERS.get(tag)
    if number is not None:
        value = number.unpack_from(data, pos)[0]
    elif tag == _STRING:
        try:
            value = data[pos + 4 : stop].decode("utf-8")
        except UnicodeDecodeError:
            value = data[pos + 4 : stop]
    elif tag == _BOOL:
        value = data[pos] != 0
    elif tag == _BYTES:
        value = data[pos + 4 : stop]
    elif tag == _TIMESTAMP:
        value = decode_timestamp(_UINT64.unpack_from(data, pos)[0])
    elif tag == _DECIMAL_TAG:
        places, unscaled = _DECIMAL.unpack_from(data, pos)
        value = Decimal(unscaled).scaleb(-places)
    elif tag == _VOID:
        value = None
    elif depth >= DEPTH_MAX:
        _malformed(f"nested deeper than {DEPTH_MAX}")
    elif tag == _TABLE:
        value = _decode_table(data, pos, stop, depth + 1)[0]
    else:
        value = _decode_array(data, pos + 4, stop, depth + 1)
    return value, stop


def _decode_array(data: bytes, pos: int, end: int, depth: int) -> list[FieldValue]:
    values = []
    while pos < end:
        value, pos = _decode_value(data, pos, end, depth)
        values.append(value)
    return values


def _encode_table(table: Mapping[str, FieldValue], depth: int) -> bytes:
    content = b"".join([encode_shortstr(name) + _encode_value(value, depth) for name, value in table.items()])
    return _UINT32.pack(len(content)) + content


def _encode_value(value: FieldValue, depth: int) -> bytes:
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogateescape")
        return _TAGGED_UINT32.pack(b"S", len(encoded)) + encoded
    if isinstance(value, bool):  # before int, of which bool is a subclass
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return _encode_int(value)
    if isinstance(value, Int64):
        return _TAGGED_INT64.pack(b"l", value.value)
    if isinstance(value, float):
        return _TAGGED_DOUBLE.pack(b"d", value)
    if isinstance(value, bytes):
        return _TAGGED_UINT32.pack(b"x", len(value)) + value
    if value is None:
        return b"V"
    if isinstance(value, datetime):
        return _TAGGED_UINT64.pack(b"T", encode_timestamp(value))
    if isinstance(value, Decimal):
        return _encode_decimal(value)
    if not isinstance(value, (dict, list)):
        raise ValueError(f"no field type for {type(value).__name__}")
    if depth >= DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        return b"F" + _encode_table(value, depth + 1)
    content = b"".join([_encode_value(item, depth + 1) for item in value])
    return _TAGGED_UINT32.pack(b"A", len(content)) + content


def _encode_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return _TAGGED_INT32.pack(b"I", value)
    if -(2**63) <= value < 2**63:
        return _TAGGED_INT64.pack(b"l", value)
    raise ValueError("an integer beyond 64 bits")


def _encode_decimal(value: Decimal) -> bytes:
    """Places after the point in an octet, then the digits as a signed int32 (§4.2.5.5)."""
    exponent = value.as_tuple().exponent
    # An int32 has ten digits; larger exponents are refused before they are multiplied out.
    if isinstance(exponent, str) or not -255 <= exponent <= 9:
        raise ValueError(f"no field can hold the decimal {value}")
    places = max(-exponent, 0)
    sign, digits, _ = value.as_tuple()
    unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0) * (-1 if sign else 1)
    if not -(2**31) <= unscaled < 2**31:
        raise ValueError(f"no field can hold the decimal {value}")
    return _TAGGED_DECIMAL.pack(b"D", places, unscaled)
