"""Spans of messages, as the SDK's exporter in memory gets them; the session and the broker are real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind
from peer import HEARTBEAT, Peer, World
from pika.spec import Basic, BasicProperties, Channel, Confirm, Connection, Exchange, Queue, Tx

from pabal.model import limits
from pabal.server import tracing
from pabal.server.tracing import MessageTraces

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
SAMPLED = f"00-{TRACE:032x}-{PARENT:016x}-01"


class Clock:
    """Ticks at each look, by one nanosecond."""

    def __init__(self) -> None:
        self.now = 1_000

    def time_ns(self) -> int:
        self.now += 1
        return self.now


class Traced:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: bool = False) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)  # a sampler that asks nobody
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.world = World()
        self.traces = self.world.broker.observer = MessageTraces(self.world.broker, self.provider)
        self.clock = Clock()
        monkeypatch.setattr(tracing, "time", self.clock)
        self.peer = Peer(self.world)
        self.peer.send_bytes(b"AMQP\x00\x00\x09\x01")
        self.peer.send(0, Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"))
        self.peer.send(0, Connection.TuneOk(2047, 131072, 0), Connection.Open("/"))
        self.peer.send(1, Channel.Open(), Queue.Declare(queue="q", durable=True))
        self.world.slow = slow

    def publish(self, *bodies: bytes, traceparent: Any = SAMPLED, exchange: str = "", **properties: Any) -> None:
        headers = {"other": 1, **({} if traceparent is None else {"traceparent": traceparent})}
        method = Basic.Publish(exchange=exchange, routing_key="q")
        all_of_it = BasicProperties(headers=headers, delivery_mode=2, **properties)
        self.peer.send_bytes(b"".join(self.peer.message(method, all_of_it, body) for body in bodies))

    def spans(self) -> list[ReadableSpan]:
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def names(self) -> list[str]:
        return [span.name for span in self.spans()]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    yield Traced(monkeypatch)


def test_the_spans_of_a_message(traced: Traced) -> None:
    traced.publish(b"abc", message_id="m1", correlation_id="c1")
    traced.peer.send(1, Basic.Consume(queue="q", consumer_tag="t"))
    traced.peer.send(1, Basic.Ack(1))
    published, delivered, acked = traced.spans()
    assert [span.name for span in (published, delivered, acked)] == ["publish q", "deliver q", "ack q"]
    for span in (published, delivered, acked):
        assert span.context is not None and span.parent is not None
        assert (span.context.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE, PARENT, True)
    common = {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "",
        "messaging.rabbitmq.destination.routing_key": "q",
        "messaging.message.body.size": 3,
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
        "pabal.vhost": "/",
    }
    taken = {
        "messaging.destination.subscription.name": "q",
        "messaging.client.id": "t",
        "messaging.rabbitmq.message.delivery_tag": 1,
    }
    for span, name, kind, more in (
        (published, "publish", "send", {}),
        (delivered, "deliver", "receive", taken),
        (acked, "ack", "settle", taken),
    ):
        operation = {"messaging.operation.name": name, "messaging.operation.type": kind}
        assert dict(span.attributes or {}) == {**common, **operation, **more}
    assert published.kind is SpanKind.SERVER
    assert published.start_time == delivered.start_time, "it waits from when it was published"
    assert delivered.end_time == acked.start_time, "then the consumer has it"
    assert published.start_time < published.end_time < delivered.end_time < acked.end_time  # type: ignore[operator]


def test_a_publish_ends_when_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, slow=True)
    traced.publish(b"a", b"b")
    assert traced.spans() == []
    traced.publish(b"c")  # during the commit: in the next
    traced.world.end_commit()
    assert len(traced.spans()) == 2
    traced.world.end_commit()
    assert len(traced.spans()) == 1


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        SAMPLED[:-1] + "0",
        "00-" + "0" * 32 + f"-{PARENT:016x}-01",
        "",
        "nonsense",
        7,
        ["a"],
        "00-" + "g" * 32 + f"-{PARENT:016x}-01",
    ],
)
def test_what_is_not_traced(traced: Traced, traceparent: Any) -> None:
    """No context, not sampled, or nothing that can be read as one."""
    traced.publish(b"abc", traceparent=traceparent)
    traced.peer.send(1, Basic.Get(queue="q"), Basic.Ack(1))
    assert traced.names() == []
    assert "3" in traced.peer.names()
    traced.publish(b"abc")
    assert traced.names() == ["publish q"]


def test_the_context_goes_on_as_it_came(traced: Traced) -> None:
    traced.publish(b"abc", traceparent=SAMPLED + "-future")
    traced.peer.buffer = b""
    traced.peer.send(1, Basic.Get(queue="q", no_ack=True))
    assert SAMPLED.encode() + b"-future" in traced.peer.buffer


def test_outcomes(traced: Traced) -> None:
    traced.publish(b"a")
    traced.peer.send(1, Basic.Get(queue="q"), Basic.Reject(1, requeue=True))
    traced.peer.send(1, Basic.Get(queue="q"), Basic.Nack(2, requeue=False))
    traced.publish(b"b")
    traced.peer.send(1, Basic.Get(queue="q", no_ack=True))
    spans = traced.spans()
    assert [span.name for span in spans] == [
        "publish q",
        "get q",
        "requeue q",
        "get q",
        "reject q",
        "publish q",
        "get q",
    ]
    assert spans[3].start_time == spans[2].end_time, "the second wait is from when it came back"
    assert dict(spans[3].attributes or {})["pabal.message.redelivered"] is True
    traced.publish(b"c")
    traced.peer.send(1, Basic.Get(queue="q"))
    traced.peer.session.connection_lost()
    assert traced.names()[-1] == "requeue q"


def test_exchanges_transactions_and_confirms(traced: Traced) -> None:
    declare, bind = Exchange.Declare(exchange="h", type="headers"), Queue.Bind(queue="q", exchange="h")
    traced.peer.send(1, declare, bind)
    traced.publish(b"a", exchange="h")
    assert traced.names() == ["publish h"], "of an exchange that looks into each message"
    traced.peer.send(1, Confirm.Select())
    traced.peer.received()
    traced.publish(b"a", b"b")
    assert traced.names() == ["publish q", "publish q"]
    assert "Ack" in traced.peer.names()
    traced.peer.send(2, Channel.Open(), Tx.Select())
    method = Basic.Publish(exchange="", routing_key="q")
    traced.peer.send_bytes(traced.peer.message(method, BasicProperties(headers={"traceparent": SAMPLED}), b"x", 2))
    assert traced.names() == []
    traced.peer.send(2, Tx.Commit())
    assert traced.names() == ["publish q"]


def test_the_broker_remembers_a_limited_number(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "TRACED_MESSAGES_MAX", 2)
    traced.publish(b"a", b"b", b"c")
    traced.peer.send(1, *(Basic.Get(queue="q") for _ in range(3)))
    waits = [span.end_time - span.start_time for span in traced.spans() if span.name == "get q"]  # type: ignore[operator]
    assert [wait > 0 for wait in waits] == [False, True, True]
    traced.peer.send(1, *(Basic.Ack(tag) for tag in (1, 2, 3)))
    assert traced.names() == ["ack q", "ack q"]
    assert limits.TRACED_MESSAGES_MAX == 50_000


def test_an_error_of_tracing_ends_tracing_and_nothing_else(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(traced.traces._tracer, "start_span", fail)
    traced.publish(b"abc")
    traced.peer.send_bytes(HEARTBEAT)
    assert traced.peer.session.state == "open"
    assert "tracing is off" in caplog.text
    traced.peer.send(1, Basic.Get(queue="q", no_ack=True))
    assert "3" in traced.peer.names()
