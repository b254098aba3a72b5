"""Content: properties against pamqp's, edits that keep the rest byte for byte, channels and frame sizes."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabal.wire.amqp091 import content, fields
from pabal.wire.amqp091.errors import SYNTAX_ERROR, WireError

shortstrs = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
octets = st.integers(0, 255)
tables = st.dictionaries(shortstrs, st.one_of(st.none(), st.booleans(), st.integers(-9, 9), shortstrs), max_size=4)
moments = st.integers(0, 2**32 - 1).map(lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
kinds = {"headers": tables, "delivery_mode": octets, "priority": octets, "timestamp": moments}
properties = st.fixed_dictionaries({}, optional={name: kinds.get(name, shortstrs) for name in content.PROPERTY_NAMES})
bodies = st.binary(max_size=70)
frame_limits = st.one_of(st.just(0), st.integers(9, 90))
channels = st.integers(0, 65535)


def frames_of(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while data:
        kind, channel, size = struct.unpack_from(">BHI", data)
        assert data[7 + size] == 0xCE
        found.append((kind, channel, data[7 : 7 + size]))
        data = data[8 + size :]
    return found


@given(properties)
def test_properties_round_trip(wanted):
    props = content.encode_properties(wanted)
    assert content.decode_properties(props) == wanted
    built = content.build(props, b"body", 1, 0)
    for name in content.PROPERTY_NAMES:
        assert content.decode_property(built, name) == wanted.get(name)
    assert content.scan_properties(props) == (
        wanted.get("delivery_mode", 0),
        wanted.get("priority", 0),
        wanted.get("expiration"),
        wanted.get("user_id"),
        "headers" in wanted,
    )


@given(properties)
def test_properties_cut_short_or_too_long(wanted):
    props = content.encode_properties(wanted)
    for wrong in [props[:end] for end in range(len(props))] + [props + b"\x00"]:
        for read in (content.scan_properties, content.decode_properties):
            with pytest.raises(WireError) as caught:
                read(wrong)
            assert caught.value.code == SYNTAX_ERROR


@given(st.binary(max_size=90))
def test_any_bytes_give_properties_or_a_wire_error(props):
    try:
        scan = content.scan_properties(props)
    except WireError as error:
        assert error.code == SYNTAX_ERROR
        scan = None
    whole = content.build(props, b"body", 1, 0)
    for read in (
        content.decode_headers,
        content.raw_headers,
        content.headers_span,
        lambda it: content.decode_headers(it, {"", "a"}),
        lambda it: content.replace_properties(it, expiration="1"),
    ):
        try:
            read(whole)
        except WireError as error:
            assert error.code == SYNTAX_ERROR
    try:
        decoded = content.decode_properties(props)
    except WireError as error:
        assert error.code == SYNTAX_ERROR
    else:
        assert scan is not None
        assert scan.expiration == decoded.get("expiration")
        assert scan.has_headers == ("headers" in decoded)


def check_plain(props: bytes) -> None:
    """Plain are those properties that ask for no more, and can be decoded; what they ask is what the scan says."""
    found = {content.plain_properties(content.build(props, body, 1, 0)) for body in (b"", b"b", b"\xce" * 900)}
    assert len(found) == 1
    try:
        decoded = content.decode_properties(props)
    except WireError:
        assert found == {content.SPECIAL}
        return
    reply_to = decoded.get("reply_to", "")
    special = (
        {"expiration", "user_id"} & decoded.keys()
        or {"CC", "BCC"} & decoded.get("headers", {}).keys()
        or (len(reply_to.encode("utf-8", "surrogateescape")) == 21 and reply_to[0] == "a")
    )
    mode, priority = decoded.get("delivery_mode", 0), decoded.get("priority", 0)
    assert found == {content.SPECIAL if special else mode | priority << 8}


@given(properties)
def test_plain_properties(wanted):
    check_plain(content.encode_properties(wanted))


@given(properties, st.data())
def test_plain_properties_damaged(wanted, data):
    props = bytearray(content.encode_properties(wanted))
    for _ in range(data.draw(st.integers(1, 3))):
        props[data.draw(st.integers(0, len(props) - 1))] = data.draw(octets)
    check_plain(bytes(props[: data.draw(st.integers(2, len(props)))]))


@given(st.binary(min_size=2, max_size=90))
def test_plain_properties_of_any_bytes(props):
    check_plain(props)


@pytest.mark.parametrize(
    "special",
    [
        {"headers": {"CC": ["a"]}},
        {"headers": {"a": 1, "BCC": 5, "b": 2}},
        {"reply_to": "amq.rabbitmq.reply-to"},
        {"expiration": ""},
        {"user_id": "guest"},
    ],
)
def test_properties_that_are_not_plain(special):
    for more in ({}, {"headers": {"n": 1}, **special}, {"content_type": "a", "app_id": "b", "priority": 255}):
        props = content.encode_properties({**more, **special})
        assert content.plain_properties(content.build(props, b"", 1, 0)) == content.SPECIAL


@given(properties)
def test_where_the_headers_stand(wanted):
    built = content.build(content.encode_properties(wanted), b"body", 1, 0)
    start, end = content.headers_span(built)
    assert start - 4 < 0 or fields.decode_table(built, start - 4) == (wanted["headers"], end)
    assert (start == 0) == ("headers" not in wanted)


@pytest.mark.parametrize("flags", [b"\x00\x01", b"\x00\x02", b"\x00\x03"])
def test_unknown_flags(flags):
    with pytest.raises(WireError):
        content.scan_properties(flags)
    with pytest.raises(WireError):
        content.scan_properties(flags + b"\x00\x00")


def test_headers_are_not_looked_into_by_the_scan():
    props = b"\x20\x00\x00\x00\x00\x02zz"
    assert content.scan_properties(props) == (0, 0, None, None, True)
    with pytest.raises(WireError):
        content.decode_properties(props)


def test_timestamp_beyond_datetime():
    props = b"\x00\x40" + b"\xff" * 8
    assert content.decode_properties(props) == {"timestamp": 2**64 - 1}
    assert content.encode_properties({"timestamp": 2**64 - 1}) == props
    with pytest.raises(ValueError):
        content.encode_properties({"timestamp": 2**64})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"nonsense": 1}, ValueError),
        ({"priority": 256}, ValueError),
        ({"priority": "1"}, TypeError),
        ({"expiration": 5}, TypeError),
        ({"headers": []}, TypeError),
        ({"timestamp": "now"}, TypeError),
        ({"type": "x" * 256}, ValueError),
    ],
)
def test_properties_that_cannot_be(wrong, error):
    with pytest.raises(error):
        content.encode_properties(wrong)


@given(properties, bodies)
def test_pamqp_reads_our_header(wanted, text):
    wanted = {name: value for name, value in wanted.items() if name != "cluster_id"}
    if "delivery_mode" in wanted:
        wanted["delivery_mode"] = wanted["delivery_mode"] % 2 + 1
    ours = content.build(content.encode_properties(wanted), text, 3, 0)
    consumed, channel, header = pamqp.frame.unmarshal(ours)
    assert (consumed, channel) == (content.header_frame_bytes(ours), 3)
    assert header.body_size == len(text)
    renamed = {"type": "message_type"}
    for name in content.PROPERTY_NAMES:
        if name != "cluster_id":
            assert getattr(header.properties, renamed.get(name, name)) == wanted.get(name)


@given(properties)
def test_we_read_the_header_of_pamqp(wanted):
    # pamqp leaves out empty strings.
    wanted = {name: value for name, value in wanted.items() if name != "cluster_id" and value != ""}
    if "delivery_mode" in wanted:
        wanted["delivery_mode"] = wanted["delivery_mode"] % 2 + 1
    given_names = {("message_type" if name == "type" else name): value for name, value in wanted.items()}
    header = pamqp.header.ContentHeader(0, 5, pamqp.commands.Basic.Properties(**given_names))
    theirs = pamqp.frame.marshal(header, 3) + pamqp.frame.marshal(pamqp.body.ContentBody(b"hello"), 3)
    assert content.decode_properties(content.property_bytes(theirs)) == wanted
    assert content.decode_headers(theirs) == wanted.get("headers", {})
    assert content.body_bytes(theirs) == 5
    assert content.body(theirs) == b"hello"


@given(properties, bodies, channels, frame_limits)
def test_build(wanted, text, channel, limit):
    props = content.encode_properties(wanted)
    built = content.build(props, text, channel, limit)
    assert content.property_bytes(built) == props
    assert content.body_bytes(built) == len(text)
    assert content.body(built) == text
    head, *rest = frames_of(built)
    assert head == (2, channel, struct.pack(">HHQ", 60, 0, len(text)) + props)
    assert b"".join(payload for _, _, payload in rest) == text
    for kind, frame_channel, payload in rest:
        assert (kind, frame_channel) == (3, channel)
        assert payload
        assert limit == 0 or len(payload) + 8 <= limit


@given(bodies, channels, channels, frame_limits)
def test_set_channel(text, before, after, limit):
    props = content.encode_properties({"delivery_mode": 2})
    old = content.build(props, text, before, limit)
    assert content.set_channel(old, after) == content.build(props, text, after, limit)


@given(bodies, channels, channels, frame_limits, frame_limits)
def test_refit(text, before, after, old_limit, new_limit):
    props = content.encode_properties({"headers": {"a": 1}})
    old = content.build(props, text, before, old_limit)
    new = content.refit(old, after, new_limit)
    head, *rest = frames_of(new)
    assert head == frames_of(content.set_channel(old, after))[0]
    assert b"".join(payload for _, _, payload in rest) == text
    assert {channel for _, channel, _ in frames_of(new)} == {after}
    if new_limit:
        assert all(len(payload) + 8 <= new_limit for _, _, payload in rest)
    if new_limit == 0 or 0 < old_limit <= new_limit:
        assert new == content.set_channel(old, after)


def test_refit_leaves_uneven_frames_that_fit_and_drops_empty_ones_only_when_cutting():
    props = content.encode_properties({})
    header = content.build(props, b"", 1, 0)[:11] + struct.pack(">Q", 3) + props + b"\xce"
    uneven = header + b"".join(
        b"\x03\x00\x01" + struct.pack(">I", len(part)) + part + b"\xce" for part in (b"a", b"", b"bc")
    )
    assert content.body(uneven) == b"abc"
    assert content.refit(uneven, 1, 10) == uneven
    assert content.refit(uneven, 2, 10) == content.set_channel(uneven, 2)
    assert [payload for _, _, payload in frames_of(content.refit(uneven, 2, 9))[1:]] == [b"a", b"b", b"c"]


@given(properties, properties, bodies, frame_limits)
def test_replace_properties(wanted, changes, text, limit):
    editable = (
        "delivery_mode",
        "priority",
        "correlation_id",
        "reply_to",
        "expiration",
        "message_id",
        "user_id",
    )
    old = content.build(content.encode_properties(wanted), text, 9, limit)
    chosen = {name: changes.get(name) for name in (*editable, "timestamp")}
    new = content.replace_properties(old, **chosen)
    kept = {name: value for name, value in wanted.items() if name not in chosen}
    expected = kept | {name: value for name, value in chosen.items() if value is not None}
    assert content.decode_properties(content.property_bytes(new)) == expected
    assert new[content.header_frame_bytes(new) :] == old[content.header_frame_bytes(old) :]
    assert new[7:19] == old[7:19]
    assert frames_of(new)[0][:2] == (2, 9)
    assert content.replace_properties(old) == old


def test_headers_are_edited_raw():
    table = fields.join_table([("a", b"s\x00\x01"), ("b", b"L" + b"\x00" * 8), ("\udcff", b"V")])
    props = b"\xa1\x00" + b"\x01j" + table + b"\x0260"
    old = content.build(props, b"hello", 4, 12)
    assert content.property_bytes(old) == props
    raw = content.raw_headers(old)
    assert raw == [("a", b"s\x00\x01"), ("b", b"L" + b"\x00" * 8), ("\udcff", b"V")]
    new = content.replace_properties(
        old, headers=[*raw, ("x-death", fields.encode_value([{"count": 1}]))], expiration=None
    )
    assert content.raw_headers(new)[:3] == raw
    assert content.decode_headers(new)["x-death"] == [{"count": 1}]
    assert content.scan_properties(content.property_bytes(new)).expiration is None
    assert content.body(new) == b"hello"
    assert content.raw_headers(content.replace_properties(old, headers=None)) == []
    assert content.property_bytes(content.replace_properties(old, headers=[]))[:8] == b"\xa1\x00\x01j\x00\x00\x00\x00"
    assert content.decode_headers(content.build(b"\x00\x00", b"", 1, 0)) == {}
