"""Users, what their tags let them do, and their permissions; definitions out and in."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator

import pytest

from broker_process import BrokerProcess
from clients.pika_client import open_connection
from clients.raw_client import RawClient
from management.http_client import Api
from pabal.management.routes import Route, Who
from pabal.management.table import ROUTES

LOGIN_FAILED = {"error": "not_authorized", "reason": "Login failed"}
TAGS = ("management", "policymaker", "monitoring", "administrator")


@pytest.fixture(scope="module")
def people(api_broker: BrokerProcess) -> Iterator[dict[str, Api]]:
    """A user of each tag, and one of none; all may do everything in the vhost "ours" and nothing elsewhere."""
    admin = Api(api_broker)
    admin.put("/vhosts/ours", {})
    for name in (*TAGS, "untagged"):
        tags = "" if name == "untagged" else name
        assert admin.put(f"/users/{name}", {"password": f"pw {name}: é", "tags": tags}).status == 201
        assert admin.put(f"/permissions/ours/{name}", {"configure": ".*", "write": ".*", "read": ".*"}).status == 201
    yield {name: Api(api_broker, name, f"pw {name}: é") for name in (*TAGS, "untagged")}
    admin.post("/users/bulk-delete", {"users": [*TAGS, "untagged"]})
    admin.delete("/vhosts/ours")


def test_without_the_right_password_nothing_is_said(api: Api) -> None:
    for user, password in (("guest", "wrong"), ("nobody", "guest"), ("", ""), ("guest", "")):
        reply = Api(api.broker, user, password).get("/overview")
        assert (reply.status, reply.value) == (401, LOGIN_FAILED)
        assert reply.headers["www-authenticate"].startswith("Basic")
    for header in ("", "Basic", "Basic !!!", "Bearer x", "Digest x", "Basic " + "A" * 60_000):
        assert api.call("GET", "/overview", authorization=header).status == 401
    assert "wrong" not in api.broker.log()


def test_the_page_and_the_description_are_for_everybody(api: Api) -> None:
    nobody = Api(api.broker)
    nobody.headers = {}
    page = nobody.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    document = nobody.get("/openapi.json").value
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {route.path for route in ROUTES}
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(ROUTES) == len(set(operations))


ALLOWED = {
    Who.USER: set(TAGS),
    Who.VHOST: {"administrator"},  # of the vhost "/", which is not theirs
    Who.VHOST_MONITOR: {"monitoring", "administrator"},
    Who.MONITOR: {"monitoring", "administrator"},
    Who.POLICYMAKER: {"administrator"},
    Who.ADMINISTRATOR: {"administrator"},
}


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.who is not Who.ANYBODY], ids=lambda r: f"{r.method} {r.path}"
)
def test_every_route_is_refused_to_who_may_not(route: Route, people: dict[str, Api]) -> None:
    """Each with a vhost that is not the user's."""
    parts = ["/" if part == "{vhost}" else "x" if part.startswith("{") else part for part in route.parts]
    allowed = ALLOWED[route.who]
    if "{vhost}" not in route.path and route.who in (Who.VHOST, Who.VHOST_MONITOR):
        allowed = set(TAGS)
    if "{vhost}" not in route.path and route.who is Who.POLICYMAKER:
        allowed = {"policymaker", "administrator"}
    for name, api in people.items():
        if name == "administrator":
            continue
        body = None if route.method in ("GET", "DELETE") else {}
        reply = api.call_anywhere(route.method, tuple(parts), body=body)
        refused = reply.status == 401 and reply.value["error"] == "not_authorised"
        if name not in allowed:
            assert refused, f"{name} may {route.method} {route.path}: {reply.status} {reply.body!r}"
        elif "username" not in route.path:
            assert not refused, f"{name} may not {route.method} {route.path}"


def test_operations_ask_for_permissions(people: dict[str, Api], api: Api) -> None:
    api.put("/queues/ours/others", {})
    api.put("/exchanges/ours/others", {"type": "fanout"})
    me = people["management"]
    api.put("/permissions/ours/management", {"configure": "^mine", "write": "^mine", "read": "^mine"})
    refused = {"error": "not_authorised", "reason": "Access refused."}
    publish = {"routing_key": "others", "properties": {}, "payload": "x", "payload_encoding": "string"}
    get = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
    assert me.put("/queues/ours/mine", {}).status == 201
    for reply in (
        me.put("/queues/ours/theirs", {}),
        me.delete("/queues/ours/others"),
        me.delete("/queues/ours/others/contents"),
        me.put("/exchanges/ours/theirs", {"type": "direct"}),
        me.delete("/exchanges/ours/others"),
        me.post("/bindings/ours/e/others/q/mine", {}),
        me.post("/bindings/ours/e/amq.direct/q/others", {}),
    ):
        assert (reply.status, reply.value) == (401, refused)
    for reply in (
        me.post("/exchanges/ours/others/publish", publish),
        me.post("/exchanges/ours/amq.default/publish", publish),
        me.post("/queues/ours/others/get", get),
        me.get("/pabal/queues/ours/others/messages"),
    ):
        assert reply.status == 401
        assert reply.value["reason"].startswith("ACCESS_REFUSED - ")
    assert api.get("/queues/ours/theirs").status == 404
    api.put("/permissions/ours/management", {"configure": ".*", "write": ".*", "read": ".*"})


