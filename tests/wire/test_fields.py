"""Field tables: every type, round trips, raw editing, and nothing but WireError for malformed bytes."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabal.wire.amqp091 import errors, fields
from pabal.wire.amqp091.errors import WireError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
moments = st.integers(0, fields.TIMESTAMP_SECONDS_MAX).map(
    lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
decimals = st.builds(
    lambda unscaled, places: Decimal(unscaled).scaleb(-places),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 255),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    decimals,
    texts,
    st.binary(max_size=40),
    moments,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(names, values, max_size=6)


def table_of(value: bytes) -> bytes:
    return struct.pack(">I", 2 + len(value)) + b"\x01k" + value


@given(tables)
def test_a_table_comes_back_as_it_was(table):
    encoded = fields.encode_table(table)
    assert fields.decode_table(encoded) == (table, len(encoded))
    assert fields.decode_table(b"??" + encoded + b"rest", 2) == (table, 2 + len(encoded))


@given(tables)
def test_types_survive(table):
    decoded, _ = fields.decode_table(fields.encode_table(table))
    assert [type(value) for value in decoded.values()] == [type(value) for value in table.values()]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"t\x01", True),
        (b"t\x00", False),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"U\xff\xfe", -2),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", 2**32 - 1),
        (b"l" + b"\xff" * 8, -1),
        (b"L\x7f" + b"\xff" * 7, 2**63 - 1),
        (b"f" + struct.pack(">f", 0.5), 0.5),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\x02" + struct.pack(">i", -12345), Decimal("-123.45")),
        (b"S\x00\x00\x00\x03a\xc3\xa9", "aé"),
        (b"S\x00\x00\x00\x02\xff\xfe", b"\xff\xfe"),
        (b"S\x00\x00\x00\x00", ""),
        (b"x\x00\x00\x00\x02hi", b"hi"),
        (b"A\x00\x00\x00\x03Vt\x01", [None, True]),
        (b"A\x00\x00\x00\x00", []),
        (b"F\x00\x00\x00\x04\x01at\x01", {"a": True}),
        (b"F\x00\x00\x00\x00", {}),
        (b"T" + struct.pack(">Q", 86400), datetime(1970, 1, 2, tzinfo=UTC)),
        (b"T" + struct.pack(">Q", 253402300799), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"T" + struct.pack(">Q", 253402300800), 253402300800),
        (b"T" + b"\xff" * 8, 2**64 - 1),
        (b"V", None),
    ],
)
def test_every_type_whole_cut_and_with_a_byte_more(raw, value):
    assert fields.decode_value(raw) == value
    assert type(fields.decode_value(raw)) is type(value)
    table = table_of(raw)
    assert fields.decode_table(table) == ({"k": value}, len(table))
    assert fields.split_table(table) == [("k", raw)]
    for end in range(len(raw)):
        with pytest.raises(WireError):
            fields.decode_value(raw[:end])
        with pytest.raises(WireError):
            fields.decode_table(table_of(raw[:end]))
        with pytest.raises(WireError):
            fields.split_table(table_of(raw[:end]))
    with pytest.raises(WireError):
        fields.decode_value(raw + b"\x00")


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (True, b"t\x01"),
        (1, b"I\x00\x00\x00\x01"),
        (2**31 - 1, b"I\x7f\xff\xff\xff"),
        (2**31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
        (fields.Int64(1), b"l\x00\x00\x00\x00\x00\x00\x00\x01"),
        (-(2**31) - 1, b"l\xff\xff\xff\xff\x7f\xff\xff\xff"),
        (Decimal("1E+3"), b"D\x00\x00\x00\x03\xe8"),
        (Decimal("-0.1"), b"D\x01\xff\xff\xff\xff"),
        ("a\udcff", b"S\x00\x00\x00\x02a\xff"),
        (
            datetime(1970, 1, 1, 1, 0, 1, 999999, tzinfo=timezone(timedelta(hours=1))),
            b"T" + b"\0" * 7 + b"\1",
        ),
    ],
)
def test_how_values_are_encoded(value, raw):
    assert fields.encode_value(value) == raw


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1E+1000000000"),
        Decimal("3E+9"),
        Decimal("1E-256"),
        Decimal(2**31),
        datetime(2020, 1, 1),
        datetime(1969, 12, 31, tzinfo=UTC),
        {"x" * 256: 1},
        "\ud800",
        object(),
        {1, 2},
    ],
)
def test_values_no_field_can_hold(value):
    with pytest.raises(ValueError):
        fields.encode_value(value)


def test_nan_survives():
    assert math.isnan(fields.decode_value(fields.encode_value(math.nan)))


def test_depth():
    def nested(depth):
        inner = b""
        for _ in range(depth - 1):
            inner = b"\x01kF" + struct.pack(">I", len(inner)) + inner
        return struct.pack(">I", len(inner)) + inner

    decoded, _ = fields.decode_table(nested(fields.DEPTH_MAX))
    assert fields.encode_table(decoded) == nested(fields.DEPTH_MAX)
    with pytest.raises(ValueError):
        fields.encode_table({"k": decoded})
    for depth in (fields.DEPTH_MAX + 1, 5000):
        with pytest.raises(WireError):
            fields.decode_table(nested(depth))
        assert len(fields.split_table(nested(depth))) == 1
    arrays = b""
    for _ in range(2000):
        arrays = b"A" + struct.pack(">I", len(arrays)) + arrays
    with pytest.raises(WireError):
        fields.decode_value(arrays)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x05",
        b"\x00\x00\x00\x02\x01k",
        table_of(b"z"),
        table_of(b"S\x00\x00\x00\x05abcd"),
        table_of(b"A\x00\x00\x00\x02I\x00"),
    ],
)
def test_malformed_tables(raw):
    with pytest.raises(WireError) as caught:
        fields.decode_table(raw)
    assert caught.value.code == errors.SYNTAX_ERROR


def test_malformed_nested_lengths_stay_in_their_container():
    inner_too_long = b"F\x00\x00\x00\x09\x01at\x01"
    with pytest.raises(WireError):
        fields.decode_table(table_of(inner_too_long) + b"\x01bt\x01\x00\x00\x00\x00")


def test_end_bounds_a_table():
    raw = fields.encode_table({"a": 1})
    assert fields.decode_table(raw + b"more", 0, len(raw))[0] == {"a": 1}
    with pytest.raises(WireError):
        fields.decode_table(raw, 0, len(raw) - 1)
    with pytest.raises(WireError):
        fields.decode_table(raw, len(raw) + 5)


@given(st.binary(max_size=120))
def test_any_bytes_give_a_table_or_a_wire_error(data):
    for raw in (data, struct.pack(">I", len(data)) + data, table_of(data)):
        for read in (fields.decode_table, fields.split_table, fields.decode_value):
            try:
                read(raw)
            except WireError as error:
                assert error.code == errors.SYNTAX_ERROR


@given(tables, st.data())
def test_a_damaged_table_gives_a_table_or_a_wire_error(table, data):
    raw = bytearray(fields.encode_table(table))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for read in (fields.decode_table, fields.split_table):
        try:
            read(bytes(raw))
        except WireError as error:
            assert error.code == errors.SYNTAX_ERROR


def walk(raw: bytes) -> int:
    """`walk_table` of a table with its length, with bytes around it."""
    return fields.walk_table(b"??" + raw + b"rest", 6, 2 + len(raw))


def decodable(raw: bytes) -> bool:
    try:
        return fields.decode_table(raw)[1] == len(raw)
    except WireError:
        return False


@given(tables)
def test_a_walk_finds_nothing_wrong(table):
    assert walk(fields.encode_table(table)) == (fields.NAMES_COPIES if {"CC", "BCC"} & table.keys() else 0)


@given(tables, st.data())
def test_a_walk_refuses_what_cannot_be_decoded_and_nothing_else(table, data):
    raw = bytearray(fields.encode_table(table))
    for _ in range(data.draw(st.integers(1, 3))):
        if len(raw) > 4:
            raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(4, len(raw)))]
    raw[:4] = struct.pack(">I", len(raw) - 4)
    assert (walk(bytes(raw)) == fields.MALFORMED) != decodable(bytes(raw))


@given(st.binary(max_size=60))
def test_a_walk_of_any_bytes(entries):
    raw = struct.pack(">I", len(entries)) + entries
    assert (walk(raw) == fields.MALFORMED) != decodable(raw)


@pytest.mark.parametrize("depth", [1, 2, fields.DEPTH_MAX - 1, fields.DEPTH_MAX])
@pytest.mark.parametrize("kind", [b"F", b"A"])
def test_a_walk_and_depth(depth, kind):
    value = b"t\x01"
    for _ in range(depth):
        inner = b"\x01k" + value if kind == b"F" else value
        value = kind + struct.pack(">I", len(inner)) + inner
    raw = table_of(value)
    assert (walk(raw) == fields.MALFORMED) == (depth >= fields.DEPTH_MAX) != decodable(raw)


@pytest.mark.parametrize(
    ("name", "seen"),
    [(b"CC", True), (b"BCC", True), (b"cc", False), (b"C", False), (b"ACC", False), (b"CCC", False), (b"BC", False)],
)
def test_a_walk_sees_copies_at_the_top_only(name, seen):
    entry = bytes((len(name),)) + name + b"A\0\0\0\0"
    assert (walk(struct.pack(">I", len(entry)) + entry) == fields.NAMES_COPIES) == seen
    assert walk(table_of(b"F" + struct.pack(">I", len(entry)) + entry)) == 0


@given(tables, names)
def test_one_value_is_found_as_if_all_were_split(table, other):
    raw = fields.encode_table(table)
    for name in (*table, other):
        found = fields.find_value(b"??" + raw, 6, 2 + len(raw), name.encode())
        assert found == dict(fields.split_table(raw)).get(name)


def test_the_last_value_of_a_name_is_found():
    entry = b"\x01kb\x01\x01kb\x02\x02kkb\x03"
    assert fields.find_value(entry, 0, len(entry), b"k") == b"b\x02"


@given(tables)
def test_split_and_join_keep_every_byte(table):
    raw = fields.encode_table(table)
    entries = fields.split_table(raw)
    assert fields.join_table(entries) == raw
    assert {name: fields.decode_value(value) for name, value in entries} == table
    assert entries == [(name, fields.encode_value(value)) for name, value in table.items()]


def test_split_keeps_types_that_encode_would_change_and_names_that_are_not_utf8():
    raw = table_of(b"s\x00\x01")[4:] + b"\x02\xff\xfeB\x07" + b"\x01kV"
    raw = struct.pack(">I", len(raw)) + raw
    assert fields.split_table(raw) == [("k", b"s\x00\x01"), ("\udcff\udcfe", b"B\x07"), ("k", b"V")]
    assert fields.join_table(fields.split_table(raw)) == raw
    assert fields.decode_table(raw)[0] == {"k": None, "\udcff\udcfe": 7}
    with pytest.raises(WireError):
        fields.split_table(raw + b"\x00")


@given(st.binary(max_size=255))
def test_any_short_string_round_trips(octets):
    raw = bytes([len(octets)]) + octets
    text, pos = fields.decode_shortstr(b"?" + raw + b"?", 1)
    assert pos == 1 + len(raw)
    assert fields.encode_shortstr(text) == raw
    for end in range(len(raw)):
        with pytest.raises(WireError):
            fields.decode_shortstr(raw[:end], 0)


def test_short_string_limit():
    assert len(fields.encode_shortstr("é" * 127 + "x")) == 256
    with pytest.raises(ValueError):
        fields.encode_shortstr("é" * 128)


# pamqp cannot write bytes ('x' is bytearray there), writes floats as 'f', cuts names at 128 bytes and takes
# timestamps beyond 32 bits for milliseconds.
early_moments = st.integers(0, 2**32 - 1).map(
    lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
pamqp_tables = st.dictionaries(
    st.text(st.characters(codec="ascii"), max_size=60),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(width=32, allow_nan=False),
        texts,
        early_moments,
    ),
    max_size=6,
)


@given(pamqp_tables)
def test_pamqp_writes_what_we_read(table):
    raw = pamqp.encode.field_table(table)
    assert fields.decode_table(raw) == (table, len(raw))


@given(pamqp_tables)
def test_pamqp_reads_what_we_write(table):
    raw = fields.encode_table(table)
    assert pamqp.decode.field_table(raw) == (len(raw), table)


@given(st.sampled_from([*errors.REPLY_NAMES, 200, 999]), st.text(max_size=300))
def test_reply_text_always_fits_a_short_string(code, text):
    whole = errors.reply_text(code, text)
    assert len(fields.encode_shortstr(whole)) <= 256


def test_reply_text():
    assert errors.reply_text(404, "no queue 'x' in vhost '/'") == "NOT_FOUND - no queue 'x' in vhost '/'"
    assert errors.reply_text(200, "Goodbye") == "Goodbye"
    assert errors.reply_text(312, "") == "NO_ROUTE"
    assert str(WireError(502, "bad", 50, 10)) == "SYNTAX_ERROR - bad"
    for pad in range(4):
        cut = errors.reply_text(200, "x" * pad + "€" * 100)
        assert set(cut[pad:-3]) == {"€"}
        assert cut.endswith("€...")
        assert 253 <= len(cut.encode()) <= 255
    assert errors.reply_text(200, "x" * 255) == "x" * 255
    assert errors.reply_text(200, "x" * 256) == "x" * 252 + "..."
