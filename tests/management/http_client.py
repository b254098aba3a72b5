"""A client of the HTTP API, of the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import time
from typing import Any
from urllib.parse import quote

from broker_process import BrokerProcess

STARTED_SECONDS_MAX = 10.0
ANSWER_SECONDS_MAX = 20.0


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def value(self) -> Any:
        return json.loads(self.body)


class Api:
    """As one user. Paths are without /api but for those of `call_anywhere`; a path of parts is quoted."""

    def __init__(self, broker: BrokerProcess, user: str = "guest", password: str = "guest") -> None:
        assert broker.http_port is not None
        self.broker = broker
        self.port = broker.http_port
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.headers = {"authorization": f"Basic {token}"}

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + STARTED_SECONDS_MAX
        while True:
            try:
                if self.get("/whoami").status == 200:
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline, f"no HTTP API:\n{self.broker.log()}"
            time.sleep(0.02)

    def call(self, method: str, path: str | tuple[str, ...], body: Any = None, **headers: str) -> Reply:
        return self.call_anywhere(method, path, "/api", body, **headers)

    def call_anywhere(
        self, method: str, path: str | tuple[str, ...], prefix: str = "", body: Any = None, **headers: str
    ) -> Reply:
        if isinstance(path, tuple):
            path = "/" + "/".join(quote(part, safe="") for part in path)
        connection = http.client.HTTPConnection(self.broker.host, self.port, timeout=ANSWER_SECONDS_MAX)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, f"{prefix}{path}", data, {**self.headers, **named})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str | tuple[str, ...]) -> Reply:
        return self.call("GET", path)

    def put(self, path: str | tuple[str, ...], body: Any = None) -> Reply:
        return self.call("PUT", path, body)

    def post(self, path: str | tuple[str, ...], body: Any = None) -> Reply:
        return self.call("POST", path, body)

    def delete(self, path: str | tuple[str, ...]) -> Reply:
        return self.call("DELETE", path)

    def publish(self, queue: str, payload: str, vhost: str = "/", **properties: Any) -> Reply:
        body = {"routing_key": queue, "properties": properties, "payload": payload, "payload_encoding": "string"}
        return self.post(("exchanges", vhost, "amq.default", "publish"), body)

    def take(self, queue: str, count: int = 1, ackmode: str = "ack_requeue_false", vhost: str = "/") -> Any:
        body = {"count": count, "ackmode": ackmode, "encoding": "auto"}
        reply = self.post(("queues", vhost, queue, "get"), body)
        assert reply.status == 200, reply.body
        return reply.value
