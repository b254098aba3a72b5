"""The frame scanner against a slow and obvious one, whole, byte by byte, with bytes behind, and cut anywhere."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabal.wire.amqp091.content import property_bytes
from pabal.wire.amqp091.errors import FRAME_ERROR, RESOURCE_ERROR, UNEXPECTED_FRAME, WireError
from pabal.wire.amqp091.frames import Scanner
from pabal.wire.amqp091.methods import METHODS, Method

FRAME_BYTES_MAX = 4096
MESSAGE_BYTES_MAX = 20_000
UNLIMITED = 1 << 40
BASIC_PUBLISH = b"\x00\x3c\x00\x28"
BASIC_ACK = b"\x00\x3c\x00\x50"
CLIENTS_PROPERTIES = (b"\x00\x00", b"\x10\x00\x02", b"\x80\x00\x04text")

Call = tuple[Any, ...]
Outcome = tuple[list[Call], int]
"""What the receiver was told, one call a message or ack; and the code of the error that ended it, 0 for none."""


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def method_frame(channel: int, key: str = "queue", mandatory: bool = False) -> bytes:
    key_bytes = key.encode()
    arguments = b"\0\0\x00" + bytes((len(key_bytes),)) + key_bytes + bytes((mandatory,))
    return frame(1, channel, BASIC_PUBLISH + arguments)


def header_frame(
    channel: int, size: int, properties: bytes = b"\x00\x00", class_id: int = 60, weight: int = 0
) -> bytes:
    return frame(2, channel, struct.pack(">HHQ", class_id, weight, size) + properties)


def body_frames(channel: int, body: bytes, step: int = FRAME_BYTES_MAX - 8) -> list[bytes]:
    return [frame(3, channel, body[at : at + step]) for at in range(0, len(body), step)]


def body_of(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 31 + seed).randbytes(size)


def publish(
    channel: int, size: int, key: str = "queue", properties: bytes = b"\x00\x00", step: int = 4088, seed: int = 0
) -> list[bytes]:
    """The frames of one message."""
    return [
        method_frame(channel, key),
        header_frame(channel, size, properties),
        *body_frames(channel, body_of(size, seed), step),
    ]


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    return frame(1, channel, BASIC_ACK + struct.pack(">QB", tag, multiple))


HEARTBEAT = frame(8, 0, b"")
QOS = frame(1, 1, b"\x00\x3c\x00\x0a" + struct.pack(">IHB", 0, 10, 0))
CLOSE = frame(1, 0, b"\x00\x0a\x00\x32" + struct.pack(">H", 200) + b"\x00" + b"\0\0\0\0")


class Recorder:
    """A receiver that writes down what it is told, message by message."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.runs: list[int] = []

    def on_method(self, channel: int, method: Method, payload: bytes) -> None:
        assert type(payload) is bytes
        self.calls.append(("method", channel, method.name, payload))

    def on_publish(self, channel: int, frame: bytes, contents: list[bytes], content_bytes: int) -> None:
        assert contents
        assert content_bytes == sum(map(len, contents))
        assert len({property_bytes(content) for content in contents}) == 1
        self.on_publish_unlike(channel, [frame] * len(contents), contents)

    def on_publish_unlike(self, channel: int, frames: list[bytes], contents: list[bytes]) -> None:
        self.runs.append(len(contents))
        for frame, content in zip(frames, contents, strict=True):
            assert type(content) is type(frame) is bytes
            self.calls.append(("publish", channel, frame, content))

    def on_acks(self, channel: int, tags: list[int]) -> None:
        assert tags
        self.calls += [("ack", channel, tag) for tag in tags]

    def on_ack_multiple(self, channel: int, tag: int) -> None:
        self.calls.append(("ack multiple", channel, tag))

    def on_oversized(self, channel: int, body_bytes: int) -> None:
        self.calls.append(("oversized", channel, body_bytes))

    def on_publish_held(self) -> None:
        self.calls.append(("held",))


