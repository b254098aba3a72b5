"""Every method of AMQP 0-9-1 and RabbitMQ's extensions: one table, decoding of arguments, whole frames.

A method is written as its class and method id, its name, and its arguments as `name:type` in the order of the
specification (§1.4 to §1.9 and amqp0-9-1.xml). `-:type` is a reserved argument: it stands on the wire, with
zero or an empty string in it, but nobody gives or gets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, cast

from pabal.wire.amqp091.errors import FRAME_ERROR, SYNTAX_ERROR, WireError
from pabal.wire.amqp091.fields import (
    FieldValue,
    decode_shortstr,
    decode_table,
    encode_shortstr,
    encode_table,
)

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
PROTOCOL_HEADERS: Final = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
"""Those of clients that are served: 0-9-1, and 0-9, which differs in nothing that clients use."""
FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
FRAME_OVERHEAD_BYTES: Final = 8
"""Type, channel and size before a frame's payload, the end octet after it (§4.2.3)."""

RESERVED: Final = "-"

_FRAME_HEAD: Final = Struct(">BHI")
_METHOD_HEAD: Final = Struct(">BHIHH")
_ACK: Final = Struct(">BHIHHQBB")
_UINT32: Final = Struct(">I")
_INTEGERS: Final[dict[str, Struct]] = {
    "octet": Struct(">B"),
    "short": Struct(">H"),
    "long": _UINT32,
    "longlong": Struct(">Q"),
}
_TYPES: Final = frozenset({*_INTEGERS, "bit", "shortstr", "longstr", "table"})
_RESERVED_VALUES: Final[dict[str, object]] = {"bit": False, "short": 0, "shortstr": "", "longstr": b""}


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its ids, its name like "queue.declare", its arguments (name, type) in wire order, the
    reserved ones among them named RESERVED, and whether content frames follow it."""

    class_id: int
    method_id: int
    key: int  # the first four octets of the method's payload as a u32: the key into METHODS
    name: str
    fields: tuple[tuple[str, str], ...]
    has_content: bool

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The names of the arguments that `decode_arguments` gives and `encode_method` takes."""
        return tuple(name for name, _ in self.fields if name != RESERVED)


METHODS: Final[dict[int, Method]] = {}
"""Every method by its key."""


def _method(class_id: int, method_id: int, name: str, fields: str = "", *, content: bool = False) -> Method:
    pairs = [(field.split(":")[0], field.split(":")[1]) for field in fields.split()]
    assert all(kind in _TYPES for _, kind in pairs), name
    method = Method(class_id, method_id, class_id << 16 | method_id, name, tuple(pairs), content)
    assert method.key not in METHODS, name
    METHODS[method.key] = method
    return method


CONNECTION_START: Final = _method(
    10,
    10,
    "connection.start",
    "version_major:octet version_minor:octet server_properties:table mechanisms:longstr locales:longstr",
)
CONNECTION_START_OK: Final = _method(
    10,
    11,
    "connection.start-ok",
    "client_properties:table mechanism:shortstr response:longstr locale:shortstr",
)
CONNECTION_SECURE: Final = _method(10, 20, "connection.secure", "challenge:longstr")
CONNECTION_SECURE_OK: Final = _method(10, 21, "connection.secure-ok", "response:longstr")
CONNECTION_TUNE: Final = _method(10, 30, "connection.tune", "channel_max:short frame_max:long heartbeat:short")
CONNECTION_TUNE_OK: Final = _method(10, 31, "connection.tune-ok", "channel_max:short frame_max:long heartbeat:short")
CONNECTION_OPEN: Final = _method(10, 40, "connection.open", "virtual_host:shortstr -:shortstr -:bit")
CONNECTION_OPEN_OK: Final = _method(10, 41, "connection.open-ok", "-:shortstr")
CONNECTION_CLOSE: Final = _method(
    10, 50, "connection.close", "reply_code:short reply_text:shortstr class_id:short method_id:short"
)
CONNECTION_CLOSE_OK: Final = _method(10, 51, "connection.close-ok")
CONNECTION_BLOCKED: Final = _method(10, 60, "connection.blocked", "reason:shortstr")
CONNECTION_UNBLOCKED: Final = _method(10, 61, "connection.unblocked")
CONNECTION_UPDATE_SECRET: Final = _method(10, 70, "connection.update-secret", "new_secret:longstr reason:shortstr")
CONNECTION_UPDATE_SECRET_OK: Final = _method(10, 71, "connection.update-secret-ok")

