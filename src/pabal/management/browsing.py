"""Looking at the messages of a queue without taking them: /api/pabal/queues/VHOST/NAME/messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pabal.broker.queue import Queue
from pabal.management import queues
from pabal.management.call import Answer, Call, Work, bad_request
from pabal.management.encoding import encode
from pabal.management.faults import as_message_error
from pabal.management.listing import Columns, Facts
from pabal.management.messages import shown
from pabal.management.routes import Route, Who
from pabal.model.errors import BrokerError
from pabal.model.limits import HTTP_GET_BYTES_MAX
from pabal.model.message import Message

COUNT_MAX: Final = 1000
SCANNED_MAX: Final = 100_000
"""Messages that one request looks at; it says where the next is to go on."""
_STEP: Final = 64
_HEADER: Final = "header."
_PROPERTY: Final = "property."


class Filter:
    """What a query asks for: `header.NAME=VALUE`, `property.NAME=VALUE`, `routing_key=…`, `exchange=…`, `body=…`.
    All of them must be so. Values are compared as text, that of `body` is to be found anywhere in it."""

    def __init__(self, call: Call) -> None:
        query = call.query
        self._codec = call.codec
        self._headers = _named(query, _HEADER)
        self._properties = _named(query, _PROPERTY)
        self._routing_key = query.get("routing_key")
        self._exchange = query.get("exchange")
        self._body = query["body"].encode("utf-8", "surrogateescape") if "body" in query else None

    def matches(self, message: Message) -> bool:
        envelope = message.envelope
        if self._routing_key not in (None, envelope.routing_key) or self._exchange not in (None, envelope.exchange):
            return False
        if self._headers or self._properties:
            properties = self._codec.properties(message.content)
            headers = properties.get("headers")
            if not _has(properties, self._properties):
                return False
            if not _has(headers if isinstance(headers, dict) else {}, self._headers):
                return False
        return self._body is None or self._body in self._codec.body(message.content)


def _named(query: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in query.items() if name.startswith(prefix)}


def _has(values: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return all(name in values and _as_text(values[name]) == text for name, text in wanted.items())


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def browse(call: Call) -> Work:
    """Those that are ready, in their order. `after`: only behind this position; `offset`: leave out so many of those
    that match; `count`: at most so many. `next` in the answer is for `after`, null at the end."""
    queue = queues.find(call)
    try:
        call.rights(queue.vhost).get(queue.name)
        queue.vhost.queue(queue.name)
    except BrokerError as error:
        raise as_message_error(error) from None
    after, offset = _number(call, "after", -1, None), _number(call, "offset", 0, None)
    count, most = _number(call, "count", 20, COUNT_MAX), _number(call, "truncate", -1, None)
    auto = call.query.get("encoding", "auto") == "auto"
    wanted, columns = Filter(call), Columns(call.query.get("columns"))
    encoded: list[bytes] = []
    scanned = size = 0
    more = True
    while more and scanned < SCANNED_MAX and len(encoded) < count and size < HTTP_GET_BYTES_MAX:
        found = [] if queue.deleted else queue.backlog.browse(after, _STEP)
        more = bool(found)
        for message in found:
            after, scanned = message.position, scanned + 1
            if wanted.matches(message):
                if offset:
                    offset -= 1
                else:
                    encoded.append(encode(columns.of(_facts(call, queue, message, auto, None if most < 0 else most))))
                    size += len(message.content)
                    if len(encoded) == count or size >= HTTP_GET_BYTES_MAX:
                        break
        yield None
    ends = {"ready": queue.ready, "scanned": scanned, "next": after if more else None}
    return Answer(content=encode(ends)[:-1] + b',"messages":[' + b",".join(encoded) + b"]}")


def _number(call: Call, name: str, otherwise: int, most: int | None) -> int:
    text = call.query.get(name)
    if text is None:
        return otherwise
    if not text.removeprefix("-").isdecimal() or len(text) > 20:
        raise bad_request(f"{name} should be a whole number")
    value = int(text)
    if value < -1 or (most is not None and value > most):
        raise bad_request(f"{name} should be 0 to {most}" if most is not None else f"{name} is out of range")
    return value


def _facts(call: Call, queue: Queue, message: Message, auto: bool, most: int | None) -> Facts:
    return {
        "position": message.position,
        "attempts": message.attempts,
        "expires_at": message.expires_at_ms or None,
        "priority": message.envelope.container.priority(message.content),
        "persistent": message.envelope.persistent,
        **shown(call, queue, message, auto, most),
    }


ROUTES: Final = (
    Route(
        "GET",
        "/api/pabal/queues/{vhost}/{queue}/messages",
        Who.VHOST,
        browse,
        "Shows ready messages, takes none: ?count, ?offset, ?after, ?header.NAME, ?property.NAME, ?body, ?truncate.",
    ),
)
