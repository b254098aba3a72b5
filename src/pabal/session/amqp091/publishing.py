"""Publishing on a channel: from basic.publish frames to the broker, returns and confirms back."""

from __future__ import annotations

import re
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final, cast

from pabal.model.arguments import type_name
from pabal.model.limits import ARGUMENT_MS_MAX
from pabal.model.message import Envelope
from pabal.session.amqp091.container import without_blind_copies
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.replies import REPLY_LENGTH, wants_reply, with_reply_address
from pabal.wire.amqp091.content import decode_properties, scan_properties, set_channel
from pabal.wire.amqp091.errors import NO_ROUTE, NOT_IMPLEMENTED, PRECONDITION_FAILED, REPLY_NAMES, WireError
from pabal.wire.amqp091.methods import (
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_RETURN,
    decode_arguments,
    encode_ack,
    encode_method,
)

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel
    from pabal.session.amqp091.transaction import Transaction

_U32: Final = Struct(">I")
_TARGETS_MAX: Final = 4096
"""Of a connection, all its channels together: one may well publish to a thousand queues in turn."""
_ENVELOPES_MAX: Final = 16
_PROPERTIES_CACHED_BYTES_MAX: Final = 256
_FLAGS_AT: Final = 19
_CC: Final = b"\x02CC"
_BCC: Final = b"\x03BCC"


class Target:
    """What one basic.publish frame says, and the envelopes of the properties last seen with it. `changes`: among
    its messages are some whose contents do not go on as they came, so each is to be looked at."""

    __slots__ = ("changes", "envelopes", "exchange", "mandatory", "routing_key")

    def __init__(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.changes = False
        self.envelopes: dict[bytes, Envelope] = {}


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
        self._refused: deque[int] = deque()

    def publish(self, frame: bytes, contents: list[bytes], content_bytes: int) -> None:
        """Takes contents that follow the same frame and have the same properties."""
        target = self._targets.get(frame)
        if target is None:
            target = self._read_target(frame)
        first = contents[0]
        properties = first[_FLAGS_AT : 7 + _U32.unpack_from(first, 3)[0]]
        envelope = target.envelopes.get(properties)
        if envelope is None:
            envelope = self._read_envelope(target, properties)
        if target.changes:
            contents = self._changed(envelope, properties, contents)
            content_bytes = sum(map(len, contents))
        if self.transaction is not None:
            self.transaction.publish(envelope, target.mandatory, contents, content_bytes)
            return
        published = self._channel.vhost.publish(envelope, contents, content_bytes)
        if published.unroutable and target.mandatory:
            for index in published.unroutable:
                self.send_back(envelope, contents[index])
        if self.confirming:
            if published.refused:
                self._refused.extend(self.sequence + 1 + index for index in published.refused)
            self.sequence += len(contents)
            self._channel.broker.await_durable(self._channel, self.sequence)

    def _read_target(self, frame: bytes) -> Target:
        arguments = decode_arguments(BASIC_PUBLISH, frame[7:-1])
        exchange, routing_key, mandatory, immediate = cast("tuple[str, str, bool, bool]", arguments)
        if immediate:
            raise WireError(NOT_IMPLEMENTED, "immediate=true")
        if len(self._targets) >= _TARGETS_MAX:
            self._targets.clear()
        target = self._targets[frame] = Target(exchange, routing_key, mandatory)
        return target

    def _read_envelope(self, target: Target, properties: bytes) -> Envelope:
        scan = scan_properties(properties)
        if scan.has_headers:
            decode_properties(properties)  # what no consumer could read is refused here, not by each of them
        session = self._channel.session
        if scan.user_id is not None and scan.user_id != session.user:
            raise ChannelFault(
                PRECONDITION_FAILED,
                f"user_id property set to '{scan.user_id}' but authenticated user was '{session.user}'",
            )
        ttl_ms = None if scan.expiration is None else _read_expiration(scan.expiration)
        copies: tuple[str, ...] = ()
        if scan.has_headers and (_CC in properties or _BCC in properties):
            copies = _read_copies(properties)
        envelope = Envelope(
            target.exchange,
            target.routing_key,
            scan.delivery_mode == 2,
            ttl_ms,
            session.container,
            copies,
            scan.priority,
        )
        if copies or (REPLY_LENGTH in properties and wants_reply(properties)):
            target.changes = True
        if len(properties) <= _PROPERTIES_CACHED_BYTES_MAX:
            if len(target.envelopes) >= _ENVELOPES_MAX:
                target.envelopes.clear()
            target.envelopes[properties] = envelope
        return envelope

    def _changed(self, envelope: Envelope, properties: bytes, contents: list[bytes]) -> list[bytes]:
        """Without the header that nobody is to see, and with the address of answers where one is asked for."""
        if wants_reply(properties):
            contents = with_reply_address(self._channel, contents)
        if envelope.copies:
            contents = [without_blind_copies(content) for content in contents]
        return contents

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
        number = self._channel.number
        if not self._refused:
            if upto > self._confirmed:
                self._channel.output.write(encode_ack(number, upto, upto > self._confirmed + 1))
                self._confirmed = upto
            return
        frames: list[bytes] = []
        while self._refused and self._refused[0] <= upto:
            refused = self._refused.popleft()
            self._acknowledge(refused - 1, frames)
            frames.append(encode_method(number, BASIC_NACK, refused, False, False))
            self._confirmed = refused
        self._acknowledge(upto, frames)
        if frames:
            self._channel.output.write(b"".join(frames))

    def _acknowledge(self, upto: int, frames: list[bytes]) -> None:
        if upto > self._confirmed:
            multiple = upto > self._confirmed + 1
            frames.append(encode_ack(self._channel.number, upto, multiple))
            self._confirmed = upto


def _read_copies(properties: bytes) -> tuple[str, ...]:
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


def _read_expiration(text: str) -> int:
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