CHANNEL_OPEN: Final = _method(20, 10, "channel.open", "-:shortstr")
CHANNEL_OPEN_OK: Final = _method(20, 11, "channel.open-ok", "-:longstr")
CHANNEL_FLOW: Final = _method(20, 20, "channel.flow", "active:bit")
CHANNEL_FLOW_OK: Final = _method(20, 21, "channel.flow-ok", "active:bit")
CHANNEL_CLOSE: Final = _method(
    20, 40, "channel.close", "reply_code:short reply_text:shortstr class_id:short method_id:short"
)
CHANNEL_CLOSE_OK: Final = _method(20, 41, "channel.close-ok")

# AMQP 0-8's access class: old clients still ask for a ticket, which nothing reads afterwards.
ACCESS_REQUEST: Final = _method(
    30, 10, "access.request", "realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit"
)
ACCESS_REQUEST_OK: Final = _method(30, 11, "access.request-ok", "ticket:short")

# auto_delete and internal are reserved in 0-9-1 and used by RabbitMQ and its clients.
EXCHANGE_DECLARE: Final = _method(
    40,
    10,
    "exchange.declare",
    "-:short exchange:shortstr type:shortstr passive:bit durable:bit auto_delete:bit internal:bit no_wait:bit"
    " arguments:table",
)
EXCHANGE_DECLARE_OK: Final = _method(40, 11, "exchange.declare-ok")
EXCHANGE_DELETE: Final = _method(40, 20, "exchange.delete", "-:short exchange:shortstr if_unused:bit no_wait:bit")
EXCHANGE_DELETE_OK: Final = _method(40, 21, "exchange.delete-ok")
EXCHANGE_BIND: Final = _method(
    40,
    30,
    "exchange.bind",
    "-:short destination:shortstr source:shortstr routing_key:shortstr no_wait:bit arguments:table",
)
EXCHANGE_BIND_OK: Final = _method(40, 31, "exchange.bind-ok")
EXCHANGE_UNBIND: Final = _method(
    40,
    40,
    "exchange.unbind",
    "-:short destination:shortstr source:shortstr routing_key:shortstr no_wait:bit arguments:table",
)
EXCHANGE_UNBIND_OK: Final = _method(40, 51, "exchange.unbind-ok")

QUEUE_DECLARE: Final = _method(
    50,
    10,
    "queue.declare",
    "-:short queue:shortstr passive:bit durable:bit exclusive:bit auto_delete:bit no_wait:bit arguments:table",
)
QUEUE_DECLARE_OK: Final = _method(50, 11, "queue.declare-ok", "queue:shortstr message_count:long consumer_count:long")
QUEUE_BIND: Final = _method(
    50,
    20,
    "queue.bind",
    "-:short queue:shortstr exchange:shortstr routing_key:shortstr no_wait:bit arguments:table",
)
QUEUE_BIND_OK: Final = _method(50, 21, "queue.bind-ok")
QUEUE_PURGE: Final = _method(50, 30, "queue.purge", "-:short queue:shortstr no_wait:bit")
QUEUE_PURGE_OK: Final = _method(50, 31, "queue.purge-ok", "message_count:long")
QUEUE_DELETE: Final = _method(50, 40, "queue.delete", "-:short queue:shortstr if_unused:bit if_empty:bit no_wait:bit")
QUEUE_DELETE_OK: Final = _method(50, 41, "queue.delete-ok", "message_count:long")
QUEUE_UNBIND: Final = _method(
    50, 50, "queue.unbind", "-:short queue:shortstr exchange:shortstr routing_key:shortstr arguments:table"
)
QUEUE_UNBIND_OK: Final = _method(50, 51, "queue.unbind-ok")

