"""Messages over HTTP: publish to an exchange, get from a queue."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.management import exchanges, fields, queues
from pabal.management.call import Answer, ApiError, Call, Work, bad_request
from pabal.management.encoding import encode, plain
from pabal.management.faults import as_message_error
from pabal.management.listing import Columns, Facts
from pabal.management.routes import Route, Who
from pabal.model.errors import BrokerError
from pabal.model.limits import HTTP_GET_BYTES_MAX, HTTP_GET_MESSAGES_MAX
from pabal.model.message import Message, Outcome


class Getter(Consumer):
    """Takes what it asks for, and holds it until it is settled; what it does not know of any more is settled by
    somebody else (lease over, queue gone)."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue, "", False, False)
        self.held: dict[int, Message] = {}

    def room(self) -> int:
        return 0

    def deliver(self, messages: list[Message]) -> None:
        for message in messages:
            message.delivery = message.position
            self.held[message.position] = message

    def revoked(self, message: Message) -> None:
        self.held.pop(message.position, None)

    def cancelled(self) -> None:
        pass

    def settle(self, outcome: Outcome) -> None:
        messages, self.held = list(self.held.values()), {}
        if messages:
            self.queue.settle(messages, self, outcome)


_OUTCOMES: Final = {
    "ack_requeue_true": Outcome.RELEASE,
    "reject_requeue_true": Outcome.RELEASE,
    "ack_requeue_false": Outcome.ACCEPT,
    "reject_requeue_false": Outcome.REJECT,
}


def get(call: Call) -> Work:
    """What is not to be put back is settled when the answer has gone out; should the client be gone by then, it goes
    back too. Nothing of it waits for the disk: taking messages is what makes room on a full one."""
    queue = queues.find(call)
    body = call.json("ackmode", "count", "encoding")
    outcome = _OUTCOMES.get(body["ackmode"]) if isinstance(body["ackmode"], str) else None
    if outcome is None:
        raise bad_request(f"ackmode should be one of {', '.join(_OUTCOMES)}")
    count = fields.whole("count", body["count"])
    if not 0 <= count <= HTTP_GET_MESSAGES_MAX:
        raise bad_request(f"count should be 0 to {HTTP_GET_MESSAGES_MAX}")
    if body["encoding"] not in ("auto", "base64"):
        raise bad_request("Unsupported encoding. Please use auto or base64.")
    most = None if body.get("truncate") is None else max(0, fields.whole("truncate", body["truncate"]))
    try:
        call.rights(queue.vhost).get(queue.name)
        queue = queue.vhost.queue(queue.name)
    except BrokerError as error:
        raise as_message_error(error) from None
    getter = Getter(queue)
    encoded: list[bytes] = []
    columns = Columns(call.query.get("columns"))
    try:
        size = 0
        while len(encoded) < count and size < HTTP_GET_BYTES_MAX and not queue.deleted:
            message = queue.get(getter)
            if message is None:
                break
            size += len(message.content)
            facts = shown(call, queue, message, body["encoding"] == "auto", most)
            facts["message_count"] = queue.ready
            encoded.append(encode(columns.of(facts)))
            yield None
    except BaseException:  # also when nobody asks for the rest
        getter.settle(Outcome.RELEASE)
        raise
    content = b"[" + b",".join(encoded) + b"]"
    if outcome is Outcome.RELEASE:
        getter.settle(outcome)
        return Answer(content=content)
    settled = outcome
    return Answer(content=content, after=lambda arrived: getter.settle(settled if arrived else Outcome.RELEASE))


def shown(call: Call, queue: Queue, message: Message, auto: bool, most: int | None) -> Facts:
    """`auto`: a payload that is UTF-8 as text, not in base64. `most`: bytes of it to show."""
    payload = call.codec.body(message.content)
    attempts = message.attempts if queue.arguments.counts_attempts else 0
    properties = plain(call.codec.properties(message.content, attempts))
    facts: Facts = {
        "payload_bytes": len(payload),
        "redelivered": message.redelivered,
        "exchange": message.envelope.exchange,
        "routing_key": message.envelope.routing_key,
        "properties": properties or [],  # as RabbitMQ writes an empty one
    }
    if most is not None:
        payload = payload[:most]
    if auto:
        try:
            return {**facts, "payload": payload.decode(), "payload_encoding": "string"}
        except UnicodeDecodeError:
            pass
    return {**facts, "payload": base64.b64encode(payload).decode(), "payload_encoding": "base64"}


def publish(call: Call) -> Any:
    exchange = exchanges.find(call)
    vhost = call.vhost
    if call.broker.alarms:
        raise ApiError(503, "service_unavailable", f"publishers are blocked: low on {', '.join(call.broker.alarms)}")
    body = call.json("routing_key", "properties", "payload", "payload_encoding")
    payload = _payload(body["payload"], body["payload_encoding"])
    if len(payload) > call.node.message_bytes_max:
        raise bad_request(
            f"406 PRECONDITION_FAILED - message size {len(payload)} is larger than configured max size "
            f"{call.node.message_bytes_max}"
        )
    properties = fields.table("properties", body["properties"])
    properties = {name: value for name, value in properties.items() if value is not None}
    try:
        key = fields.short("routing key", body["routing_key"])
        envelope, content = call.codec.encode(exchange.name, key, properties, payload)
        rights = call.rights(vhost)
        rights.publish(exchange.name, key, envelope.copies)
        if "user_id" in properties:
            rights.claim_user_id(properties["user_id"])
        published = vhost.publish(envelope, [content], len(content))
    except BrokerError as error:
        raise as_message_error(error) from None
    if published.refused:
        raise bad_request("rejected Unable to publish message. Check queue limits.")
    return {"routed": not published.unroutable}


def _payload(value: Any, encoding: Any) -> bytes:
    if not isinstance(value, str):
        raise bad_request("payload_not_string")
    if encoding == "string":
        return fields.text("payload", value).encode()
    if encoding != "base64":
        raise bad_request(["unsupported_encoding", encoding])
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        raise ApiError(400, "bad_request", ["not_base64", value[:100]]) from None


_PUBLISH: Final = "routing_key: string; properties: object; payload: string; payload_encoding: string or base64"
_GET: Final = "count: integer; ackmode: ack_requeue_true …; encoding: auto or base64; truncate: integer"

ROUTES: Final = (
    Route("POST", "/api/exchanges/{vhost}/{exchange}/publish", Who.VHOST, publish, "Publishes a message.", _PUBLISH),
    Route("POST", "/api/queues/{vhost}/{queue}/get", Who.VHOST, get, "Takes messages from a queue.", _GET, asks=True),
)
