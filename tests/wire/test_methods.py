"""Methods: the table against pamqp's, round trips, and nothing but WireError for malformed arguments."""

from __future__ import annotations

import struct

import pamqp.commands
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabal.wire.amqp091 import methods
from pabal.wire.amqp091.errors import FRAME_ERROR, SYNTAX_ERROR, WireError
from pabal.wire.amqp091.methods import METHODS, RESERVED, Method

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
known_to_pamqp = pytest.mark.parametrize(
    "method",
    [METHODS[key] for key in pamqp.commands.INDEX_MAPPING if key in METHODS],
    ids=lambda method: method.name,
)

SAMPLES: dict[str, list[object]] = {
    "octet": [0, 9, 255],
    "short": [0, 1, 320],
    "long": [0, 7, 2**31 - 1],
    "longlong": [0, 1, 2**62],
    "bit": [True, False],
    "shortstr": ["", "amq.topic", "größe", "x" * 120],
    "longstr": [b"", b"PLAIN AMQPLAIN", b"\x00guest\x00guest"],
    "table": [{}, {"a": 1, "b": {"c": "d"}}, {"x-max-length": 10, "x": [True, None]}],
}


def samples(method: Method) -> list[tuple[object, ...]]:
    """Enough argument lists that each argument takes each of its sample values."""
    kinds = [kind for name, kind in method.fields if name != RESERVED]
    return [
        tuple(
            SAMPLES[kind][(turn + index // (turn % 3 + 1)) % len(SAMPLES[kind])] for index, kind in enumerate(kinds)
        )
        for turn in range(12)
    ]


def payload_of(frame: bytes) -> bytes:
    size = struct.unpack_from(">I", frame, 3)[0]
    assert frame[0] == methods.FRAME_METHOD
    assert frame[-1] == methods.FRAME_END
    assert len(frame) == size + methods.FRAME_OVERHEAD_BYTES
    return frame[7:-1]


@given(st.binary(max_size=255), st.binary(max_size=255), st.integers(0, 255), st.data())
def test_a_publish_is_read_as_any_method_is(exchange, key, bits, data):
    payload = b"\x00\x3c\x00\x28\x00\x00%c%b%c%b%c" % (len(exchange), exchange, len(key), key, bits)
    check_fast_reading(methods.BASIC_PUBLISH, payload, data)


@given(st.binary(max_size=9) | st.text(max_size=9).map(str.encode), st.integers(0, 255), st.data())
def test_a_get_is_read_as_any_method_is(queue, bits, data):
    payload = b"\x00\x3c\x00\x46\x00\x00%c%b%c" % (len(queue), queue, bits)
    check_fast_reading(methods.BASIC_GET, payload, data)


def check_fast_reading(method: Method, whole: bytes, data: st.DataObject) -> None:
    """Also when octets of it are wrong, missing or more than there should be."""
    payload = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 2))):
        payload[data.draw(st.integers(4, len(payload) - 1))] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.sampled_from([len(payload), data.draw(st.integers(4, len(payload)))])) :]
    payload += data.draw(st.sampled_from([b"", b"\0", b"\0\0\0"]))
    frame = methods.encode_frame(methods.FRAME_METHOD, 1, bytes(payload))
    found = []
    for read in (
        lambda: methods.decode_publish(frame) if method is methods.BASIC_PUBLISH else methods.decode_get(frame[7:-1]),
        lambda: methods.decode_arguments(method, bytes(payload)),
    ):
        try:
            found.append(read())
        except WireError as error:
            found.append((error.code, error.text, error.class_id, error.method_id))
    assert found[0] == found[1]


@every_method
def test_round_trip(method):
    for arguments in samples(method):
        frame = methods.encode_method(513, method, *arguments)
        assert frame[1:3] == b"\x02\x01"
        payload = payload_of(frame)
        assert METHODS[struct.unpack_from(">I", payload)[0]] is method
        assert methods.decode_arguments(method, payload) == arguments
        assert methods.decode_arguments(method, b"???" + payload, 7) == arguments


@every_method
def test_cut_short_and_trailing(method):
    for arguments in samples(method)[:3]:
        payload = payload_of(methods.encode_method(1, method, *arguments))
        for wrong in [payload[:end] for end in range(4, len(payload))] + [payload + b"\x00", payload + b"ab"]:
            with pytest.raises(WireError) as caught:
                methods.decode_arguments(method, wrong)
            assert caught.value.code == SYNTAX_ERROR
            assert (caught.value.class_id, caught.value.method_id) == (method.class_id, method.method_id)


@every_method
def test_wrong_arguments_are_refused(method):
    count = len(method.argument_names)
    with pytest.raises(ValueError):
        methods.encode_method(1, method, *samples(method)[0], 1)
    if count:
        with pytest.raises(ValueError):
            methods.encode_method(1, method, *samples(method)[0][:-1])
        kinds = [kind for name, kind in method.fields if name != RESERVED]
        if set(kinds) != {"bit"}:
            with pytest.raises(TypeError):
                methods.encode_method(1, method, *[object()] * count)


@every_method
@given(payload=st.binary(max_size=80))
def test_any_bytes_give_arguments_or_a_wire_error(method, payload):
    try:
        arguments = methods.decode_arguments(method, payload, 0)
    except WireError as error:
        assert error.code == SYNTAX_ERROR or (error.code, error.text) == (FRAME_ERROR, MALFORMED)
    else:
        assert len(arguments) == len(method.argument_names)


