"""The frame scanner: bytes in, methods and whole contents out. The hottest code of the broker.

Three things make it fast. A content (header and body frames) is never taken apart: it is cut out of the buffer
as it came. A publisher repeats itself: as long as the next bytes are the last message's method frame and header
frame again, but for the size of the body, two comparisons replace all parsing. Acknowledgements in a row are
gathered too. So the receiver is called once a run, not once a message.

Frames: AMQP 0-9-1 §4.2.3; contents: §4.2.6. Channels may interleave their contents frame by frame.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from pabal.wire.amqp091.content import BASIC_CLASS_ID
from pabal.wire.amqp091.errors import (
    COMMAND_INVALID,
    FRAME_ERROR,
    RESOURCE_ERROR,
    UNEXPECTED_FRAME,
    WireError,
)
from pabal.wire.amqp091.fields import read_u32
from pabal.wire.amqp091.methods import (
    BASIC_ACK,
    BASIC_PUBLISH,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD_BYTES,
    METHODS,
    Method,
)

if TYPE_CHECKING:
    from mypy_extensions import i64  # to mypyc a machine integer, to Python an int

_HEAD: Final = Struct(">BHI")
_CHANNEL_HEAD: Final = Struct(">BH")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")
_CONTENT_HEAD: Final = Struct(">BHIHHQ")  # frame head, then class id, weight, body size
_ACK_TAIL: Final = Struct(">QBB")
_PUBLISH_IDS: Final = _U32.pack(BASIC_PUBLISH.key)
_HEADER_PAYLOAD_MIN: Final = 14
_BODY_SIZE_AT: Final = 11
"""Where a content header frame has its body size: behind the frame's head, class id and weight."""
_CONTENT_HEAD_FIXED: Final = Struct(">HHI").pack(BASIC_CLASS_ID, 0, 0)
"""Class, weight, and the upper half of the body size where that is less than 4 GiB."""
_CONTENT_BYTES_MIN: Final = _HEADER_PAYLOAD_MIN + FRAME_OVERHEAD_BYTES + FRAME_OVERHEAD_BYTES + 1
_PUBLISH_BYTES_MIN: Final = FRAME_OVERHEAD_BYTES + 9 + _CONTENT_BYTES_MIN
_ACK_BYTES: Final = 21
_ACK_HEAD_BYTES: Final = 11
_PIECE_OVERHEAD_BYTES: Final = 64
"""What a frame costs to keep besides its bytes, about: bodies may come in frames of one byte."""
_AWAITED_BYTES_MAX: Final = 65_536
"""A message that is smaller than this and not all there is waited for; a larger one is assembled."""


class Receiver(Protocol):
    """Who is told what was scanned. May raise WireError, and may set `Scanner.paused` to stop after this call."""

    def on_method(self, channel: int, method: Method, payload: bytes) -> None:
        """A method without content. `payload` begins with the class and method ids."""

    def on_publish(self, channel: int, frame: bytes, contents: list[bytes], content_bytes: int) -> None:
        """Contents that each followed the same basic.publish `frame` and have the same properties."""

    def on_publish_unlike(self, channel: int, frames: list[bytes], contents: list[bytes]) -> None:
        """Contents of one channel, at least one, and for each its own basic.publish frame, which may be the same
        object for several."""

    def on_acks(self, channel: int, tags: list[int]) -> None:
        """basic.ack of single messages, one after the other."""

    def on_ack_multiple(self, channel: int, tag: int) -> None:
        """basic.ack of all up to `tag`."""

    def on_publish_held(self) -> None:
        """Scanning stopped before a publish or a part of one, as `Scanner.hold_publishes` asked for."""

    def on_oversized(self, channel: int, body_bytes: int) -> None:
        """A content's header announces more than `message_bytes_max`. Its body will be skipped."""


class _Assembly:
    """A content of which frames are still to come. `left`: body bytes, -1 before the header frame.
    `skipped`: too large, so not kept."""

    __slots__ = ("frame", "left", "pieces", "size", "skipped")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.pieces: list[bytes] = []
        self.left = -1
        self.size = 0
        self.skipped = False