BASIC_QOS: Final = _method(60, 10, "basic.qos", "prefetch_size:long prefetch_count:short global:bit")
BASIC_QOS_OK: Final = _method(60, 11, "basic.qos-ok")
BASIC_CONSUME: Final = _method(
    60,
    20,
    "basic.consume",
    "-:short queue:shortstr consumer_tag:shortstr no_local:bit no_ack:bit exclusive:bit no_wait:bit arguments:table",
)
BASIC_CONSUME_OK: Final = _method(60, 21, "basic.consume-ok", "consumer_tag:shortstr")
BASIC_CANCEL: Final = _method(60, 30, "basic.cancel", "consumer_tag:shortstr no_wait:bit")
BASIC_CANCEL_OK: Final = _method(60, 31, "basic.cancel-ok", "consumer_tag:shortstr")
BASIC_PUBLISH: Final = _method(
    60,
    40,
    "basic.publish",
    "-:short exchange:shortstr routing_key:shortstr mandatory:bit immediate:bit",
    content=True,
)
BASIC_RETURN: Final = _method(
    60,
    50,
    "basic.return",
    "reply_code:short reply_text:shortstr exchange:shortstr routing_key:shortstr",
    content=True,
)
BASIC_DELIVER: Final = _method(
    60,
    60,
    "basic.deliver",
    "consumer_tag:shortstr delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr",
    content=True,
)
BASIC_GET: Final = _method(60, 70, "basic.get", "-:short queue:shortstr no_ack:bit")
BASIC_GET_OK: Final = _method(
    60,
    71,
    "basic.get-ok",
    "delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr message_count:long",
    content=True,
)
BASIC_GET_EMPTY: Final = _method(60, 72, "basic.get-empty", "-:shortstr")
BASIC_ACK: Final = _method(60, 80, "basic.ack", "delivery_tag:longlong multiple:bit")
BASIC_REJECT: Final = _method(60, 90, "basic.reject", "delivery_tag:longlong requeue:bit")
BASIC_RECOVER_ASYNC: Final = _method(60, 100, "basic.recover-async", "requeue:bit")
BASIC_RECOVER: Final = _method(60, 110, "basic.recover", "requeue:bit")
BASIC_RECOVER_OK: Final = _method(60, 111, "basic.recover-ok")
BASIC_NACK: Final = _method(60, 120, "basic.nack", "delivery_tag:longlong multiple:bit requeue:bit")

CONFIRM_SELECT: Final = _method(85, 10, "confirm.select", "no_wait:bit")
CONFIRM_SELECT_OK: Final = _method(85, 11, "confirm.select-ok")

TX_SELECT: Final = _method(90, 10, "tx.select")
TX_SELECT_OK: Final = _method(90, 11, "tx.select-ok")
TX_COMMIT: Final = _method(90, 20, "tx.commit")
TX_COMMIT_OK: Final = _method(90, 21, "tx.commit-ok")
TX_ROLLBACK: Final = _method(90, 30, "tx.rollback")
TX_ROLLBACK_OK: Final = _method(90, 31, "tx.rollback-ok")


def encode_frame(frame_type: int, channel: int, payload: bytes) -> bytes:
    """A whole frame: type, channel, size, payload, end octet (§4.2.3)."""
    return _FRAME_HEAD.pack(frame_type, channel, len(payload)) + payload + b"\xce"


HEARTBEAT_FRAME: Final = encode_frame(FRAME_HEARTBEAT, 0, b"")
"""§4.2.7."""


def decode_arguments(method: Method, payload: bytes, pos: int = 4) -> tuple[object, ...]:
    """The arguments of `method` in the order of the specification, without the reserved ones.

    `payload` is the method frame's payload and `pos` where the arguments start in it. An integer gives int,
    a bit bool, shortstr str, longstr bytes, a table dict[str, FieldValue]. Raises WireError 502, with the
    method's ids, for anything malformed and for bytes after the last argument; 501 for a short string that is
    not UTF-8. Of methods with content, as in RabbitMQ, those are not checked: lone surrogates stand for the octets.
    """
    try:
        values, pos = _decode_fields(method, payload, pos)
    except WireError as error:
        raise WireError(error.code, error.text, method.class_id, method.method_id) from None
    if pos != len(payload):
        text = f"{len(payload) - pos} bytes after the arguments of {method.name}"
        raise WireError(SYNTAX_ERROR, text, method.class_id, method.method_id)
    return values


def encode_method(channel: int, method: Method, *arguments: object) -> bytes:
    """The whole frame of `method`, given its arguments in order without the reserved ones.

    Takes what `decode_arguments` gives, and str for longstr as well. Wrong arguments are our own mistake:
    they raise ValueError, TypeError or struct.error.
    """
    payload = _encode_fields(method, arguments)
    head = _METHOD_HEAD.pack(FRAME_METHOD, channel, 4 + len(payload), method.class_id, method.method_id)
    return head + payload + b"\xce"


def encode_ack(channel: int, tag: int, multiple: bool) -> bytes:
    """The frame of a basic.ack, as `encode_method` makes it: a confirm, of which there may be one a message."""
    return _ACK.pack(FRAME_METHOD, channel, 13, BASIC_ACK.class_id, BASIC_ACK.method_id, tag, multiple, FRAME_END)