MALFORMED = "Malformed UTF-8 in shortstr"


@pytest.mark.parametrize("octets", [b"a\xff\xfe", b"ab\xe2\x82", b"a\xc0\x80", b"a\xed\xa0\x80"])
@every_method
def test_short_strings_are_utf8(method, octets):
    """All but those of methods with content, which are kept octet for octet."""
    kinds = [kind for name, kind in method.fields if name != RESERVED]
    arguments = list(samples(method)[0])
    for index in [index for index, kind in enumerate(kinds) if kind == "shortstr"]:
        given_octets = [*arguments]
        given_octets[index] = octets.decode("utf-8", "surrogateescape")
        payload = payload_of(methods.encode_method(1, method, *given_octets))
        if method.has_content:
            assert methods.decode_arguments(method, payload) == tuple(given_octets)
            continue
        with pytest.raises(WireError, match=MALFORMED) as caught:
            methods.decode_arguments(method, payload)
        assert (caught.value.code, caught.value.class_id) == (FRAME_ERROR, method.class_id)


def test_every_method_of_pamqp_is_in_the_table():
    assert set(pamqp.commands.INDEX_MAPPING) <= set(METHODS)


def test_the_table():
    assert len(METHODS) == 66
    for key, method in METHODS.items():
        assert key == method.key == method.class_id << 16 | method.method_id
        constant = method.name.upper().replace(".", "_").replace("-", "_")
        assert getattr(methods, constant) is method
    with_content = {method.name for method in METHODS.values() if method.has_content}
    assert with_content == {"basic.publish", "basic.return", "basic.deliver", "basic.get-ok"}


@known_to_pamqp
def test_fields_are_those_of_pamqp(method):
    """Names and types in order; what we hold for reserved has various names in pamqp."""
    renamed = {"nowait": "no_wait", "exchange_type": "type", "global_": "global"}
    command = pamqp.commands.INDEX_MAPPING[method.key]
    assert [command.amqp_type(name) for name in command.attributes()] == [kind for _, kind in method.fields]
    for (name, _), theirs in zip(method.fields, command.attributes(), strict=True):
        if name != RESERVED:
            assert renamed.get(theirs, theirs) == name
        else:
            assert theirs in {
                "ticket",
                "capabilities",
                "insist",
                "known_hosts",
                "out_of_band",
                "channel_id",
                "cluster_id",
            }
    assert command.name.replace(".", "").replace("-", "").lower() == method.name.replace(".", "").replace("-", "")


@known_to_pamqp
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pamqp_reads_what_we_write_and_writes_the_same(method, monkeypatch):
    # Which names are allowed is none of a codec's business, but pamqp checks it.
    monkeypatch.setattr(pamqp.commands.INDEX_MAPPING[method.key], "validate", lambda self: None)
    names = [name for name, _ in method.fields]
    for arguments in samples(method):
        frame = methods.encode_method(7, method, *arguments)
        consumed, channel, command = pamqp.frame.unmarshal(frame)
        assert (consumed, channel) == (len(frame), 7)
        given_back = [
            value.encode() if isinstance(value, str) and kind == "longstr" else value
            for (_, value), name, (_, kind) in zip(command, names, method.fields, strict=True)
            if name != RESERVED
        ]
        assert tuple(given_back) == arguments
        # pamqp writes table integers in the smallest type, so only frames without a table compare by byte.
        if "table" not in [kind for _, kind in method.fields]:
            assert pamqp.frame.marshal(command, 7) == frame
        else:
            theirs = pamqp.frame.marshal(command, 7)
            assert methods.decode_arguments(method, payload_of(theirs)) == arguments


def test_frames():
    assert methods.HEARTBEAT_FRAME == b"\x08\x00\x00\x00\x00\x00\x00\xce"
    assert methods.encode_frame(3, 258, b"hi") == b"\x03\x01\x02\x00\x00\x00\x02hi\xce"
    assert methods.encode_method(1, methods.TX_SELECT) == b"\x01\x00\x01\x00\x00\x00\x04\x00\x5a\x00\x0a\xce"
    assert methods.encode_method(1, methods.BASIC_NACK, 5, False, True) == (
        b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x78" + b"\x00" * 7 + b"\x05\x02\xce"
    )


def test_bits_that_no_argument_uses_are_ignored():
    assert methods.decode_arguments(methods.BASIC_ACK, b"\x00" * 8 + b"\xff", 0) == (0, True)


def test_more_than_eight_bits_take_a_second_octet():
    fields = tuple((f"b{index}", "bit") for index in range(10))
    method = Method(99, 1, 99 << 16 | 1, "test.bits", fields, False)
    arguments = tuple(index in (0, 7, 8) for index in range(10))
    frame = methods.encode_method(1, method, *arguments)
    assert payload_of(frame)[4:] == b"\x81\x01"
    assert methods.decode_arguments(method, payload_of(frame)) == arguments


def test_long_strings_may_be_given_as_text():
    frame = methods.encode_method(0, methods.CONNECTION_SECURE, "é")
    assert methods.decode_arguments(methods.CONNECTION_SECURE, payload_of(frame)) == ("é".encode(),)
