"""Traces: spans of the messages that carry a trace's context, for OpenTelemetry.

What a message carries (the headers `traceparent` and `tracestate` of W3C Trace Context) goes on to its consumers as
it came; the broker's spans have it as their parent. A message without it is not traced, nor is one not sampled.
Names and attributes are those of OpenTelemetry's conventions for messaging, with RabbitMQ's additions.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pabal import __version__
from pabal.broker.broker import Broker
from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.model.limits import TRACED_MESSAGES_MAX, TRACES_FLUSH_SECONDS_MAX
from pabal.model.message import Container, Envelope, Message, Outcome

_CONTEXT: Final = ("traceparent", "tracestate")
_SETTLED: Final = {
    Outcome.ACCEPT: "ack",
    Outcome.REJECT: "reject",
    Outcome.RETURN: "requeue",
    Outcome.RELEASE: "requeue",
}
_PROPERTIES: Final = (
    ("message_id", "messaging.message.id"),
    ("correlation_id", "messaging.message.conversation_id"),
)


def open_provider() -> TracerProvider:
    """What sends spans where OpenTelemetry's variables say (OTEL_EXPORTER_OTLP_ENDPOINT and so on), on a thread of
    its own; those for which its queue has no room are lost. ValueError: a variable is not valid."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf is spoken here")
    resource = Resource.create({SERVICE_VERSION: __version__})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "pabal"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _Times(dict[Any, Any]):
    """Remembers a limited number of things, the latest ones."""

    def remember(self, key: Any, value: Any) -> None:
        self.pop(key, None)
        if len(self) >= TRACED_MESSAGES_MAX:
            del self[next(iter(self))]
        self[key] = value


class MessageTraces:
    """See broker.observer.Observer. Three spans of each message: `publish`, until it is durable; `deliver` (or
    `get`), from when it was published or came back until it is handed over; `ack` (or `reject`, `requeue`), from then
    until it is settled. When it was published is known of the last TRACED_MESSAGES_MAX of this run of the broker; of
    others the second span begins where it ends."""

    def __init__(self, broker: Broker, provider: TracerProvider) -> None:
        self._broker = broker
        self._provider = provider
        self._tracer = provider.get_tracer("pabal", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._log = logging.getLogger("pabal")
        self._published = _Times()  # since when a content waits, by its hash: it may have been on disk meanwhile
        self._returned = _Times()  # the same of one that came back, by queue and position
        self._leased = (
            _Times()
        )  # of one that is with a consumer: since when, its attributes, and whose trace it is of
        self._unconfirmed: deque[tuple[int, Span]] = deque()
        self._count = 0

    def published(self, vhost: str, envelope: Envelope, contents: list[bytes]) -> None:
        try:
            self._publish(vhost, envelope, contents)
        except Exception as error:
            self._failed(error)

    def delivered(self, queue: Queue, consumer: Consumer, messages: list[Message]) -> None:
        try:
            for message in messages:
                self._deliver(queue, consumer, message)
        except Exception as error:
            self._failed(error)

    def settled(self, queue: Queue, messages: list[Message], outcome: Outcome) -> None:
        try:
            if self._leased:
                for message in messages:
                    self._settle(queue, message, outcome)
        except Exception as error:
            self._failed(error)

    def durable(self, upto: int) -> None:
        """See broker.Waiter."""
        now = time.time_ns()
        while self._unconfirmed and self._unconfirmed[0][0] <= upto:
            self._unconfirmed.popleft()[1].end(now)

    def stop(self) -> None:
        """Sends what is left, if that does not take long."""
        self._broker.observer = None
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(TRACES_FLUSH_SECONDS_MAX)

    def _failed(self, error: Exception) -> None:
        """An error of ours here is no reason to end a connection."""
        self._log.error("tracing is off after an internal error", exc_info=error)
        self._broker.observer = None

    # --- Spans ----------------------------------------------------------------------------------------------

    def _publish(self, vhost: str, envelope: Envelope, contents: list[bytes]) -> None:
        before = self._count
        for content in contents:
            parent = self._parent(envelope.container, content)
            if parent is None:
                continue
            now = time.time_ns()
            attributes = _attributes(vhost, envelope, content, "publish", "send")
            name = f"publish {envelope.exchange or envelope.routing_key}"
            span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=now)
            self._count += 1
            self._unconfirmed.append((self._count, span))
            self._published.remember(hash(content), now)
        if self._count != before:
            self._broker.await_durable(self, self._count)

    def _deliver(self, queue: Queue, consumer: Consumer, message: Message) -> None:
        envelope, content = message.envelope, message.content
        parent = self._parent(envelope.container, content)
        if parent is None:
            return
        now = time.time_ns()
        place = (queue.log.queue_id, message.position)
        since = self._returned.pop(place, None) or self._published.get(hash(content), now)
        word = "get" if consumer.asked else "deliver"
        attributes = _attributes(queue.vhost.name, envelope, content, word, "receive")
        attributes["messaging.destination.subscription.name"] = queue.name
        if consumer.tag:
            attributes["messaging.client.id"] = consumer.tag
        if message.delivery:
            attributes["messaging.rabbitmq.message.delivery_tag"] = message.delivery
        if message.redelivered:
            attributes["pabal.message.redelivered"] = True
        span = self._tracer.start_span(f"{word} {queue.name}", parent, attributes=attributes, start_time=since)
        span.end(now)
        if not consumer.auto_settle:
            self._leased.remember(place, (now, attributes, parent))

    def _settle(self, queue: Queue, message: Message, outcome: Outcome) -> None:
        place = (queue.log.queue_id, message.position)
        lease = self._leased.pop(place, None)
        if lease is None:
            return
        now = time.time_ns()
        since, attributes, parent = lease
        word = _SETTLED[outcome]
        attributes = {**attributes, "messaging.operation.name": word, "messaging.operation.type": "settle"}
        span = self._tracer.start_span(f"{word} {queue.name}", parent, attributes=attributes, start_time=since)
        span.end(now)
        if word == "requeue":
            self._returned.remember(place, now)

    def _parent(self, container: Container, content: bytes) -> Context | None:
        """The trace that the message is of; None for none, and for one that is not sampled."""
        headers = container.headers(content, _CONTEXT)
        if "traceparent" not in headers:
            return None
        carrier = {name: value for name, value in headers.items() if isinstance(value, str)}
        context = self._propagator.extract(carrier, Context())
        found = get_current_span(context).get_span_context()
        return context if found.is_valid and found.trace_flags.sampled else None


def _attributes(vhost: str, envelope: Envelope, content: bytes, name: str, kind: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": envelope.exchange,
        "messaging.message.body.size": envelope.container.body_bytes(content),
        "pabal.vhost": vhost,
    }
    if envelope.routing_key:
        attributes["messaging.rabbitmq.destination.routing_key"] = envelope.routing_key
    for name_here, name_there in _PROPERTIES:
        value = envelope.container.property(content, name_here)
        if value:
            attributes[name_there] = value
    return attributes
