"""Every route, with values of types that nobody expects: whatever is sent, the answer is no error of ours."""

from __future__ import annotations

import http.client
import json
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from broker_process import BrokerProcess
from management.http_client import Api
from pabal.management.routes import Route
from pabal.management.table import ROUTES

REQUESTS = 1500


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


VALUES: list[Any] = [
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 1.5, 1e308, float("inf"), float("nan")),
    *("", "x", "true", "9" * 5000, "\ud800", "\x00", "é" * 200, "(", "(a+)+$", "/", "[]", "c2NyeXB0Og=="),
    *([], [1], ["x"], [None], [[]], {}, {"\ud800": 1}, {"": None}, {"x" * 300: 1}, nested(25), nested(400)),
    *({"max-length": 5}, {"x-message-ttl": "1"}, {"headers": {"CC": 1}}, {"alternate-exchange": 1}, "string", "auto"),
    *({"delivery_mode": "2"}, {"timestamp": 10**18}, {"expiration": 1}, "direct", "ack_requeue_false", "queue"),
]
NAMES = (
    "/",
    "x",
    "amq.topic",
    "amq.default",
    "\x00",
    "\udcff",
    "é" * 200,
    "a~b~c",
    "..",
    "\n",
    "q",
    "e",
    "limits",
    "²",
)
QUERIES = (
    *("page", "page_size", "name", "use_regex", "sort", "columns", "lengths_age", "lengths_incr", "msg_rates_age"),
    *("msg_rates_incr", "after", "offset", "count", "truncate", "family", "vhost", "memory", "if-unused", "download"),
)
TEXTS = (
    "",
    "0",
    "1",
    "-1",
    "9" * 4000,
    "9" * 4400,
    "true",
    "(",
    "a.b",
    "%00",
    "%ff",
    "²",
    "1_0",
    "message_stats.publish",
)
LISTS = ("users", "vhosts", "permissions", "topic_permissions", "policies", "parameters", "queues", "exchanges")
KEYS = ("name", "vhost", "user", "tags", "password", "password_hash", "type", "arguments", "pattern", "definition")
LEFT_OUT = ("/tap", "/backup", "/api/users/{user}", "/api/vhosts/{vhost}", "bulk-delete")


@pytest.fixture
def random_one() -> random.Random:
    return random.Random(0)


def requests(chance: random.Random) -> Iterator[tuple[Route, str, bytes | None]]:
    routes = [route for route in ROUTES if not route.path.endswith(LEFT_OUT)]
    routes += [route for route in routes if route.body] * 4
    for _ in range(REQUESTS):
        route = chance.choice(routes)
        path = re.sub("{.*?}", lambda _: quote(chance.choice(NAMES), safe="", errors="surrogateescape"), route.path)
        asked = [
            f"{chance.choice(QUERIES)}={quote(chance.choice(TEXTS), safe='%')}" for _ in range(chance.randrange(4))
        ]
        body: Any = {name: chance.choice(VALUES) for name in re.findall("[a-z_-]+", route.body)}
        if "definitions" in path:
            body = {name: [{key: chance.choice(VALUES) for key in KEYS}] for name in chance.sample(LISTS, 3)}
        if chance.random() < 0.1:
            body = chance.choice(VALUES)
        yield route, f"{path}?{'&'.join(asked)}", json.dumps(body).encode() if route.body else None


def test_nothing_that_is_sent_is_an_error_of_ours(own_broker: BrokerProcess, random_one: random.Random) -> None:
    api = Api(own_broker)
    connection = http.client.HTTPConnection(own_broker.host, api.port, timeout=10)
    for route, path, body in requests(random_one):
        connection.request(route.method, path, body, api.headers)
        response = connection.getresponse()
        answered = response.read()
        expected = response.status < 500 or (response.status == 503 and "health" in path)
        assert expected, (route.method, path, body, answered)
    connection.close()
    assert "internal error" not in own_broker.log()
    own_broker.kill()
    own_broker.start()  # what was taken can be read again
    api = Api(own_broker)
    api.wait_until_ready()
    assert api.get("/definitions").status == 200