def scan(pieces: Iterable[bytes], assembly_bytes_max: int = UNLIMITED) -> Outcome:
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, assembly_bytes_max)
    try:
        for piece in pieces:
            scanner.receive(piece)
            assert scanner.waiting_bytes <= len(piece) + 65_536 + FRAME_BYTES_MAX
    except WireError as error:
        return recorder.calls, error.code
    return recorder.calls, 0


def obvious(data: bytes) -> Outcome:
    """The twin: a frame at a time, everything looked at. Says what must come out."""
    calls: list[Call] = []
    open_contents: dict[int, list[Any]] = {}  # channel → method frame, frames kept, bytes left (-1: no header yet)
    pos = 0
    while len(data) - pos >= 7:
        kind, channel, size = struct.unpack_from(">BHI", data, pos)
        if size > FRAME_BYTES_MAX:
            return calls, FRAME_ERROR
        if len(data) - pos < size + 8:
            break
        whole = data[pos : pos + size + 8]
        payload = whole[7:-1]
        pos += size + 8
        code = FRAME_ERROR if whole[-1] != 0xCE else take(kind, channel, whole, payload, open_contents, calls)
        if code:
            return calls, code
    return calls, 0


def take(
    kind: int, channel: int, whole: bytes, payload: bytes, contents: dict[int, list[Any]], calls: list[Call]
) -> int:
    """One frame, for `obvious`. Returns the error's code or 0."""
    content = contents.get(channel)
    if kind == 1:
        return take_method(channel, whole, payload, contents, calls)
    if kind == 2:
        if content is None or content[2] != -1:
            return UNEXPECTED_FRAME
        if len(payload) < 14:
            return FRAME_ERROR
        class_id, weight, size = struct.unpack_from(">HHQ", payload)
        if class_id != 60 or weight:
            return UNEXPECTED_FRAME
        content[2] = size
        content[1].append(whole)
        if size > MESSAGE_BYTES_MAX:
            calls.append(("oversized", channel, size))
    elif kind == 3:
        if content is None or content[2] == -1 or len(payload) > content[2]:
            return UNEXPECTED_FRAME
        content[2] -= len(payload)
        if payload:
            content[1].append(whole)
    elif kind == 8:
        return UNEXPECTED_FRAME if channel else FRAME_ERROR if payload else 0
    else:
        return FRAME_ERROR
    if content[2] == 0:
        del contents[channel]
        size = struct.unpack_from(">Q", content[1][0], 11)[0]
        if size <= MESSAGE_BYTES_MAX:
            calls.append(("publish", channel, content[0], b"".join(content[1])))
    return 0


def take_method(channel: int, whole: bytes, payload: bytes, contents: dict[int, list[Any]], calls: list[Call]) -> int:
    if len(payload) < 4:
        return FRAME_ERROR
    content = contents.get(channel)
    if content is not None:
        if content[2] == -1 or struct.unpack_from(">Q", content[1][0], 11)[0] <= MESSAGE_BYTES_MAX:
            return UNEXPECTED_FRAME
        del contents[channel]  # too large, and so given up by the peer
    if payload[:4] == BASIC_PUBLISH:
        contents[channel] = [whole, [], -1]
        return 0
    method = METHODS.get(int.from_bytes(payload[:4], "big"))
    if method is None or method.has_content:
        return 503
    if payload[:4] == BASIC_ACK and len(payload) == 13:
        tag, multiple = struct.unpack_from(">QB", payload, 4)
        calls.append(("ack multiple" if multiple & 1 else "ack", channel, tag))
    else:
        calls.append(("method", channel, method.name, payload))
    return 0


