"""Exchanges, queues, bindings, vhosts, policies: status codes and answers are RabbitMQ 3.10's."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from broker_process import BrokerProcess
from clients.pika_client import open_connection
from management.http_client import Api

NOT_FOUND = {"error": "Object Not Found", "reason": "Not Found"}


def test_a_queue_is_declared_shown_and_deleted(api: Api) -> None:
    place = ("queues", "/", "a queue/with ~ 한글")
    assert api.put(place, {"durable": True, "arguments": {"x-max-length": 10}}).status == 201
    assert api.put(place, {"durable": True, "arguments": {"x-max-length": 10}}).status == 204
    refused = api.put(place, {"durable": False, "arguments": {"x-max-length": 10}})
    assert (refused.status, refused.value["error"]) == (400, "bad_request")
    assert "inequivalent arg 'durable' for queue" in refused.value["reason"]
    shown = api.get(place).value
    assert (shown["name"], shown["vhost"], shown["type"]) == (place[2], "/", "classic")
    assert (shown["durable"], shown["arguments"], shown["messages"]) == (True, {"x-max-length": 10}, 0)
    assert api.delete(place).status == 204
    gone = api.delete(place)
    assert (gone.status, gone.value) == (404, NOT_FOUND)


def test_rabbitmqadmin_sends_booleans_as_text(api: Api) -> None:
    assert api.put("/queues/%2F/textual", {"durable": "true", "auto_delete": "false"}).status == 201
    assert api.get("/queues/%2F/textual").value["durable"] is True
    assert api.put("/queues/%2F/other", {"durable": "perhaps"}).status == 400
    api.delete("/queues/%2F/textual")


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"{}"', b"nul", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    reply = api.call("PUT", "/queues/%2F/bad", body)
    assert (reply.status, reply.value["error"]) == (400, "bad_request")
    assert api.get("/queues/%2F/bad").status == 404


@pytest.mark.parametrize(
    "arguments",
    [{"a": 2**63}, {"a": 1e999}, {"n" * 256: 1}, [1], "x", {"a": "\ud800"}],
    ids=["huge", "infinite", "long name", "list", "text", "surrogate"],
)
def test_arguments_that_amqp_cannot_carry_are_refused(api: Api, arguments: object) -> None:
    assert api.put("/queues/%2F/bad", {"arguments": arguments}).status == 400


def test_paths_and_methods_that_there_are_not(api: Api) -> None:
    assert (api.get("/nonsense").status, api.get("/nonsense").value) == (404, NOT_FOUND)
    assert api.get("/queues/nowhere").status == 404
    refused = api.post("/queues/%2F/x", {})
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, PUT, DELETE, OPTIONS")
    assert api.call("HEAD", "/overview").body == b""
    assert api.call("OPTIONS", "/overview").headers["allow"] == "GET, HEAD, OPTIONS"


def test_an_exchange_is_declared_and_bound(api: Api) -> None:
    assert api.put("/exchanges/%2F/source", {"type": "topic", "durable": True}).status == 201
    assert api.put("/exchanges/%2F/source", {"type": "topic", "durable": True}).status == 204
    assert api.put("/exchanges/%2F/source", {"type": "fanout", "durable": True}).status == 400
    assert (
        api.put("/exchanges/%2F/nonsense", {"type": "nonsense"}).value["reason"] == "unknown exchange type 'nonsense'"
    )
    assert api.put("/exchanges/%2F/amq.mine", {"type": "direct"}).status == 401
    assert api.delete("/exchanges/%2F/amq.direct").status == 401
    api.put("/queues/%2F/bound", {})
    between = "/bindings/%2F/e/source/q/bound"
    bound = api.post(between, {"routing_key": "k/1 a~b"})
    assert (bound.status, bound.headers["location"]) == (201, "bound/k%252F1%2Ba%257Eb")
    assert api.post(between, {}).headers["location"] == "bound/~"
    with_arguments = api.post(between, {"routing_key": "k", "arguments": {"a": 1}}).headers["location"]
    assert api.post(between, {"routing_key": "k", "arguments": {"a": 2}}).headers["location"] != with_arguments
    listed = api.get(between).value
    assert [each["routing_key"] for each in listed] == ["", "k", "k", "k/1 a~b"]
    for each in listed:
        key = each["properties_key"]
        assert api.get(("bindings", "/", "e", "source", "q", "bound", key)).value == each
    assert api.get(f"/bindings/%2F/e/source/q/{with_arguments}").value["arguments"] == {"a": 1}
    assert api.delete(f"/bindings/%2F/e/source/q/{with_arguments}").status == 204
    assert api.delete(f"/bindings/%2F/e/source/q/{with_arguments}").status == 404
    assert len(api.get("/exchanges/%2F/source/bindings/source").value) == 3
    destinations = api.get("/queues/%2F/bound/bindings").value
    assert sorted(each["source"] for each in destinations) == ["", "source", "source", "source"]
    assert api.delete("/exchanges/%2F/source").status == 204
    assert api.get(between).value == []
    assert api.delete("/queues/%2F/bound?if-empty=true&if-unused=true").status == 204


def test_exchanges_are_bound_to_each_other(api: Api) -> None:
    for name in ("one", "two"):
        api.put(f"/exchanges/%2F/{name}", {"type": "fanout"})
    assert api.post("/bindings/%2F/e/one/e/two", {"routing_key": "x"}).status == 201
    [binding] = api.get("/exchanges/%2F/two/bindings/destination").value
    assert (binding["destination_type"], unquote(binding["properties_key"])) == ("exchange", "x")
    assert api.get("/bindings/%2F/e/one/x/two").status == 404
    for name in ("one", "two"):
        api.delete(f"/exchanges/%2F/{name}")


def test_what_was_answered_survives_kill_9(own_broker: BrokerProcess) -> None:
    api = Api(own_broker)
    assert api.put("/vhosts/kept", {"description": "a place", "tags": "x,y"}).status == 201
    assert api.put("/queues/kept/durable", {"durable": True}).status == 201
    assert api.publish("durable", "precious", vhost="kept", delivery_mode=2).value == {"routed": True}
    assert api.put("/users/somebody", {"password": "secret", "tags": "management"}).status == 201
    assert api.put("/global-parameters/mine", {"value": {"a": [1]}}).status == 201
    own_broker.restart(kill=True)
    api.wait_until_ready()
    vhost = api.get("/vhosts/kept").value
    assert (vhost["description"], vhost["tags"], vhost["messages"]) == ("a place", ["x", "y"], 1)
    assert api.take("durable", vhost="kept")[0]["payload"] == "precious"
    assert Api(own_broker, "somebody", "secret").get("/whoami").value == {"name": "somebody", "tags": ["management"]}
    assert api.get("/global-parameters/mine").value["value"] == {"a": [1]}
    assert api.delete("/vhosts/kept").status == 204
    own_broker.restart(kill=True)
    api.wait_until_ready()
    assert api.get("/vhosts/kept").status == 404


def test_deleting_a_vhost_closes_its_connections(api: Api) -> None:
    api.put("/vhosts/doomed", {})
    api.put("/policies/doomed/p", {"pattern": "", "definition": {"max-length": 1}})
    api.put("/vhost-limits/doomed/max-queues", {"value": 3})
    connection = open_connection(api.broker, virtual_host="doomed")
    channel = connection.channel()
    channel.queue_declare("exclusive", exclusive=True)
    channel.queue_declare("durable", durable=True)
    assert api.delete("/vhosts/doomed").status == 204
    with pytest.raises(Exception, match="vhost 'doomed' is deleted"):
        channel.queue_declare("later")
    assert api.get("/queues/doomed").status == 404
    assert api.put("/vhosts/doomed", {}).status == 201
    assert api.get("/queues/doomed").value == []
    assert api.get("/policies/doomed").value == []
    assert api.get("/vhost-limits/doomed").value == []
    api.delete("/vhosts/doomed")


def test_policies_and_limits(api: Api) -> None:
    api.put("/vhosts/ruled", {})
    body = {"pattern": "^q", "definition": {"max-length": 5}, "priority": 1, "apply-to": "queues"}
    assert api.put("/policies/ruled/short", body).status == 201
    assert api.put("/policies/ruled/short", body).status == 204
    assert api.get("/policies/ruled").value == [{"vhost": "ruled", "name": "short", **body}]
    refused = api.put("/policies/ruled/bad", {"pattern": "^q", "definition": {"max-foo": 5}})
    expected = 'Validation failed\n\n[{&lt;&lt;"max-foo"&gt;&gt;,5}] are not recognised policy settings\n'
    assert (refused.status, refused.value["reason"]) == (400, expected)
    assert api.put("/policies/ruled/bad", {"pattern": "x"}).value["reason"] == "[{key_missing,definition}]"
    assert api.put("/operator-policies/ruled/top", {"pattern": "", "definition": {"max-length": 3}}).status == 201
    api.put("/queues/ruled/q", {})
    shown = api.get("/queues/ruled/q").value
    assert (shown["policy"], shown["operator_policy"]) == ("short", "top")
    assert shown["effective_policy_definition"] == {"max-length": 3}
    for number in range(5):
        api.publish("q", str(number), vhost="ruled")
    assert [message["payload"] for message in api.take("q", 9, vhost="ruled")] == ["2", "3", "4"]
    assert api.put("/vhost-limits/ruled/max-queues", {"value": 1}).status == 204
    assert "queue limit in vhost 'ruled' (1)" in api.put("/queues/ruled/q2", {}).value["reason"]
    assert api.put("/vhost-limits/ruled/nonsense", {"value": 1}).status == 400
    components = [each["component"] for each in api.get("/parameters").value if each["vhost"] == "ruled"]
    assert sorted(components) == ["operator_policy", "vhost-limits"]
    missing = api.put("/parameters/shovel/ruled/x", {"value": {}})
    assert missing.value["reason"] == "Validation failed\n\ncomponent shovel not found\n"
    assert api.delete("/policies/ruled/short").status == 204
    assert api.delete("/policies/ruled/short").status == 404
    api.delete("/vhosts/ruled")


def test_lists_come_in_pages(api: Api) -> None:
    api.put("/vhosts/paged", {})
    for number in range(25):
        api.put(f"/queues/paged/q{number:02}", {})
    page = api.get("/queues/paged?page=2&page_size=10&columns=name").value
    assert page == {
        "filtered_count": 25,
        "item_count": 10,
        "items": [{"name": f"q{number}"} for number in range(10, 20)],
        "page": 2,
        "page_count": 3,
        "page_size": 10,
        "total_count": 25,
    }
    named = api.get("/queues/paged?page=1&name=q1&columns=name&sort=name&sort_reverse=true").value
    assert (named["filtered_count"], named["items"][0]) == (10, {"name": "q19"})
    assert api.get("/queues/paged?page=1&name=^Q.[37]$&use_regex=true").value["filtered_count"] == 5
    assert api.get("/queues/paged?page=5").value == {
        "error": "page_out_of_range",
        "reason": "Page out of range, page: 5 page size: 100, len: 25",
    }
    assert api.get("/queues/paged?page=0").value == {
        "error": "invalid_pagination_parameters",
        "reason": "Invalid pagination parameters: page number 0, page size undefined",
    }
    assert api.get("/queues/paged?page=x").value["reason"] == "Pagination parameters are invalid"
    assert api.get("/queues/paged?page=1&page_size=501").status == 400
    api.publish("q07", "x", vhost="paged")
    by_length = api.get(
        "/queues/paged?page=1&page_size=1&sort=messages&sort_reverse=true&columns=name,messages"
    ).value
    assert by_length["items"] == [{"name": "q07", "messages": 1}]
    totals = api.get("/queues/paged?disable_stats=true&enable_queue_totals=true&sort=name").value
    assert (totals[7]["messages"], "message_stats" in totals[7]) == (1, False)
    assert "messages" not in api.get("/queues/paged?disable_stats=true").value[0]
    api.delete("/vhosts/paged")