class Scanner:
    """Scans one connection's bytes, after the protocol header. WireError: the connection cannot go on.

    `frame_bytes_max`: the negotiated frame_max; as in RabbitMQ a frame may be 8 bytes longer, since there are clients
    (amqpstorm) that take it for the size of the payload. `message_bytes_max`: largest body. `assembly_bytes_max`: of
    unfinished contents together. `paused`: stop scanning and keep what follows until `receive` is called again with
    this unset.
    """

    __deletable__ = ("_receiver",)

    def __init__(
        self, receiver: Receiver, frame_bytes_max: int, message_bytes_max: int, assembly_bytes_max: int
    ) -> None:
        self._receiver = receiver
        self.frame_bytes_max = frame_bytes_max
        self.message_bytes_max = message_bytes_max
        self.assembly_bytes_max = assembly_bytes_max
        self.paused = False
        self._rest = b""
        self._rest_at = 0  # where in it to go on: cut off only when more comes
        self._assemblies: dict[int, _Assembly] = {}
        self._assembly_bytes = 0
        # The last message that was whole in one body frame: what stands before its body size; from there up to its
        # body; the part of that which does not depend on the size; its body size; its method frame.
        self._start = b""
        self._size = b""
        self._properties = b""
        self._body_bytes = 0
        self._frame = b""
        self._channel = 0
        self._ack_head = b""
        self._ack_channel = 0
        self._closing = False
        self._holding = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes received and not yet scanned."""
        return len(self._rest) - self._rest_at

    def unscanned(self) -> bytes:
        """These bytes. They begin where a frame does."""
        return self._rest[self._rest_at :]

    def receive(self, data: bytes) -> None:
        """Scans `data` behind what was left over from before."""
        pos = self._rest_at
        if data:
            buffer = self._rest[pos:] + data if pos < len(self._rest) else data
            pos = 0
        else:
            buffer = self._rest
        end = len(buffer)
        try:
            while end - pos >= _HEAD.size and not self.paused:
                if self._start and buffer.startswith(self._start, pos):
                    after = self._scan_run(buffer, pos, end)
                elif self._ack_head and buffer.startswith(self._ack_head, pos):
                    after = self._scan_acks(buffer, pos, end)
                elif self._start:
                    after = self._scan_unlike(buffer, pos, end)
                else:
                    after = self._scan_frame(buffer, pos, end)
                if after == pos:
                    break
                pos = after
        except WireError:
            # What follows the frame that was wrong is scanned on, for the answer to our connection.close.
            self._rest = buffer[pos + _HEAD.unpack_from(buffer, pos)[2] + FRAME_OVERHEAD_BYTES :]
            self._rest_at = 0
            raise
        if pos == end:
            self._rest, self._rest_at = b"", 0
        else:
            self._rest, self._rest_at = buffer, pos

    def close(self) -> None:
        """We sent connection.close: nothing but its answer is scanned any more."""
        self._closing = True
        self._start = self._ack_head = b""
        self._assemblies.clear()
        self._assembly_bytes = 0

    def forget(self) -> None:
        """The connection is gone: what was received is not scanned any more, nor anything else. To be called once."""
        self.close()
        del self._receiver  # which refers to this scanner
        self._rest_at = 0
        self._rest = self._size = self._properties = self._frame = b""

    def hold_publishes(self, holding: bool) -> None:
        """From now on stop, `paused`, before the next basic.publish or frame of a content; or do so no more."""
        self._holding = holding
        self._start = b""

    def forget_channel(self, channel: int) -> None:
        """The channel is gone, and what was unfinished on it."""
        assembly = self._assemblies.pop(channel, None)
        if assembly is not None:
            self._assembly_bytes -= assembly.size

    # --- Runs -----------------------------------------------------------------------------------------------

    def _scan_run(self, buffer: bytes, pos: int, end: int) -> int:
        """Messages that begin as the last one did, up to the body size: that may differ. Returns where they end."""
        same_start, same_size, same_properties = self._start, self._size, self._properties
        size_at = len(same_start)
        properties_at = size_at + 8
        body_size_at = properties_at + len(same_properties)
        method_bytes = len(self._frame)
        body_bytes_max = min(self.message_bytes_max, self.frame_bytes_max)
        same_bytes = body_size_at + 4 + self._body_bytes + 1
        contents: list[bytes] = []
        content_bytes = 0
        while True:
            if buffer.startswith(same_size, pos + size_at):
                stop = pos + same_bytes
            elif buffer.startswith(same_properties, pos + properties_at):
                if end - pos < body_size_at + 4:
                    break
                (body_bytes,) = _U64.unpack_from(buffer, pos + size_at)
                (frame_bytes,) = _U32.unpack_from(buffer, pos + body_size_at)
                stop = pos + body_size_at + 4 + body_bytes + 1
                if body_bytes != frame_bytes or not 0 < body_bytes <= body_bytes_max:
                    break
            else:
                break
            if stop > end or buffer[stop - 1] != FRAME_END:
                break
            contents.append(buffer[pos + method_bytes : stop])
            content_bytes += stop - pos - method_bytes
            pos = stop
            if not buffer.startswith(same_start, pos):
                break
        if contents:
            self._receiver.on_publish(self._channel, self._frame, contents, content_bytes)
            return pos
        return self._scan_unlike(buffer, pos, end)

    def _scan_unlike(self, buffer: bytes, pos: int, end: int) -> int:
        """Messages on the last one's channel, whatever else is different. Returns where they end."""
        method_start = _CHANNEL_HEAD.pack(FRAME_METHOD, self._channel)
        header_start = _CHANNEL_HEAD.pack(FRAME_HEADER, self._channel)
        body_start = _CHANNEL_HEAD.pack(FRAME_BODY, self._channel)
        body_bytes_max: i64 = min(self.message_bytes_max, self.frame_bytes_max)
        size_max: i64 = min(self.frame_bytes_max, 0xFFFF)
        limit: i64 = end
        at: i64 = pos
        before = body_at = body_bytes = at
        frame = self._frame
        frames: list[bytes] = []
        contents: list[bytes] = []
        while limit - at >= _PUBLISH_BYTES_MIN:
            if not buffer.startswith(frame, at):
                if buffer[at : at + 3] != method_start or buffer[at + 7 : at + 11] != _PUBLISH_IDS:
                    break
                method_end = at + 8 + read_u32(buffer, at + 3)
                if method_end > at + size_max or method_end > limit or buffer[method_end - 1] != FRAME_END:
                    break
                frame = buffer[at:method_end]
            head = at + len(frame)
            if limit - head < _CONTENT_BYTES_MIN or buffer[head : head + 3] != header_start:
                break
            size = read_u32(buffer, head + 3)
            if not _HEADER_PAYLOAD_MIN <= size <= size_max or buffer[head + 7 : head + 15] != _CONTENT_HEAD_FIXED:
                break
            announced = read_u32(buffer, head + 15)
            seam = head + 7 + size
            stop = seam + 9 + announced
            if not 0 < announced <= body_bytes_max or stop > limit:
                break
            if (
                buffer[seam] != FRAME_END
                or buffer[seam + 1 : seam + 4] != body_start
                or read_u32(buffer, seam + 4) != announced
                or buffer[stop - 1] != FRAME_END
            ):
                break
            frames.append(frame)
            contents.append(buffer[head:stop])
            before, at = at, stop
            body_at, body_bytes = seam + 1, announced
        if not contents:
            return self._scan_frame(buffer, pos, end)
        self._frame = frames[-1]
        self._remember(buffer, before, body_at, body_bytes)
        self._receiver.on_publish_unlike(self._channel, frames, contents)
        return at

    def _remember(self, buffer: bytes, pos: int, body_at: int, body_bytes: int) -> None:
        """What to compare the next messages with: the one that begins at `pos`, its body frame at `body_at`."""
        body_size_at = pos + len(self._frame) + _BODY_SIZE_AT
        self._start = buffer[pos:body_size_at]
        self._size = buffer[body_size_at : body_at + 7]
        self._properties = buffer[body_size_at + 8 : body_at + 3]
        self._body_bytes = body_bytes

    def _scan_acks(self, buffer: bytes, pos: int, end: int) -> int:
        head = self._ack_head
        channel = self._ack_channel
        tags: list[int] = []
        while end - pos >= _ACK_BYTES and buffer.startswith(head, pos):
            tag, multiple, frame_end = _ACK_TAIL.unpack_from(buffer, pos + _ACK_HEAD_BYTES)
            if frame_end != FRAME_END:
                break
            pos += _ACK_BYTES
            if multiple & 1:
                if tags:
                    self._receiver.on_acks(channel, tags)
                    tags = []
                self._receiver.on_ack_multiple(channel, tag)
                if self.paused:
                    return pos
            else:
                tags.append(tag)
        if tags:
            self._receiver.on_acks(channel, tags)
            return pos
        if end - pos >= _ACK_BYTES and buffer.startswith(head, pos):
            raise WireError(FRAME_ERROR, "a frame does not end with the frame-end octet")
        return pos

    # --- Single frames --------------------------------------------------------------------------------------

    def _scan_frame(self, buffer: bytes, pos: int, end: int) -> int:
        """One frame, or one publish and its content when all of it is there. Returns `pos` when bytes are missing."""
        kind, channel, size = _HEAD.unpack_from(buffer, pos)
        stop: int = pos + size + FRAME_OVERHEAD_BYTES
        if size > self.frame_bytes_max:
            raise WireError(
                FRAME_ERROR,
                f"type {kind}, all octets = {size}: frame too large, {stop - pos} bytes > {self.frame_bytes_max}",
            )
        if stop > end:
            return pos
        if buffer[stop - 1] != FRAME_END:
            raise WireError(FRAME_ERROR, "a frame does not end with the frame-end octet")
        if self._closing:
            self._scan_closing(buffer, pos, stop)
            return stop
        if self._holding and (kind in (FRAME_HEADER, FRAME_BODY) or buffer.startswith(_PUBLISH_IDS, pos + 7)):
            self.paused = True
            self._receiver.on_publish_held()
            return pos
        if kind == FRAME_METHOD:
            return self._scan_method(buffer, pos, stop, end, channel, size)
        if kind == FRAME_HEADER:
            self._take_header(channel, buffer[pos:stop])
        elif kind == FRAME_BODY:
            self._take_body(channel, buffer[pos:stop], size)
        elif kind == FRAME_HEARTBEAT:
            if channel != 0:
                raise WireError(UNEXPECTED_FRAME, f"heartbeat on channel {channel}")
            if size:
                raise WireError(FRAME_ERROR, "a heartbeat with a payload")
        else:
            raise WireError(FRAME_ERROR, f"unknown frame type {kind}")
        return stop

    def _scan_closing(self, buffer: bytes, pos: int, stop: int) -> None:
        """Of what comes after our connection.close, only its answer matters, or the peer's own."""
        if stop - pos >= FRAME_OVERHEAD_BYTES + 4 and buffer.startswith(_CHANNEL_HEAD.pack(FRAME_METHOD, 0), pos):
            method = METHODS.get(_U32.unpack_from(buffer, pos + 7)[0])
            if method in (CONNECTION_CLOSE, CONNECTION_CLOSE_OK):
                self._receiver.on_method(0, method, buffer[pos + 7 : stop - 1])

    def _scan_method(self, buffer: bytes, pos: int, stop: int, end: int, channel: int, size: int) -> int:
        if size < 4:
            raise WireError(FRAME_ERROR, "a method frame without a method")
        assembly = self._assemblies.get(channel)
        if assembly is not None:
            if not assembly.skipped:
                raise _unexpected(assembly, "")
            self.forget_channel(channel)  # the peer was told that it is too large and does not send the rest
        (key,) = _U32.unpack_from(buffer, pos + 7)
        if key == BASIC_PUBLISH.key:
            return self._scan_publish(buffer, pos, stop, end, channel)
        method = METHODS.get(key)
        if method is None or method.has_content:
            raise WireError(COMMAND_INVALID, "unimplemented method", key >> 16, key & 0xFFFF)
        if method is BASIC_ACK and size == _ACK_BYTES - FRAME_OVERHEAD_BYTES:
            self._ack_head = buffer[pos : pos + _ACK_HEAD_BYTES]
            self._ack_channel = channel
            return self._scan_acks(buffer, pos, end)
        self._receiver.on_method(channel, method, buffer[pos + 7 : stop - 1])
        return stop

    def _scan_publish(self, buffer: bytes, pos: int, stop: int, end: int, channel: int) -> int:
        """The usual case: method, header and one body frame, all there. Else the content is assembled, or waited
        for when it is small and nothing else has come in between."""
        if end - stop < _CONTENT_HEAD.size:
            awaited = _HEAD.pack(FRAME_HEADER, channel, 0)[: min(3, end - stop)]
            size = _HEAD.unpack_from(buffer, stop)[2] if end - stop >= _HEAD.size else _HEADER_PAYLOAD_MIN
            if buffer.startswith(awaited, stop) and _HEADER_PAYLOAD_MIN <= size <= self.frame_bytes_max:
                return pos
        else:
            kind, header_channel, size, class_id, weight, body_bytes = _CONTENT_HEAD.unpack_from(buffer, stop)
            body_at: int = stop + size + FRAME_OVERHEAD_BYTES
            content_end: int = body_at + body_bytes + FRAME_OVERHEAD_BYTES
            if (
                kind == FRAME_HEADER
                and header_channel == channel
                and size >= _HEADER_PAYLOAD_MIN
                and class_id == BASIC_CLASS_ID
                and weight == 0
                and 0 < body_bytes <= self.message_bytes_max
                and body_bytes <= self.frame_bytes_max
                and size <= self.frame_bytes_max
            ):
                # The header frame's end and the body frame's head, as far as they are there.
                seam = bytes((FRAME_END,)) + _HEAD.pack(FRAME_BODY, channel, body_bytes)
                if not buffer.startswith(seam[: max(0, end - body_at + 1)], body_at - 1):
                    pass
                elif content_end > end:
                    if content_end - pos <= _AWAITED_BYTES_MAX:
                        return pos
                elif buffer[content_end - 1] == FRAME_END:
                    self._channel = channel
                    self._frame = buffer[pos:stop]
                    self._remember(buffer, pos, body_at, body_bytes)
                    content = buffer[stop:content_end]
                    self._receiver.on_publish(channel, self._frame, [content], content_end - stop)
                    return content_end
        # What would be a run on this channel is an error now.
        self._start = self._ack_head = b""
        assembly = self._assemblies[channel] = _Assembly(buffer[pos:stop])
        self._count(assembly, stop - pos)
        return stop

    # --- Contents in pieces ---------------------------------------------------------------------------------

    def _take_header(self, channel: int, frame: bytes) -> None:
        assembly = self._assemblies.get(channel)
        if assembly is None or assembly.left != -1:
            raise _unexpected(assembly, "")
        if len(frame) < _HEADER_PAYLOAD_MIN + FRAME_OVERHEAD_BYTES:
            raise WireError(FRAME_ERROR, "content header too short")
        _, _, _, class_id, weight, body_bytes = _CONTENT_HEAD.unpack_from(frame)
        if weight:  # §4.2.6.1 wants zero; RabbitMQ does not see a header in anything else
            raise _unexpected(assembly, "")
        if class_id != BASIC_CLASS_ID:
            raise _unexpected(assembly, f"one for class {class_id}")
        assembly.left = body_bytes
        if body_bytes > self.message_bytes_max:
            assembly.skipped = True
            self._receiver.on_oversized(channel, body_bytes)
            if channel not in self._assemblies:
                return
        self._keep(assembly, frame)
        if not body_bytes:
            self._complete(channel, assembly)

    def _take_body(self, channel: int, frame: bytes, size: int) -> None:
        assembly = self._assemblies.get(channel)
        if assembly is None or assembly.left == -1 or size > assembly.left:
            raise _unexpected(assembly, "")
        assembly.left -= size
        if size:
            self._keep(assembly, frame)
        if not assembly.left:
            self._complete(channel, assembly)

    def _keep(self, assembly: _Assembly, frame: bytes) -> None:
        if assembly.skipped:
            return
        assembly.pieces.append(frame)
        self._count(assembly, len(frame))

    def _count(self, assembly: _Assembly, frame_bytes: int) -> None:
        assembly.size += frame_bytes + _PIECE_OVERHEAD_BYTES
        self._assembly_bytes += frame_bytes + _PIECE_OVERHEAD_BYTES
        if self._assembly_bytes > self.assembly_bytes_max:
            raise WireError(
                RESOURCE_ERROR,
                f"more than {self.assembly_bytes_max} bytes of unfinished contents on one connection",
            )

    def _complete(self, channel: int, assembly: _Assembly) -> None:
        self.forget_channel(channel)
        if not assembly.skipped:
            content = b"".join(assembly.pieces)
            assembly.pieces.clear()
            self._receiver.on_publish(channel, assembly.frame, [content], len(content))


def _unexpected(assembly: _Assembly | None, got: str) -> WireError:
    """A frame that must not follow what came before on its channel (§4.2.6), in RabbitMQ's words."""
    if assembly is None:
        return WireError(UNEXPECTED_FRAME, "expected method frame, got non method frame instead")
    if assembly.left == -1:
        got = got or "non content header frame"
        text = f"expected content header for class {BASIC_CLASS_ID}, got {got} instead"
    else:
        text = "expected content body, got non content body frame instead"
    return WireError(UNEXPECTED_FRAME, text, BASIC_PUBLISH.class_id, BASIC_PUBLISH.method_id)