def check(data: bytes, cuts: Iterable[int] = ()) -> Outcome:
    """Scans `data` in every way; all must agree with the twin. Returns what came out."""
    expected = obvious(data)
    assert scan([data]) == expected, "whole"
    assert scan(data[at : at + 1] for at in range(len(data))) == expected, "byte by byte"
    for step in (7, 21, 1000):
        assert scan(data[at : at + step] for at in range(0, len(data), step)) == expected, f"by {step} bytes"
    places = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    assert scan(pieces) == expected, f"cut at {places}"
    if not expected[1]:
        for trailing in (data[:1], data[:6], data[:20], b"\x01", b"\x08\0\0", b"\x03\0\x01\0\0\x0f"):
            assert scan([data + trailing])[0][: len(expected[0])] == expected[0], f"trailing {trailing!r}"
            assert scan([data + trailing]) == obvious(data + trailing), f"trailing {trailing!r}"
    return expected


def numbered(number: int, size: int = 8) -> bytes:
    """Properties with a message id of this size."""
    return b"\x00\x80" + bytes((size,)) + number.to_bytes(8, "big")[:size].rjust(size, b".")


def unlike(count: int) -> list[bytes]:
    """The frames of messages with different properties."""
    return [f for n in range(count) for f in publish(1, 50, properties=numbered(n))]


def wrong_at(at: int, value: int) -> list[bytes]:
    """One of them, in which an octet of its content has another value."""
    method, *content = publish(1, 50, key="other", properties=numbered(99))
    broken = bytearray(b"".join([method, *content]))
    at += len(method)
    assert broken[at] != value
    broken[at] = value
    return [bytes(broken)]


SIZES = (0, 1, 2, 3, 100, 4087, 4088, 4089, 8176, 9000, 20_000)

