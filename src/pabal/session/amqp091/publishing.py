"""Publishing on a channel: from basic.publish frames to the broker, returns and confirms back."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from pabal.model.arguments import type_name
from pabal.model.limits import ARGUMENT_MS_MAX
from pabal.model.message import Envelope
from pabal.session.amqp091.container import without_blind_copies
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.replies import wants_reply, with_reply_address
from pabal.wire.amqp091.content import (
    SPECIAL,
    Scan,
    check_headers,
    decode_properties,
    plain_properties,
    property_bytes,
    scan_properties,
    set_channel,
)
from pabal.wire.amqp091.errors import NO_ROUTE, NOT_IMPLEMENTED, PRECONDITION_FAILED, REPLY_NAMES, WireError
from pabal.wire.amqp091.methods import (
    BASIC_NACK,
    BASIC_RETURN,
    decode_publish,
    encode_ack,
    encode_method,
)

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel
    from pabal.session.amqp091.transaction import Transaction

_TARGETS_MAX: Final = 1024
"""Of a connection, all its channels together: one may well publish to a thousand queues in turn."""
_PLAIN_MAX: Final = 16
_SPECIAL_MAX: Final = 4
_CC: Final = b"\x02CC"
_BCC: Final = b"\x03BCC"


class Target:
    """What one basic.publish frame says, and the envelopes of messages seen with it: `plain`, by what
    `plain_properties` says of them; `special`, of others, by all that matters of their properties."""

    __slots__ = ("exchange", "mandatory", "plain", "routing_key", "special")

    def __init__(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.plain: dict[int, Envelope] = {}
        self.special: dict[Scan, Envelope] = {}


class Publisher:
    """One channel's publishing. `confirming`: after confirm.select; then `sequence` counts what was published.
    `transaction`: after tx.select; then it holds what is published."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._targets = channel.session.targets
        self.confirming = False
        self.sequence = 0
        self.transaction: Transaction | None = None
        self._confirmed = 0
        self._refused: deque[int] | None = None  # made when it is needed: an empty one takes 760 bytes

    @property
    def unconfirmed(self) -> int:
        """Messages published that the client has not heard of yet."""
        return self.sequence - self._confirmed

    def publish(self, frame: bytes, contents: list[bytes], content_bytes: int) -> None:
        """Takes contents that follow the same frame and have the same properties."""
        target = self._target(frame)
        asked = plain_properties(contents[0])
        if asked == SPECIAL:
            envelope, changes = self._look_closely(target, contents[0])
            if changes:
                contents = [self._changed(envelope, content) for content in contents]
                content_bytes = sum(map(len, contents))
        else:
            envelope = self._plain_envelope(target, asked)
        self._publish(target, envelope, contents, content_bytes)

    def publish_unlike(self, frames: list[bytes], contents: list[bytes]) -> None:
        """Takes contents that follow a frame each. Those in a row that ask the same of the broker go on together."""
        if self.transaction is not None:
            for frame, content in zip(frames, contents, strict=True):
                self.publish(frame, [content], len(content))
            return
        together: list[bytes] = []
        together_bytes = 0
        frame = frames[0]
        its_target = target = self._target(frame)
        envelope: Envelope | None = None
        last = SPECIAL
        try:
            for index, content in enumerate(contents):
                asked = plain_properties(content)
                if asked != last or asked == SPECIAL or frames[index] is not frame:
                    if frames[index] is not frame:
                        frame = frames[index]
                        its_target = self._target(frame)
                    last = asked
                    if asked == SPECIAL:
                        its_envelope, changes = self._look_closely(its_target, content)
                        if changes:
                            content = self._changed(its_envelope, content)
                    else:
                        its_envelope = self._plain_envelope(its_target, asked)
                    if its_envelope is not envelope:
                        if envelope is not None:
                            earlier, together = together, []
                            self._publish(target, envelope, earlier, together_bytes)
                        target, envelope, together_bytes = its_target, its_envelope, 0
                together.append(content)
                together_bytes += len(content)
        finally:
            if envelope is not None and together:
                self._publish(target, envelope, together, together_bytes)

    def _publish(self, target: Target, envelope: Envelope, contents: list[bytes], content_bytes: int) -> None:
        if self.transaction is not None:
            self.transaction.publish(envelope, target.mandatory, contents, content_bytes)
            return
        vhost = self._channel.vhost
        published = vhost.publish(envelope, contents, content_bytes)
        count = len(contents)
        self._channel.counters.publish += count
        if published.unroutable:
            self.count_unroutable(len(published.unroutable), target.mandatory)
            if target.mandatory:
                for index in published.unroutable:
                    self.send_back(envelope, contents[index])
        if self.confirming:
            vhost.counters.publish_confirming += count
            if published.refused:
                if self._refused is None:
                    self._refused = deque()
                self._refused.extend(self.sequence + 1 + index for index in published.refused)
            self.sequence += count
            self._channel.broker.await_durable(self._channel, self.sequence)

    def count_unroutable(self, count: int, returned: bool) -> None:
        for counters in (self._channel.counters, self._channel.vhost.counters):
            if returned:
                counters.return_unroutable += count
            else:
                counters.drop_unroutable += count

    def _target(self, frame: bytes) -> Target:
        target = self._targets.get(frame)
        if target is None:
            exchange, routing_key, mandatory, immediate = decode_publish(frame)
            if immediate:
                raise WireError(NOT_IMPLEMENTED, "immediate=true")
            self._channel.rights.publish(exchange, routing_key)  # not once a message: until the targets are cleared
            if len(self._targets) >= _TARGETS_MAX:
                self._targets.clear()
            target = self._targets[frame] = Target(exchange, routing_key, mandatory)
        return target

    def _plain_envelope(self, target: Target, asked: int) -> Envelope:
        """Of messages whose properties ask for no more than `plain_properties` says."""
        envelope = target.plain.get(asked)
        if envelope is None:
            if len(target.plain) >= _PLAIN_MAX:
                target.plain.clear()
            envelope = self._make_envelope(target, asked & 0xFF, asked >> 8)
            target.plain[asked] = envelope
        return envelope

    def _make_envelope(
        self, target: Target, mode: int, priority: int, ttl_ms: int | None = None, copies: tuple[str, ...] = ()
    ) -> Envelope:
        container = self._channel.session.container
        return Envelope(target.exchange, target.routing_key, mode == 2, ttl_ms, container, copies, priority)

    def _look_closely(self, target: Target, content: bytes) -> tuple[Envelope, bool]:
        """A message's envelope, and whether its content does not go on as it came. What no consumer could read is
        refused here, not by each of them."""
        properties = property_bytes(content)
        scan = scan_properties(properties)
        if scan.has_headers:
            check_headers(content)
        envelope = target.special.get(scan)
        if envelope is None:
            envelope = self._special_envelope(target, scan)
            if len(target.special) >= _SPECIAL_MAX:
                target.special.clear()
            target.special[scan] = envelope
        if scan.has_headers and (_CC in properties or _BCC in properties):
            copies = read_copies(properties)
            if copies:
                self._channel.rights.publish(target.exchange, target.routing_key, copies)
                mode, priority = scan.delivery_mode, scan.priority
                return self._make_envelope(target, mode, priority, envelope.ttl_ms, copies), True
        return envelope, wants_reply(properties)

    def _special_envelope(self, target: Target, scan: Scan) -> Envelope:
        if scan.user_id is not None:
            self._channel.rights.claim_user_id(scan.user_id)
        ttl_ms = None if scan.expiration is None else read_expiration(scan.expiration)
        return self._make_envelope(target, scan.delivery_mode, scan.priority, ttl_ms)

    def _changed(self, envelope: Envelope, content: bytes) -> bytes:
        """Without the header that nobody is to see, and with the address of answers where one is asked for."""
        if wants_reply(property_bytes(content)):
            content = with_reply_address(self._channel, content)
        return without_blind_copies(content) if envelope.copies else content

    def send_back(self, envelope: Envelope, content: bytes) -> None:
        """basic.return: published as mandatory, it reached no queue."""
        number = self._channel.number
        self._channel.output.write(
            encode_method(
                number, BASIC_RETURN, NO_ROUTE, REPLY_NAMES[NO_ROUTE], envelope.exchange, envelope.routing_key
            )
            + set_channel(content, number)
        )

    def confirm(self, upto: int) -> None:
        """All up to this sequence number are durable or refused: says so, in order, in as few frames as it takes."""
        while self._refused and self._refused[0] <= upto:
            refused = self._refused.popleft()
            self._acknowledge(refused - 1)
            self._channel.output.write(encode_method(self._channel.number, BASIC_NACK, refused, False, False))
            self._confirmed = refused
        self._acknowledge(upto)

    def _acknowledge(self, upto: int) -> None:
        if upto > self._confirmed:
            self._channel.output.write(encode_ack(self._channel.number, upto, upto > self._confirmed + 1))
            self._channel.counters.confirm += upto - self._confirmed
            self._channel.vhost.counters.confirm += upto - self._confirmed
            self._confirmed = upto


