"""What a running broker says of a real client, over the HTTP API and to Prometheus."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pika
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker_process import BrokerProcess, free_port
from robustness import peers as p

StartBroker = Callable[..., BrokerProcess]
LOGIN = "Basic " + base64.b64encode(b"guest:guest").decode()


class Watched:
    """A broker, and what it says of itself."""

    def __init__(self, start_broker: StartBroker) -> None:
        self.http, self.metrics_port = free_port(), free_port()
        self.broker = start_broker(http_port=self.http, environment={"PABAL_METRICS_PORT": str(self.metrics_port)})

    def get(self, path: str, method: str = "GET", port: int | None = None, login: str = LOGIN) -> bytes:
        headers = {"Authorization": login} if login else {}
        request = Request(f"http://127.0.0.1:{port or self.http}{path}", headers=headers, method=method)
        with urlopen(request, timeout=20) as answer:
            body: bytes = answer.read()
            return body

    def api(self, path: str) -> Any:
        return json.loads(self.get(f"/api/{path}"))

    def metrics(self, path: str = "/metrics", port: int | None = None, login: str = "") -> dict[str, float]:
        text = self.get(path, port=port or self.metrics_port, login=login).decode()
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }

    def connect(self) -> pika.BlockingConnection:
        properties = {"connection_name": "watched"}
        parameters = pika.ConnectionParameters("127.0.0.1", self.broker.port, client_properties=properties)
        return pika.BlockingConnection(parameters)


@pytest.fixture
def watched(start_broker: StartBroker) -> Iterator[Watched]:
    watched = Watched(start_broker)
    yield watched
    watched.broker.stop()


def plain(stats: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in stats.items() if not name.endswith("_details") and value}


def test_everything_a_client_does_is_counted(watched: Watched) -> None:
    connection = watched.connect()
    channel, other = connection.channel(), connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    for _ in range(5):
        channel.basic_publish("", "q", b"body", pika.BasicProperties(delivery_mode=2))
    channel.basic_publish("", "nowhere", b"body")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", "nowhere", b"body", mandatory=True)
    method, _, _ = other.basic_get("q")
    other.basic_nack(method.delivery_tag)
    other.basic_get("q", auto_ack=True)
    other.basic_qos(prefetch_count=2)
    other.basic_consume("q", lambda *_: None, consumer_tag="tag", arguments={"x-priority": 3})
    connection.process_data_events(0.2)

    [shown] = watched.api("connections")
    assert (shown["user_provided_name"], shown["state"], shown["channels"]) == ("watched", "running", 2)
    assert shown["recv_oct"] > 500 and shown["send_oct"] > 500 and shown["recv_cnt"] > 5
    first, second = sorted(watched.api("channels"), key=lambda each: int(each["number"]))
    published = {"publish": 7, "confirm": 7, "return_unroutable": 1, "drop_unroutable": 1}
    handed = {"deliver": 2, "get": 1, "get_no_ack": 1, "deliver_get": 4, "redeliver": 1}
    assert plain(first["message_stats"]) == published
    assert plain(second["message_stats"]) == handed
    assert (first["confirm"], second["prefetch_count"], second["messages_unacknowledged"]) == (True, 2, 2)
    assert plain(watched.api("queues/%2F/q")["message_stats"]) == {"publish": 5, **handed}
    stats = watched.api("overview")["message_stats"]
    assert {name: stats[name] for name in (*published, *handed)} == {**published, **handed}
    [consumer] = watched.api("consumers")
    assert (consumer["consumer_tag"], consumer["arguments"]) == ("tag", {"x-priority": 3})
    assert consumer["channel_details"]["name"] == second["name"]

    found = watched.metrics()
    assert found["rabbitmq_queue_messages_ready"] == 2
    assert found["rabbitmq_queue_messages_unacked"] == 2
    assert found["rabbitmq_global_messages_received_total"] == 7
    assert found["rabbitmq_global_messages_received_confirm_total"] == 7
    assert found["rabbitmq_global_messages_unroutable_returned_total"] == 1
    assert found["rabbitmq_auth_attempts_succeeded_total"] >= 1
    assert found["pabal_commit_seconds_count"] >= 1
    assert found["pabal_turn_seconds_count"] > 10
    connection.close()
    p.eventually(lambda: watched.metrics()["rabbitmq_connections"] == 0, "the connection's end")
    assert watched.metrics()["rabbitmq_global_messages_received_total"] == 7


def test_a_connection_closed_by_its_name(watched: Watched) -> None:
    connection = watched.connect()
    [shown] = watched.api("connections")
    watched.get(f"/api/connections/{quote(shown['name'])}", "DELETE")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        while True:
            connection.process_data_events(1)
    assert closed.value.reply_code == 320
    assert closed.value.reply_text == "CONNECTION_FORCED - Closed via management plugin"
    p.eventually(lambda: watched.api("connections") == [], "the connection's end")


def test_rates_come_with_time(watched: Watched) -> None:
    channel = watched.connect().channel()
    channel.queue_declare("q")

    def rate() -> float:
        for _ in range(20):
            channel.basic_publish("", "q", b"body")
        stats = watched.api("queues/%2F/q?columns=message_stats.publish_details.rate").get("message_stats", {})
        return float(stats["publish_details"]["rate"]) if stats else 0.0

    p.eventually(lambda: rate() > 1, "a rate")


def test_who_may_scrape(watched: Watched) -> None:
    assert watched.metrics(login=LOGIN, port=watched.http)["rabbitmq_queues"] == 0
    for path in ("/metrics", "/metrics/per-object", "/metrics/detailed?family=queue_metrics"):
        assert b"rabbitmq_identity_info" in watched.get(path, port=watched.metrics_port, login="")
        with pytest.raises(HTTPError) as refused:
            watched.get(path, login="")
        assert refused.value.code == 401
    for path in ("/api/overview", "/metrics/other", "/"):
        with pytest.raises(HTTPError) as missing:
            watched.get(path, port=watched.metrics_port)
        assert missing.value.code == 404