def test_who_is_no_monitor_sees_only_their_own_connections(people: dict[str, Api], api: Api) -> None:
    connection = open_connection(api.broker)
    [shown] = [each for each in api.get("/connections").value if each["user"] == "guest"][-1:]
    assert people["management"].get("/connections").value == []
    assert len(people["monitoring"].get("/connections").value) >= 1
    assert people["management"].get(("connections", shown["name"])).status == 401
    assert people["management"].delete(("connections", shown["name"])).status == 401
    connection.channel()
    [channel] = api.get(("connections", shown["name"], "channels")).value
    assert api.get(("channels", channel["name"])).value["number"] == 1
    reply = api.call("DELETE", ("connections", shown["name"]), X_Reason="go home")
    assert reply.status == 204
    with pytest.raises(Exception, match="go home"):
        connection.process_data_events(5)


def test_a_user_is_put_shown_and_deleted(api: Api) -> None:
    assert api.put("/users/u", {"password": "p"}).value["reason"] == "tags_not_present"
    assert api.put("/users/u", {"password": "p", "tags": ["a", "b"]}).status == 201
    assert api.put("/users/u", {"password": "q", "tags": "management"}).status == 204
    assert Api(api.broker, "u", "p").get("/whoami").status == 401
    assert Api(api.broker, "u", "q").get("/whoami").value["tags"] == ["management"]
    salted = b"salt" + hashlib.sha256(b"salt" + b"imported").digest()
    imported = {"password_hash": base64.b64encode(salted).decode(), "tags": "management"}
    assert api.put("/users/u", {**imported, "hashing_algorithm": "rabbit_password_hashing_sha256"}).status == 204
    assert Api(api.broker, "u", "imported").get("/whoami").status == 200
    assert api.get("/users/u").value["password_hash"] == imported["password_hash"]
    assert "u" in [user["name"] for user in api.get("/users/without-permissions").value]
    assert api.put("/user-limits/u/max-channels", {"value": 5}).status == 204
    assert api.get("/user-limits/u").value == [{"user": "u", "value": {"max-channels": 5}}]
    assert api.put("/topic-permissions/%2F/u", {"exchange": "amq.topic", "write": "^x", "read": ""}).status == 201
    assert api.get("/users/u/topic-permissions").value[0]["write"] == "^x"
    assert api.put("/permissions/%2F/u", {"configure": "[", "write": "", "read": ""}).status == 400
    assert api.put("/permissions/%2F/nobody", {"configure": "", "write": "", "read": ""}).value["reason"] == (
        "vhost_or_user_not_found"
    )
    assert api.post("/users/bulk-delete", {"users": ["u", "nobody"]}).value["reason"] == ["no_such_user", "nobody"]
    assert api.delete("/users/u").status == 204
    assert api.get("/users/u").status == 404


# --- Definitions ---------------------------------------------------------------------------------------------

EXPORT = {
    "rabbit_version": "3.10.8",
    "users": [
        {
            "name": "imported",
            "password_hash": base64.b64encode(b"salt" + hashlib.sha256(b"saltpw").digest()).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"],
            "limits": {"max-channels": 50},
        }
    ],
    "vhosts": [{"name": "imp"}],
    "permissions": [{"user": "imported", "vhost": "imp", "configure": "^a", "write": ".*", "read": ".*"}],
    "topic_permissions": [{"user": "imported", "vhost": "imp", "exchange": "amq.topic", "write": "^x", "read": ".*"}],
    "parameters": [
        {"value": {"max-queues": 50}, "vhost": "imp", "component": "vhost-limits", "name": "limits"},
        {
            "value": {"pattern": "^w", "definition": {"max-length": 40}, "priority": 0, "apply-to": "queues"},
            "vhost": "imp",
            "component": "operator_policy",
            "name": "op",
        },
        {"value": {"src-uri": "amqp://"}, "vhost": "imp", "component": "shovel", "name": "s"},
    ],
    "global_parameters": [{"name": "internal_cluster_id", "value": "rabbitmq-cluster-id-x"}],
    "policies": [
        {
            "vhost": "imp",
            "name": "ha",
            "pattern": "^w",
            "apply-to": "queues",
            "definition": {"ha-mode": "all", "max-length": 50},
            "priority": 3,
        }
    ],
    "queues": [
        {"name": "한글 queue/1", "vhost": "imp", "durable": True, "auto_delete": False, "arguments": {}},
        {
            "name": "quo",
            "vhost": "imp",
            "durable": True,
            "auto_delete": False,
            "arguments": {"x-delivery-limit": 3, "x-queue-type": "quorum"},
        },
    ],
    "exchanges": [
        {
            "name": name,
            "vhost": "imp",
            "type": kind,
            "durable": True,
            "auto_delete": False,
            "internal": name == "inner",
            "arguments": {},
        }
        for name, kind in (("heads", "headers"), ("inner", "direct"), ("orders", "topic"))
    ],
    "bindings": [
        {
            "source": "heads",
            "vhost": "imp",
            "destination": "quo",
            "destination_type": "queue",
            "routing_key": "",
            "arguments": {"n": 1, "s": "t", "x-match": "any"},
        },
        {
            "source": "orders",
            "vhost": "imp",
            "destination": "inner",
            "destination_type": "exchange",
            "routing_key": "#",
            "arguments": {},
        },
    ],
}
"""As RabbitMQ 3.10.8 exports them."""