CASES: dict[str, list[bytes]] = {
    **{f"size {size}": publish(1, size) for size in SIZES},
    **{f"size {size} three times": publish(1, size) * 3 for size in SIZES},
    "a run": [f for n in range(300) for f in publish(1, 50, seed=n)],
    "a run with varied sizes": [f for n in range(200) for f in publish(1, n % 7, seed=n)],
    "two runs": [f for n in range(40) for f in publish(1 + n % 20 // 10, 50, seed=n)],
    "every other channel": [f for n in range(40) for f in publish(1 + n % 2, 50, seed=n)],
    "every other key": [f for n in range(40) for f in publish(1, 50, key="a" if n % 3 else "b")],
    "every other properties": [f for n in range(40) for f in publish(1, 50, properties=CLIENTS_PROPERTIES[n % 3])],
    "all properties unlike": [f for n in range(300) for f in publish(1, 50, properties=numbered(n), seed=n)],
    "properties and sizes unlike": [f for n in range(300) for f in publish(1, n % 9, properties=numbered(n))],
    "all unlike": [f for n in range(300) for f in publish(1, n % 9, key=str(n % 7) * 9, properties=numbered(n))],
    "keys unlike": [f for n in range(300) for f in publish(1, 50, key="k" * (n % 256))],
    "lengths of properties unlike": [f for n in range(300) for f in publish(1, 9, properties=numbered(n, n % 255))],
    "every other properties, on channels": [
        f for n in range(90) for f in publish(1 + n // 9 % 2, 50, properties=numbered(n % 7, n % 3))
    ],
    "unlike, then a larger one": [
        f for n in range(9) for f in publish(1, 9000 if n == 5 else 50, properties=numbered(n))
    ],
    "unlike, then one in small frames": [
        f for n in range(9) for f in publish(1, 50, properties=numbered(n), step=4088 if n != 5 else 49)
    ],
    "header of 64 KiB": [f for n in range(3) for f in publish(1, 50, properties=numbered(n))]
    + [method_frame(1), header_frame(1, 1, b"\0\0" + b"x" * (FRAME_BYTES_MAX - 14)), *body_frames(1, b"x")],
    "a run, then a larger one": publish(1, 50) * 3 + publish(1, 9000) + publish(1, 50) * 3,
    "a run with an empty one": publish(1, 50) * 2 + publish(1, 0) + publish(1, 50) * 2,
    "small body frames": publish(1, 1000, step=7) * 2,
    "after one frame, the same in two": publish(1, 100) + publish(1, 100, step=50) + publish(1, 100),
    "empty body frames": [method_frame(1), header_frame(1, 2), *([frame(3, 1, b""), frame(3, 1, b"x")] * 2)],
    "interleaved": [f for pair in zip(publish(1, 9000), publish(2, 9000), strict=True) for f in pair],
    "interleaved with methods": [
        *publish(1, 9000)[:3],
        frame(1, 2, QOS[7:-1]),
        *publish(2, 10),
        ack(3, 1),
        ack(3, 2),
        HEARTBEAT,
        *publish(1, 9000)[3:],
    ],
    "small, and interleaved": [
        *publish(1, 100)[:2],
        HEARTBEAT,
        frame(1, 2, QOS[7:-1]),
        *publish(2, 10),
        *publish(1, 100)[2:],
    ],
    "small, and then the end": [*publish(1, 100)[:2], CLOSE],
    "method only, and then the end": [*publish(1, 100)[:1], CLOSE],
    "acks": [ack(1, tag) for tag in range(1, 50)],
    "acks of many": [ack(1, tag, multiple=tag % 5 == 0) for tag in range(1, 50)],
    "acks on two channels": [ack(1 + tag % 2, tag) for tag in range(1, 50)],
    "only multiple acks": [ack(1, tag, multiple=True) for tag in range(1, 50)],
    "ack with other bits": [frame(1, 1, BASIC_ACK + struct.pack(">QB", 9, bits)) for bits in (0, 1, 2, 3, 255)],
    "an ack too short": [ack(1, 1), frame(1, 1, BASIC_ACK + b"\0" * 5), ack(1, 2)],
    "an ack too long": [ack(1, 1), frame(1, 1, BASIC_ACK + b"\0" * 20), ack(1, 2)],
    "an ack without arguments": [ack(1, 1), frame(1, 1, BASIC_ACK)],
    "methods": [QOS, CLOSE, QOS, HEARTBEAT, QOS],
    "all together": [
        *publish(1, 50) * 3,
        ack(1, 1),
        HEARTBEAT,
        *publish(1, 50) * 2,
        ack(1, 2, multiple=True),
        QOS,
        *publish(2, 0),
        ack(2, 3),
    ],
    "message too large": [*publish(1, 20_001), *publish(1, 3)],
    "message too large, interleaved": [*publish(1, 30_000)[:4], *publish(2, 30), *publish(1, 30_000)[4:], QOS],
    "message too large, given up at once": [*publish(1, 30_000)[:2], QOS, *publish(1, 3)],
    "message too large, given up later": [*publish(1, 30_000)[:4], QOS, *publish(1, 3)],
    "message too large, then acks": [ack(1, 1), *publish(1, 30_000)[:4], ack(1, 2), ack(1, 3), *publish(1, 3)],
    "message of 2**64 - 1": [method_frame(1), header_frame(1, 2**64 - 1), *body_frames(1, b"x" * 9000)],
}

ERRORS: dict[str, tuple[int, list[bytes]]] = {
    "frame one byte too large": (501, [frame(3, 1, b"x" * (FRAME_BYTES_MAX + 1))]),
    "frame of four GiB": (501, [b"\x01\x00\x01\xff\xff\xff\xff"]),
    "bad end of a method": (501, [QOS[:-1] + b"\xcd"]),
    "bad end of a heartbeat": (501, [HEARTBEAT[:-1] + b"\x00"]),
    "bad end of an ack": (501, [ack(1, 1), ack(1, 2)[:-1] + b"\x00", ack(1, 3)]),
    "bad end of the first ack": (501, [ack(1, 2)[:-1] + b"\x00", ack(1, 3)]),
    "bad end of a publish": (501, [method_frame(1)[:-1] + b"\0", header_frame(1, 3), *body_frames(1, b"abc")]),
    "bad end of a header": (501, [method_frame(1), header_frame(1, 3)[:-1] + b"\0", *body_frames(1, b"abc")]),
    "bad end of a header, no body": (501, [method_frame(1), header_frame(1, 300)[:-1] + b"\0"]),
    "bad end of a body": (501, [*publish(1, 50)[:2], publish(1, 50)[2][:-1] + b"\0"]),
    "bad end in a run": (501, [*publish(1, 50) * 4, *publish(1, 50)[:2], publish(1, 50)[2][:-1] + b"\0"]),
    "bad end in the middle of a run": (
        501,
        [*publish(1, 50) * 4, *publish(1, 50)[:2], publish(1, 50)[2][:-1] + b"\0", *publish(1, 50)],
    ),
    **{
        f"unlike, wrong at octet {at}": (code, [*unlike(3), *wrong_at(at, value), *unlike(3)])
        for at, value, code in (
            (0, 9, 501),  # type of the header frame
            (-20, 2, 505),  # the method frame's channel
            (-19, 1, 501),  # its size, the upper half
            (-16, 13, 501),  # its size
            (-1, 0, 501),  # its end
            (2, 2, 505),  # its channel
            (3, 1, 501),  # its size, the upper half
            (6, 13, 501),  # its size
            (8, 50, 505),  # class
            (9, 1, 505),  # weight
            (10, 1, 505),  # weight
            (30, 0, 501),  # frame end
            (31, 2, 505),  # type of the body frame
            (33, 2, 505),  # its channel
            (37, 51, 501),  # its size
            (88, 0, 501),  # frame end
        )
    },
    "unknown type": (501, [HEARTBEAT, frame(4, 0, b"")]),
    "type 0": (501, [frame(0, 0, b"")]),
    "heartbeat on a channel": (505, [frame(8, 1, b"")]),
    "heartbeat with a payload": (501, [frame(8, 0, b"x")]),
    "method of two bytes": (501, [frame(1, 1, b"\0\x3c")]),
    "empty method": (501, [frame(1, 1, b"")]),
    "unknown method": (503, [frame(1, 1, b"\x03\xe7\x00\x01")]),
    "deliver": (503, [frame(1, 1, b"\x00\x3c\x00\x3c\x00")]),
    "header without publish": (505, [header_frame(1, 3)]),
    "body without publish": (505, body_frames(1, b"abc")),
    "body without header": (505, [method_frame(1), *body_frames(1, b"abc")]),
    "two headers": (505, [method_frame(1), header_frame(1, 3), header_frame(1, 3)]),
    "header too large, of which little is there": (501, [method_frame(1), header_frame(1, 0)[:3] + b"\x01\0\0\0\0"]),
    "header with a weight": (505, [method_frame(1), header_frame(1, 3, weight=1), *body_frames(1, b"abc")]),
    "header with a weight, no body": (505, [method_frame(1), header_frame(1, 0, weight=256)]),
    "header with a weight after a run": (505, [*publish(1, 3) * 3, method_frame(1), header_frame(1, 3, weight=9)]),
    "header on another channel": (505, [method_frame(1), header_frame(2, 3), *body_frames(1, b"abc")]),
    "body on another channel": (505, [method_frame(1), header_frame(1, 3), *body_frames(2, b"abc")]),
    "header too short": (501, [method_frame(1), frame(2, 1, b"\0\x3c\0\0\0\0\0\0\0\0\0\x03")]),
    "header far too short": (501, [method_frame(1), frame(2, 1, b"\0\x3c\0\0")]),
    "empty header": (501, [method_frame(1), frame(2, 1, b"")]),
    "header of another class": (505, [method_frame(1), header_frame(1, 3, class_id=50), *body_frames(1, b"abc")]),
    "too much body": (505, [method_frame(1), header_frame(1, 2), *body_frames(1, b"abc")]),
    "too much body in the second frame": (
        505,
        [method_frame(1), header_frame(1, 5), *body_frames(1, b"abc"), *body_frames(1, b"def")],
    ),
    "too much body in a run": (505, [*publish(1, 3) * 3, *publish(1, 3)[:2], *body_frames(1, b"abcd")]),
    "body behind an empty one": (505, [*publish(1, 0), *body_frames(1, b"a")]),
    "method after publish": (505, [method_frame(1), QOS]),
    "method after header": (505, [method_frame(1), header_frame(1, 100), QOS]),
    "method after half the body": (505, [*publish(1, 9000)[:3], QOS]),
    "publish after publish": (505, [method_frame(1), method_frame(1)]),
    "publish within a run": (505, [*publish(1, 50) * 3, method_frame(1), *publish(1, 50)]),
    "run within a content": (505, [*publish(1, 50) * 3, *publish(1, 9000)[:3], *publish(1, 50)]),
    "ack after publish": (505, [method_frame(1), ack(1, 1)]),
    "ack after acks, within a content": (505, [ack(1, 1), ack(1, 2), *publish(1, 9000)[:3], ack(1, 3)]),
    "multiple ack within a content": (505, [ack(1, 1), method_frame(1), header_frame(1, 90), ack(1, 3, True)]),
}


@pytest.mark.parametrize("name", CASES)
def test_frames_in_order(name: str) -> None:
    calls, code = check(b"".join(CASES[name]), range(3, 1_000_000, 997))
    assert calls
    assert not code


def test_heartbeats_say_nothing() -> None:
    assert check(HEARTBEAT * 20) == ([], 0)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    expected, frames = ERRORS[name]
    assert check(b"".join(frames))[1] == expected
    # The same behind what is good, which all gets through.
    calls, code = check(b"".join([*publish(3, 30) * 2, ack(3, 1), *frames]))
    assert code == expected
    assert [call[0] for call in calls[:3]] == ["publish", "publish", "ack"]


def test_contents_are_as_they_came() -> None:
    frames = [*publish(1, 9000, properties=b"\x10\x00\x02"), *publish(2, 10)]
    calls, _ = check(b"".join(frames))
    assert calls == [
        ("publish", 1, frames[0], b"".join(frames[1:5])),
        ("publish", 2, frames[5], b"".join(frames[6:])),
    ]


def test_a_message_waits_for_its_last_byte_and_no_longer() -> None:
    for size in (0, 1, 100, 9000):
        data = b"".join(publish(1, size))
        recorder = Recorder()
        scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
        for _ in range(3):
            recorder.calls.clear()
            scanner.receive(data[:-1])
            assert not recorder.calls
            scanner.receive(data[-1:])
            assert len(recorder.calls) == 1
            assert not scanner.waiting_bytes


def test_messages_with_unlike_keys_come_together() -> None:
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
    scanner.receive(b"".join(f for n in range(100) for f in publish(1, 50, key=f"key {n}")))
    scanner.receive(b"".join(publish(1, 50, key="key 99") * 100))
    assert recorder.runs == [1, 99, 100]


def test_messages_with_unlike_properties_come_together() -> None:
    """And those that come after them alike are known as such again."""
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
    scanner.receive(b"".join(unlike(100)))
    assert recorder.runs == [1, 99]
    scanner.receive(b"".join(publish(1, 50, properties=numbered(99)) * 100))
    assert recorder.runs == [1, 99, 100]


# --- Limits ----------------------------------------------------------------------------------------------------


def test_unfinished_contents_are_limited_together() -> None:
    """506; what has ended, was skipped or belonged to a forgotten channel does not count any more."""
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, 50_000)
    for _ in range(10):
        for channel in (1, 2):
            scanner.receive(b"".join(publish(channel, 18_000)))
        scanner.receive(b"".join(publish(3, 30_000)))
        scanner.receive(b"".join(publish(3, 18_000)[:4]))
        scanner.forget_channel(3)
    with pytest.raises(WireError) as caught:
        for channel in range(1, 9):
            scanner.receive(b"".join(publish(channel, 18_000)[:4]))
    assert caught.value.code == RESOURCE_ERROR


@pytest.mark.parametrize("limit", [100_000, 1_000_000])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([frame(3, 1, b"x")] * 100_000, id="bodies of one byte"),
        pytest.param([frame(3, 1, b"")] * 100_000, id="empty bodies"),
        pytest.param([f for n in range(2, 60_000) for f in publish(n, 10)[:2]], id="headers on many channels"),
        pytest.param([frame(1, n, BASIC_PUBLISH + b"\0" * 4000) for n in range(2, 1000)], id="large publishes"),
        pytest.param([header_frame(2, 2**64 - 1)[:-1]] + [b"x" * 1000] * 100, id="a frame that does not end"),
    ],
)
def test_memory_is_bounded(limit: int, pieces: list[bytes]) -> None:
    """Whatever comes: about the limit is kept, and no more."""
    scanner = Scanner(Recorder(), FRAME_BYTES_MAX, 1 << 40, limit)
    scanner.receive(method_frame(1) + header_frame(1, 1 << 30))
    tracemalloc.start()
    try:
        for at in range(0, len(pieces), 100):
            scanner.receive(b"".join(pieces[at : at + 100]))
    except WireError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * limit + 1_000_000  # the message limit is lifted, and joining takes it twice