def _decode_fields(method: Method, data: bytes, pos: int) -> tuple[tuple[object, ...], int]:
    values: list[object] = []
    bit = 0  # which bit of the octet before `pos` comes next; 0: none of it (§4.2.5.2)
    for name, kind in method.fields:
        value: object
        if kind == "bit":
            if bit == 0:
                pos += 1
                if pos > len(data):
                    raise WireError(SYNTAX_ERROR, f"arguments of {method.name} cut short")
            value = bool(data[pos - 1] >> bit & 1)
            bit = (bit + 1) % 8
        else:
            bit = 0
            value, pos = _decode_field(kind, data, pos)
            if isinstance(value, str) and not method.has_content:
                _check_utf8(value)
        if name != RESERVED:
            values.append(value)
    return tuple(values), pos


def _check_utf8(text: str) -> None:
    """Surrogates in a short string stand for octets that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WireError(FRAME_ERROR, "Malformed UTF-8 in shortstr") from None


def decode_publish(frame: bytes) -> tuple[str, str, bool, bool]:
    """What a whole basic.publish frame says: exchange, routing key, mandatory, immediate. WireError as
    `decode_arguments`, which does the same more slowly."""
    exchange_at = 14  # behind the frame's head, the ids, a reserved short and a length
    if len(frame) > exchange_at + 3:
        key_at = exchange_at + frame[exchange_at - 1] + 1
        if len(frame) > key_at + 1 and key_at + frame[key_at - 1] + 2 == len(frame):
            exchange, key, bits = frame[exchange_at : key_at - 1], frame[key_at:-2], frame[-2]
            return _text(exchange), _text(key), bits & 1 != 0, bits & 2 != 0
    return cast("tuple[str, str, bool, bool]", decode_arguments(BASIC_PUBLISH, frame[7:-1]))


def decode_get(payload: bytes) -> tuple[object, ...]:
    """What the payload of a basic.get says, queue and no_ack: as `decode_arguments`, but faster."""
    queue_at = 7  # behind the ids, a reserved short and a length
    if len(payload) > queue_at and queue_at + payload[queue_at - 1] + 1 == len(payload):
        try:
            return payload[queue_at:-1].decode(), payload[-1] & 1 != 0
        except UnicodeDecodeError:
            pass
    return decode_arguments(BASIC_GET, payload)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _decode_field(kind: str, data: bytes, pos: int) -> tuple[object, int]:
    if kind == "shortstr":
        return decode_shortstr(data, pos)
    if kind == "table":
        return decode_table(data, pos)
    integer = _INTEGERS["long" if kind == "longstr" else kind]
    end = pos + integer.size
    if end > len(data):
        raise WireError(SYNTAX_ERROR, f"malformed argument: {kind} cut short")
    value: int = integer.unpack_from(data, pos)[0]
    if kind != "longstr":
        return value, end
    if end + value > len(data):
        raise WireError(SYNTAX_ERROR, "malformed argument: longstr beyond the data")
    return data[end : end + value], end + value


def _encode_fields(method: Method, arguments: tuple[object, ...]) -> bytes:
    parts: list[bytes] = []
    given = iter(arguments)
    bits = 0
    bit_count = 0
    for name, kind in method.fields:
        try:
            value = _RESERVED_VALUES[kind] if name == RESERVED else next(given)
        except StopIteration:
            raise ValueError(f"{method.name} needs {len(method.argument_names)} arguments") from None
        if bit_count and (kind != "bit" or bit_count == 8):
            parts.append(bytes((bits,)))
            bits = bit_count = 0
        if kind == "bit":
            bits |= bool(value) << bit_count
            bit_count += 1
        else:
            parts.append(_encode_field(kind, value))
    if bit_count:
        parts.append(bytes((bits,)))
    if next(given, RESERVED) is not RESERVED:
        raise ValueError(f"{method.name} takes {len(method.argument_names)} arguments")
    return b"".join(parts)


def _encode_field(kind: str, value: object) -> bytes:
    if kind == "shortstr" and isinstance(value, str):
        return encode_shortstr(value)
    if kind == "table" and isinstance(value, dict):
        table: dict[str, FieldValue] = value
        return encode_table(table)
    if kind == "longstr" and isinstance(value, (bytes, str)):
        octets = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        return _UINT32.pack(len(octets)) + octets
    if kind in _INTEGERS and isinstance(value, int):
        return _INTEGERS[kind].pack(value)
    raise TypeError(f"{kind} cannot hold {type(value).__name__}")
