"""Deliveries: consumers of an AMQP 0-9-1 channel, and the frames that carry messages to them."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.model.limits import DISPATCH_MESSAGES_MAX
from pabal.model.message import Envelope, Message
from pabal.session.amqp091.container import with_delivery_count
from pabal.wire.amqp091.content import refit
from pabal.wire.amqp091.fields import encode_shortstr
from pabal.wire.amqp091.methods import (
    BASIC_CANCEL,
    BASIC_DELIVER,
    BASIC_GET_OK,
    FRAME_END,
    FRAME_HEADER,
    FRAME_METHOD,
    encode_method,
)

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel

_HEAD: Final = Struct(">BHIHH")
_CONTENT_START: Final = Struct(">BH")
_FRAME_END: Final = bytes((FRAME_END,))
_TAG_AND_FLAG: Final = Struct(">QB")
_COUNT_AND_END: Final = Struct(">IB")
_JOINED_BYTES_MAX: Final = 16_384
"""Smaller contents are copied into one write; larger ones are handed to the socket as they are."""


def _encoded_address(envelope: Envelope) -> bytes:
    """Exchange and routing key, as basic.deliver and basic.get-ok have them."""
    if not envelope.encoded_address:
        envelope.encoded_address = encode_shortstr(envelope.exchange) + encode_shortstr(envelope.routing_key)
    return envelope.encoded_address


class Revoked:
    """Stands among the unsettled deliveries of a channel for one whose lease ran out."""

    __slots__ = ("consumer",)

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer


class ChannelConsumer(Consumer):
    """A consumer made by basic.consume."""

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        tag: str,
        auto_settle: bool,
        exclusive: bool,
        prefetch: int,
        priority: int,
        arguments: dict[str, Any],
    ) -> None:
        super().__init__(queue, tag, auto_settle, exclusive, priority)
        self.channel = channel
        self.counters = channel.counters
        self.home = channel
        self.prefetch = prefetch
        if arguments:
            self.table = arguments
        self._content_start = _CONTENT_START.pack(FRAME_HEADER, channel.number)
        self._envelope: Envelope | None = None  # of the last message
        self._before_tag = b""
        self._after_flag = b""
        self._method_frame = Struct("")

    def room(self) -> int:
        channel = self.channel
        if channel.output.congested:
            return 0
        if self.auto_settle:
            return DISPATCH_MESSAGES_MAX
        if self.prefetch:
            room = self.prefetch - self.unsettled
        else:  # without a limit of its own, it must not be given the same messages at the end of each lease
            room = 0 if self.overdue else DISPATCH_MESSAGES_MAX
        if channel.prefetch:
            room = min(room, channel.prefetch - channel.unsettled())
        return room

    def deliver(self, messages: list[Message]) -> None:
        channel = self.channel
        output = channel.output
        tag = channel.last_delivery
        frame_bytes_max = channel.session.frame_bytes_max
        unsettled = None if self.auto_settle else channel.unsettled_deliveries
        start = self._content_start
        before, after, pack = self._before_tag, self._after_flag, self._method_frame.pack
        envelope = self._envelope
        chunks: list[bytes] = []
        for message in messages:
            tag += 1
            if message.envelope is not envelope:
                envelope = message.envelope
                self._encode_around(envelope)
                before, after, pack = self._before_tag, self._after_flag, self._method_frame.pack
            content = message.content
            if message.attempts and self.queue.arguments.counts_attempts:
                content = with_delivery_count(content, message.attempts)
            if len(content) > frame_bytes_max or not content.startswith(start):
                content = refit(content, channel.number, frame_bytes_max)
            chunks.append(pack(before, tag, message.redelivered, after))
            chunks.append(content)
            if unsettled is not None:
                message.delivery = tag
                unsettled[tag] = message
            if len(content) > _JOINED_BYTES_MAX:
                last = chunks.pop()
                output.write_delivery(b"".join(chunks))
                output.write_delivery(last)
                chunks = []
        channel.last_delivery = tag
        if chunks:
            output.write_delivery(b"".join(chunks))

    def _encode_around(self, envelope: Envelope) -> None:
        """The basic.deliver frame but for delivery tag and redelivered: the same for all messages of an envelope."""
        tag = encode_shortstr(self.tag)
        address = _encoded_address(envelope)
        method = BASIC_DELIVER
        size = 4 + len(tag) + _TAG_AND_FLAG.size + len(address)
        head = _HEAD.pack(FRAME_METHOD, self.channel.number, size, method.class_id, method.method_id)
        self._before_tag = head + tag
        self._after_flag = address + _FRAME_END
        self._method_frame = Struct(f">{len(self._before_tag)}sQB{len(self._after_flag)}s")
        self._envelope = envelope

    def revoked(self, message: Message) -> None:
        self.channel.revoke(message.delivery, self)

    def cancelled(self) -> None:
        self.channel.forget(self)
        if self.channel.session.wants_cancel_notify:
            self.channel.output.write_notice(encode_method(self.channel.number, BASIC_CANCEL, self.tag, True))


class GetConsumer(Consumer):
    """Takes one message for each basic.get, and holds them until they are settled."""

    def __init__(self, channel: Channel, queue: Queue, auto_settle: bool) -> None:
        super().__init__(queue, "", auto_settle, False)
        self.channel = channel
        self.counters = channel.counters
        self.asked = True
        self._envelope: Envelope | None = None
        self._before_tag = b""
        self._address = b""

    def room(self) -> int:
        return 0

    def deliver(self, messages: list[Message]) -> None:
        channel = self.channel
        for message in messages:
            channel.last_delivery += 1
            tag = channel.last_delivery
            if message.envelope is not self._envelope:
                self._encode_around(message.envelope)
            content = message.content
            if message.attempts and self.queue.arguments.counts_attempts:
                content = with_delivery_count(content, message.attempts)
            content = refit(content, channel.number, channel.session.frame_bytes_max)
            count = min(self.queue.ready, 2**32 - 1)
            around = (
                self._before_tag,
                _TAG_AND_FLAG.pack(tag, message.redelivered),
                self._address,
                _COUNT_AND_END.pack(count, FRAME_END),
            )
            if len(content) <= _JOINED_BYTES_MAX:
                channel.output.write(b"".join((*around, content)))
            else:
                channel.output.write(b"".join(around))
                channel.output.write(content)
            if not self.auto_settle:
                message.delivery = tag
                channel.unsettled_deliveries[tag] = message

    def _encode_around(self, envelope: Envelope) -> None:
        """The basic.get-ok frame but for delivery tag, redelivered and message count."""
        self._address = _encoded_address(envelope)
        method = BASIC_GET_OK
        size = 4 + _TAG_AND_FLAG.size + len(self._address) + 4
        self._before_tag = _HEAD.pack(FRAME_METHOD, self.channel.number, size, method.class_id, method.method_id)
        self._envelope = envelope

    def revoked(self, message: Message) -> None:
        self.channel.revoke(message.delivery, self)

    def cancelled(self) -> None:
        pass