def test_a_message_too_large_is_not_kept() -> None:
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, 100_000)
    scanner.receive(method_frame(1) + header_frame(1, 50_000_000))
    piece = b"".join(body_frames(1, b"x" * 500_000))
    tracemalloc.start()
    for _ in range(100):
        scanner.receive(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_500_000
    scanner.receive(b"".join(publish(1, 3)))
    assert [call[0] for call in recorder.calls] == ["oversized", "publish"]


# --- Pausing ---------------------------------------------------------------------------------------------------


class Pausing(Recorder):
    """Pauses the scanner at each method and at each ack of many."""

    scanner: Scanner

    def on_method(self, channel: int, method: Method, payload: bytes) -> None:
        super().on_method(channel, method, payload)
        self.scanner.paused = True

    def on_ack_multiple(self, channel: int, tag: int) -> None:
        super().on_ack_multiple(channel, tag)
        self.scanner.paused = True


@pytest.mark.parametrize("step", [1, 10, 1_000_000])
def test_a_paused_scanner_says_nothing_and_goes_on_where_it_was(step: int) -> None:
    frames = [QOS, ack(1, 1), ack(1, 2, True), ack(1, 3, True), *publish(1, 9) * 3, QOS, QOS, *publish(1, 5000), QOS]
    data = b"".join(frames)
    recorder = Pausing()
    scanner = recorder.scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
    for at in range(0, len(data), step):
        said = len(recorder.calls)
        was_paused = scanner.paused
        scanner.receive(data[at : at + step])
        assert not was_paused or len(recorder.calls) == said
    pauses = 0
    while scanner.paused:
        pauses += 1
        scanner.paused = False
        scanner.receive(b"")
    assert recorder.calls == obvious(data)[0]
    assert not scanner.waiting_bytes
    assert pauses >= 5 if step > 1 else pauses


@pytest.mark.parametrize("step", [1, 10, 1_000_000])
@pytest.mark.parametrize("name", CASES)
def test_publishes_can_be_held(name: str, step: int) -> None:
    """Everything before the first of them is scanned, then nothing until they are held no more."""
    data = b"".join(CASES[name])
    calls = obvious(data)[0]
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
    scanner.receive(b"".join(publish(9, 50) * 3))  # so that it knows a run
    recorder.calls.clear()
    scanner.hold_publishes(True)
    for at in range(0, len(data), step):
        scanner.receive(data[at : at + step])
    publishes = BASIC_PUBLISH in data
    assert scanner.paused == publishes
    before = [call for call in recorder.calls if call != ("held",)]
    assert before == [call for call in calls[: len(before)] if call[0] not in ("publish", "oversized")]
    assert len(recorder.calls) == len(before) + publishes
    scanner.hold_publishes(False)
    scanner.paused = False
    scanner.receive(b"")
    assert [call for call in recorder.calls if call != ("held",)] == calls


# --- After an error --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, (code, _) in ERRORS.items() if code in (503, 502)])
def test_what_follows_a_wrong_method_is_scanned(name: str) -> None:
    """connection.close-ok must be found behind it."""
    recorder = Recorder()
    scanner = Scanner(recorder, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, UNLIMITED)
    with pytest.raises(WireError):
        scanner.receive(b"".join(ERRORS[name][1]) + CLOSE)
    scanner.receive(b"")
    assert [call[2] for call in recorder.calls] == ["connection.close"]


# --- Anything --------------------------------------------------------------------------------------------------

channels = st.sampled_from([1, 1, 1, 2, 2, 3])
messages = st.builds(
    publish,
    channels,
    st.sampled_from([0, 1, 2, 2, 2, 3, 100, 4088, 4089, 9000, 20_000, 20_001]),
    st.sampled_from(["queue", "queue", "other"]),
    st.sampled_from(CLIENTS_PROPERTIES),
    st.sampled_from([4088, 4088, 4088, 1000, 700]),
    st.integers(0, 3),
)
runs = st.builds(lambda frames, count: frames * count, messages, st.integers(1, 6))
singles = st.one_of(
    st.builds(ack, channels, st.integers(0, 2**64 - 1), st.booleans()),
    st.builds(lambda c: frame(1, c, QOS[7:-1]), channels),
    st.sampled_from([HEARTBEAT, CLOSE]),
)


@st.composite
def interleavings(draw: st.DrawFn) -> list[bytes]:
    """Frames of several channels, each channel's in order."""
    lanes = [
        draw(st.lists(messages, max_size=3).map(lambda m: [f for frames in m for f in frames])) for _ in range(3)
    ]
    for number, lane in enumerate(lanes, 1):
        lane[:] = [f[:1] + struct.pack(">H", number) + f[3:] for f in lane]
    mixed: list[bytes] = []
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        count = draw(st.integers(1, 4))
        mixed += lane[:count]
        del lane[:count]
        if draw(st.integers(0, 4)) == 0:
            mixed.append(HEARTBEAT)
    return mixed


conversations = st.lists(st.one_of(runs, st.lists(singles, max_size=8), interleavings()), min_size=1, max_size=6).map(
    lambda parts: [f for part in parts for f in part]
)
positions = st.lists(st.integers(0, 60_000), max_size=12)


@given(conversations, positions)
@settings(max_examples=150, deadline=None)
def test_any_conversation(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    expected = obvious(data)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert scan([data]) == expected
    assert scan([data[a:b] for a, b in pairwise(places)]) == expected


@given(conversations, positions, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_broken_conversation(frames: list[bytes], cuts: list[int], randomness: random.Random) -> None:
    frames = frames[:40] or [HEARTBEAT]
    for _ in range(randomness.randint(1, 3)):
        at = randomness.randrange(len(frames) + 1) if frames else 0
        match randomness.randrange(5):
            case 0:
                frames[at:at] = frames[at : at + 1]
            case 1:
                del frames[at : at + 1]
            case 2 if at < len(frames) and frames[at]:
                frames[at : at + 1] = [frames[at][: randomness.randrange(len(frames[at]))]]
            case 3 if at < len(frames) and frames[at]:
                broken = bytearray(frames[at])
                broken[randomness.randrange(min(len(broken), 40))] = randomness.randrange(256)
                frames[at] = bytes(broken)
            case _:
                randomness.shuffle(frames)
    data = b"".join(frames)
    expected = obvious(data)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert scan([data]) == expected
    assert scan([data[a:b] for a, b in pairwise(places)]) == expected


@given(st.lists(st.binary(max_size=200), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_bytes(pieces: list[bytes]) -> None:
    """Receiver calls or WireError, never another exception."""
    assert scan(pieces) == obvious(b"".join(pieces))
