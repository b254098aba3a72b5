"""How long the HTTP API takes to answer, and what that costs the messages that pass meanwhile.

    python benchmarks/http_api.py [--queues 1000] [--connections 1000] [--seconds 5]

A publisher and a consumer move durable messages as fast as they can, in a process of their own; undisturbed, and
while a client asks for one page after another with a pause between.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika

BATCH = 100
AHEAD = 4
HERE = Path(__file__).resolve().parent
PATHS = (
    "queues?page=1&page_size=100",
    "queues?page=1&page_size=500&sort=messages&sort_reverse=true",
    "connections?page=1&page_size=100",
    "channels?page=1&page_size=100",
    "overview",
    "queues",
    "connections",
    "definitions",
)


def move(port: int, count: Any) -> None:
    """Publishes to a queue and takes from it, over one socket, a few batches ahead; what comes back is counted by its
    bytes alone, so that the broker is the one that has work to do."""
    client = opened(port)
    client.send(1, pika.spec.Queue.Declare(queue="moved", durable=True))
    client.receive()
    client.send(1, pika.spec.Basic.Consume(queue="moved", consumer_tag="c", no_ack=True))
    client.receive()
    properties = pika.BasicProperties(delivery_mode=2)
    method, body = pika.spec.Basic.Publish(exchange="", routing_key="moved"), b"x" * 100
    head = pika.frame.Header(1, len(body), properties).marshal() + pika.frame.Body(1, body).marshal()
    batch = (pika.frame.Method(1, method).marshal() + head) * BATCH
    deliver = pika.spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="moved")
    size = len(pika.frame.Method(1, deliver).marshal() + head)
    received = sent = 0
    while True:
        while sent - received // size < AHEAD * BATCH:
            client.send_bytes(batch)
            sent += BATCH
        received += len(client.receive_bytes())
        count.value = received // size


def opened(port: int) -> Any:
    """A connection with a channel."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from clients.raw_client import RawClient

    client = RawClient("127.0.0.1", port)
    client.handshake()
    client.send(1, pika.spec.Channel.Open())
    client.receive()
    return client


def hold(port: int, many: int, ready: Any) -> None:
    """Opens connections with a channel each, and keeps them."""
    held = [opened(port) for _ in range(many)]
    ready.value = len(held)
    while True:
        time.sleep(10)


def ask(port: int, path: str) -> tuple[float, int]:
    """Milliseconds and bytes of an answer."""
    token = base64.b64encode(b"guest:guest").decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    connection.request("GET", f"/api/{path}", headers={"authorization": f"Basic {token}"})
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - began) * 1000
    assert response.status == 200, body
    connection.close()
    return took, len(body)


def declare(port: int, queues: int) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    channel = connection.channel()
    for number in range(queues):
        channel.queue_declare(f"queue-{number:05}", durable=True)
    connection.close()


def rate(count: Synchronized[int], seconds: float) -> float:
    first, began = count.value, time.perf_counter()
    time.sleep(seconds)
    return (count.value - first) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queues", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        port, http_port = 46_721, 46_722
        command = ["-m", "pabal", "serve", "--port", str(port), "--http-port", str(http_port), "--data", directory]
        broker = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        children: list[Any] = []
        try:
            time.sleep(2)
            declare(port, options.queues)
            count, ready = multiprocessing.Value("q", 0, lock=False), multiprocessing.Value("i", 0, lock=False)
            children.append(multiprocessing.Process(target=hold, args=(port, options.connections, ready)))
            children.append(multiprocessing.Process(target=move, args=(port, count)))
            for child in children:
                child.start()
            while not ready.value:
                time.sleep(0.1)
            time.sleep(1)
            measure(http_port, count, options)
        finally:
            for child in children:
                child.kill()
            broker.terminate()
            broker.wait()


def measure(http_port: int, count: Any, options: argparse.Namespace) -> None:
    print(f"{'':58} {'median':>8} {'worst':>8} {'bytes':>9} {'messages/s':>11}")
    for path in PATHS:
        before = rate(count, options.seconds)
        first, began = count.value, time.perf_counter()
        took = []
        size = 0
        while time.perf_counter() - began < options.seconds:
            milliseconds, size = ask(http_port, path)
            took.append(milliseconds)
            time.sleep(options.pause)
        during = (count.value - first) / (time.perf_counter() - began)
        after = rate(count, options.seconds)
        share = during / ((before + after) / 2)
        print(
            f"GET /api/{quote(path, safe='?&=_'):49} {statistics.median(took):6.1f}ms {max(took):6.1f}ms {size:9,} "
            f"{during:8,.0f} ({share:.0%})"
        )


if __name__ == "__main__":
    main()
