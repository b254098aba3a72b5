"""The two calls of RabbitMQ's HTTP API by which amqpstorm's tests clean up, done by AMQP."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

from broker_process import BrokerAddress
from clients.pika_client import open_connection


class CleanUpApi:
    """Answers DELETE /api/queues/%2F/NAME and /api/exchanges/%2F/NAME on a free port."""

    def __init__(self, broker: BrokerAddress) -> None:
        class Request(BaseHTTPRequestHandler):
            def do_DELETE(self) -> None:
                kind, _vhost, name = (unquote(part) for part in self.path.split("?")[0].split("/")[2:5])
                connection = open_connection(broker)
                channel = connection.channel()
                if kind == "queues":
                    channel.queue_delete(name)
                else:
                    channel.exchange_delete(name)
                connection.close()
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