def read_copies(properties: bytes) -> tuple[str, ...]:
    """The routing keys in the headers CC and BCC, which are arrays of strings (RabbitMQ's sender-selected
    distribution)."""
    headers = decode_properties(properties).get("headers")
    copies: list[str] = []
    for name in ("CC", "BCC"):
        keys = headers.get(name) if isinstance(headers, dict) else None
        if isinstance(keys, list):
            copies += [key for key in keys if isinstance(key, str)]
        elif keys is not None:
            raise ChannelFault(
                PRECONDITION_FAILED,
                f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name(keys)}}}',
            )
    return tuple(copies)


def read_expiration(text: str) -> int:
    """Milliseconds in decimal digits; what else there is, is refused in RabbitMQ's words."""
    match = re.match(r"[+-]?[0-9]+", text)
    if match is None:
        reason = "no_integer"
    elif match.end() < len(text):
        reason = f'{{leftover_string,"{text[match.end() :]}"}}'
    elif int(text) > ARGUMENT_MS_MAX:
        reason = f"{{value_too_large,{text}}}"
    elif int(text) < 0:
        reason = f"{{value_negative,{text}}}"
    else:
        return int(text)
    raise ChannelFault(PRECONDITION_FAILED, f"invalid expiration '{text}': {reason}")
