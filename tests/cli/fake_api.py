"""An HTTP API whose answers are given beforehand, and which remembers what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    body: Any
    headers: dict[str, str]


class FakeApi:
    """`answers[method, path]` is a status with what is sent as JSON, or as it is if it is bytes."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.requests: list[Request] = []
        self.dies_at: set[tuple[str, str]] = set()
        self.connections = 0
        fake = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                fake.connections += 1
                super().setup()

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(length)
                body = json.loads(text) if text else None
                fake.requests.append(Request(self.command, self.path, body, dict(self.headers)))
                if (self.command, self.path.removeprefix("/api/")) in fake.dies_at:
                    self.close_connection = True  # without an answer
                    return
                status, content = fake.answers.get(
                    (self.command, self.path), (404, {"error": "Object Not Found", "reason": "Not Found"})
                )
                if not isinstance(content, bytes):
                    content = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                promised = len(content)
                if content.endswith(b"CUT"):  # a server that dies on the way
                    promised += 10
                    self.close_connection = True
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://guest:guest@127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, method: str, path: str, content: Any = None, status: int = 200) -> None:
        self.answers[method, f"/api/{path}"] = (status, content)

    def changes(self) -> list[tuple[str, str, Any]]:
        """What was asked for beside GET."""
        return [(r.method, r.path.removeprefix("/api/"), r.body) for r in self.requests if r.method != "GET"]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
