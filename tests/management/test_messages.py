"""Publishing, getting and browsing over HTTP."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator

import pytest

from broker_process import BrokerProcess, free_port
from clients.pika_client import open_connection
from management.http_client import Api

WAIT_SECONDS_MAX = 10.0


@pytest.fixture
def queue(api: Api, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"http-{request.node.name}"
    assert api.put(("queues", "/", name), {"durable": True}).status == 201
    yield name
    api.delete(("queues", "/", name))


def test_what_http_publishes_amqp_delivers(api: Api, queue: str) -> None:
    headers = {"n": 1, "text": "x", "list": [1, True, None], "inner": {"k": "v"}}
    properties = {
        "content_type": "text/plain",
        "headers": headers,
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }
    assert api.publish(queue, "hello", **properties).value == {"routed": True}
    connection = open_connection(api.broker)
    channel = connection.channel()
    _, found, body = channel.basic_get(queue)
    assert body == b"hello"
    assert {name: getattr(found, name) for name in properties} == properties
    connection.close()  # unsettled: it goes back
    [message] = api.take(queue)
    assert (message["payload"], message["redelivered"], message["payload_bytes"]) == ("hello", True, 5)
    assert message["properties"] == properties
    assert (message["exchange"], message["routing_key"], message["message_count"]) == ("", queue, 0)


def test_the_four_ways_to_get(api: Api, queue: str) -> None:
    for payload in ("a", "b"):
        api.publish(queue, payload)
    assert [m["payload"] for m in api.take(queue, 5, "ack_requeue_true")] == ["a", "b"]
    assert [m["redelivered"] for m in api.take(queue, 5, "reject_requeue_true")] == [True, True]
    assert [m["message_count"] for m in api.take(queue, 1, "ack_requeue_false")] == [1]
    assert [m["payload"] for m in api.take(queue, 5, "reject_requeue_false")] == ["b"]
    assert api.take(queue, 5) == []
    place = ("queues", "/", queue, "get")
    assert api.post(place, {"count": 1}).value["reason"] == "[{key_missing,ackmode},{key_missing,encoding}]"
    wrong = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "utf8"}
    assert api.post(place, wrong).value["reason"] == "Unsupported encoding. Please use auto or base64."
    assert api.post(place, {**wrong, "ackmode": "nonsense"}).status == 400


def test_bodies_that_are_no_text(api: Api, queue: str) -> None:
    raw = b"\xff\x00binary"
    body = {
        "routing_key": queue,
        "properties": {},
        "payload": base64.b64encode(raw).decode(),
        "payload_encoding": "base64",
    }
    assert api.post("/exchanges/%2F/amq.default/publish", body).value == {"routed": True}
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 3}
    [message] = api.post(("queues", "/", queue, "get"), get).value
    assert (message["payload_encoding"], base64.b64decode(message["payload"])) == ("base64", raw[:3])
    assert (message["payload_bytes"], message["properties"]) == (len(raw), [])


def test_what_cannot_be_published(api: Api, queue: str) -> None:
    place = "/exchanges/%2F/amq.default/publish"
    good = {"routing_key": queue, "properties": {}, "payload": "x", "payload_encoding": "string"}
    for change, reason in (
        ({"payload": 5}, "payload_not_string"),
        ({"payload_encoding": "x"}, ["unsupported_encoding", "x"]),
        ({"properties": {"priority": "high"}}, "not_int priority"),
        ({"properties": {"user_id": "other"}}, "user_id property set to 'other' but authenticated user was 'guest'"),
        ({"properties": {"expiration": "soon"}}, "invalid expiration 'soon': no_integer"),
    ):
        reply = api.post(place, {**good, **change})
        assert reply.status == 400
        assert reply.value["reason"] == reason or reason in reply.value["reason"]
    assert api.post("/exchanges/%2F/nonsense/publish", good).status == 404
    assert api.post(place, {**good, "routing_key": "nobody's"}).value == {"routed": False}
    assert api.take(queue) == []


def test_nothing_is_lost_when_the_client_goes_away(api: Api, queue: str) -> None:
    """It asks for messages, to take them, and is gone before it has read the answer."""
    for number in range(40):
        api.publish(queue, "x" * 200_000, message_id=str(number))
    body = json.dumps({"count": 40, "ackmode": "ack_requeue_false", "encoding": "auto"}).encode()
    head = (
        f"POST /api/queues/%2F/{queue}/get HTTP/1.1\r\nHost: x\r\nAuthorization: {api.headers['authorization']}\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((api.broker.host, api.port))
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(1)  # the answer has begun, and more of it than fits is on its way
    wait_for_ready(api, queue, 40)
    assert [m["properties"]["message_id"] for m in api.take(queue, 50)] == [str(number) for number in range(40)]
    wait_for_ready(api, queue, 0)


def wait_for_ready(api: Api, queue: str, count: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (shown := api.get(("queues", "/", queue)).value)["messages_ready"] != count or shown["messages"] != count:
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)


def test_browsing_takes_nothing(api: Api, queue: str) -> None:
    for number in range(10):
        api.publish(queue, f"body {number}", headers={"parity": number % 2, "even": number % 2 == 0}, type="t")
    place = f"/pabal/queues/%2F/{queue}/messages"
    page = api.get(f"{place}?count=3").value
    assert [m["payload"] for m in page["messages"]] == ["body 0", "body 1", "body 2"]
    rest = api.get(f"{place}?after={page['next']}&count=100").value
    assert [m["payload"] for m in rest["messages"]] == [f"body {number}" for number in range(3, 10)]
    assert (rest["next"], rest["ready"]) == (None, 10)
    odd = api.get(f"{place}?header.parity=1&property.type=t&offset=1&columns=payload").value["messages"]
    assert odd == [{"payload": f"body {number}"} for number in (3, 5, 7, 9)]
    assert len(api.get(f"{place}?header.even=true&body=8").value["messages"]) == 1
    assert api.get(f"{place}?routing_key=other").value["messages"] == []
    assert api.get(f"{place}?count=-2").status == 400
    assert api.get(f"{place}?count=x").status == 400
    messages = api.take(queue, 20)
    assert [m["payload"] for m in messages] == [f"body {number}" for number in range(10)]
    assert not any(m["redelivered"] for m in messages)


def test_publishers_are_told_when_the_disk_is_low(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = {"PABAL_DISK_FREE_BYTES_MIN": str(2**62)}
    broker = BrokerProcess(tmp_path_factory.mktemp("low"), environment=environment, http_port=free_port())
    try:
        broker.start()
        api = Api(broker)
        api.wait_until_ready()
        api.put("/queues/%2F/q", {"durable": True})
        reply = api.publish("q", "x")
        assert (reply.status, reply.value["reason"]) == (503, "publishers are blocked: low on disk")
        assert api.get("/queues/%2F/q").value["messages"] == 0
        check = api.get("/health/checks/alarms")
        assert (check.status, check.value["alarms"][0]["resource"]) == (503, "disk")
        assert api.get("/nodes").value[0]["disk_free_alarm"] is True
    finally:
        broker.kill()


def test_browsing_goes_in_the_order_of_delivery(api: Api) -> None:
    api.put("/queues/%2F/ranked", {"arguments": {"x-max-priority": 9}})
    for priority in (1, 5, 3, 5):
        api.publish("ranked", str(priority), priority=priority)
    api.take("ranked", 2, "ack_requeue_true")  # what comes back stands in front again
    seen, after = [], ""
    while (page := api.get(f"/pabal/queues/%2F/ranked/messages?count=1{after}").value)["messages"]:
        seen += [(message["payload"], message["redelivered"]) for message in page["messages"]]
        after = f"&after={page['next']}"
    assert seen == [("5", True), ("5", True), ("3", False), ("1", False)]
    api.delete("/queues/%2F/ranked")