def test_what_rabbitmq_exports_is_taken_in_and_given_out_again(api: Api) -> None:
    assert api.post("/definitions", EXPORT).status == 204
    assert api.post("/definitions", EXPORT).status == 204  # once more changes nothing
    found = api.get("/definitions").value
    for kind, entries in EXPORT.items():
        if isinstance(entries, list) and kind != "vhosts":
            exported = [each for each in found[kind] if each.get("vhost", "imp") == "imp"]
            for entry in entries:
                assert entry in exported, kind
    assert Api(api.broker, "imported", "pw").get("/whoami").status == 200
    alone = api.get("/definitions/imp").value
    assert alone.keys() == {"rabbit_version", "parameters", "policies", "queues", "exchanges", "bindings"}
    assert all("vhost" not in each for kind in ("queues", "exchanges", "bindings") for each in alone[kind])
    api.put("/vhosts/imp2", {})
    assert api.post("/definitions/imp2", alone).status == 204
    again = api.get("/definitions/imp2").value
    assert again["queues"] == alone["queues"]
    assert again["bindings"] == alone["bindings"]
    for vhost in ("imp", "imp2"):
        api.delete(f"/vhosts/{vhost}")
    api.delete("/users/imported")


def test_a_password_of_ours_goes_out_and_in(api: Api) -> None:
    api.put("/users/ours", {"password": "hush", "tags": "management"})
    [user] = [each for each in api.get("/definitions").value["users"] if each["name"] == "ours"]
    assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"  # so that RabbitMQ takes it in
    api.delete("/users/ours")
    assert api.post("/definitions", {"users": [user]}).status == 204
    assert Api(api.broker, "ours", "hush").get("/whoami").status == 200
    api.delete("/users/ours")


def test_definitions_that_cannot_be(api: Api) -> None:
    for document, reason in (
        ({"queues": [{"name": "z", "vhost": "nowhere"}]}, 'Please create virtual host "nowhere" prior'),
        ({"queues": [{"name": "z"}]}, "Virtual host does not exist"),
        ({"queues": {}}, "queues should be a list"),
        ({"queues": [{"name": "z", "vhost": "/", "arguments": {"x-max-length": "b"}}]}, "invalid arg 'x-max-length'"),
        ({"users": [{"name": "z", "password_hash": "!", "tags": ""}]}, "password_hash"),
        ({"bindings": [{"vhost": "/", "source": "no", "destination": "z"}]}, "no exchange 'no'"),
    ):
        reply = api.post("/definitions", document)
        assert (reply.status, reply.value["error"]) == (400, "bad_request")
        assert reason in reply.value["reason"]
    assert api.call("POST", "/definitions", b"{").value["reason"] == "failed_to_parse_json"


def test_definitions_may_come_as_a_file_of_a_form(api: Api) -> None:
    document = json.dumps({"queues": [{"name": "uploaded", "vhost": "/", "durable": True}]})
    body = f'--B\r\nContent-Disposition: form-data; name="file"; filename="d.json"\r\n\r\n{document}\r\n--B--\r\n'
    reply = api.call("POST", "/definitions", body.encode(), content_type="multipart/form-data; boundary=B")
    assert reply.status == 204
    assert api.delete("/queues/%2F/uploaded").status == 204


def test_a_tag_does_not_do_by_another_path_what_it_may_not(api: Api) -> None:
    """A policymaker sets no operator policies and no limits as parameters; who monitors closes no connections."""
    tagged = {}
    for name in ("policymaker", "monitoring"):
        api.put(f"/users/{name}", {"password": "hush", "tags": name})
        api.put(f"/permissions/%2F/{name}", {"configure": "", "write": "", "read": ""})
        tagged[name] = Api(api.broker, name, "hush")
    maker, monitor = tagged["policymaker"], tagged["monitoring"]
    value = {"value": {"pattern": ".*", "definition": {"max-length": 1}}}
    for path, body in (
        ("/parameters/operator_policy/%2F/mine", value),
        ("/parameters/vhost-limits/%2F/limits", {"value": {"max-queues": 1}}),
    ):
        assert maker.put(path, body).status == 401, path
        assert api.put(path, body).status == 201, path
        assert maker.delete(path).status == 401, path
        assert api.delete(path).status == 204, path
    with RawClient(api.broker.host, api.broker.port) as client:
        client.handshake()
        [name] = [each["name"] for each in monitor.get("/connections").value]
        assert monitor.get(("connections", name)).status == 200
        assert monitor.delete(("connections", name)).status == 401
        assert monitor.delete("/connections/username/guest").status == 401
        assert api.delete(("connections", name)).status == 204
    for user in tagged:
        api.delete(f"/users/{user}")
