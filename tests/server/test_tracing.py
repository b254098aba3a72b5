"""Traces of a real broker, sent to a collector that the test plays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pika import BasicProperties

from broker_process import BrokerProcess
from clients.pika_client import open_connection

SECONDS_MAX = 15.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def names(self) -> list[str]:
        spans = [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        assert {span.trace_id.hex() for span in spans} <= {TRACE}
        return [span.name for span in spans]

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def send_one(broker: BrokerProcess) -> None:
    connection = open_connection(broker)
    channel = connection.channel()
    channel.queue_declare("traced", durable=True)
    channel.confirm_delivery()
    for headers in ({"traceparent": SAMPLED}, None):
        channel.basic_publish("", "traced", b"x", BasicProperties(headers=headers, delivery_mode=2))
    for _ in range(2):
        method, properties, _ = channel.basic_get("traced")
        channel.basic_ack(method.delivery_tag)
        assert properties.headers in ({"traceparent": SAMPLED}, None)
    connection.close()


def test_spans_reach_the_collector(start_broker: Callable[..., BrokerProcess], collector: Collector) -> None:
    environment = {
        "PABAL_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # so that the last ones go when the broker stops
    }
    broker = start_broker(environment=environment)
    send_one(broker)
    broker.stop()
    assert sorted(collector.names()) == ["ack traced", "get traced", "publish traced"]
    assert collector.services() == {"pabal"}


def test_without_a_collector_everything_goes_on(start_broker: Callable[..., BrokerProcess]) -> None:
    environment = {"PABAL_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    broker = start_broker(environment={**environment, "OTEL_SERVICE_NAME": "mine"})
    send_one(broker)
    begun = time.monotonic()
    broker.stop()
    assert time.monotonic() - begun < SECONDS_MAX


def test_off_unless_asked_for(start_broker: Callable[..., BrokerProcess], collector: Collector) -> None:
    broker = start_broker(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    send_one(broker)
    maps = Path(f"/proc/{broker.pid}/maps").read_text()
    broker.stop()
    assert collector.requests == []
    assert "opentelemetry" not in maps and "google/_upb" not in maps, "nor is anything of it loaded"


def test_another_protocol_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = {"PABAL_TRACING": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    broker = BrokerProcess(tmp_path_factory.mktemp("grpc"), environment=environment)
    with pytest.raises(AssertionError, match="OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf"):
        broker.start()
