"""What TLS costs: one publisher and one consumer, transient messages without acks, over TLS and without.

    python benchmarks/tls.py --port 5672 --tls-port 5671 [--bytes 100] [--messages 500000]

The broker runs already, with any certificate (it is not checked here). Both ends are processes of their own that
only write prepared frames and count bytes: what is measured is mostly the broker.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
import statistics
import struct
import time

from client import frame, method, publish_frames
from shapes import long_string, short_string

_OPENING = (
    b"AMQP\x00\x00\x09\x01"
    + method(
        10, 11, long_string(b"") + short_string("PLAIN") + long_string(b"\0guest\0guest") + short_string("en"), 0
    )
    + method(10, 31, struct.pack(">HIH", 10, 131_072, 0), 0)
    + method(10, 40, short_string("/") + b"\0\0", 0)
    + method(20, 10, b"\0")
)


def connect(port: int, tls: bool) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return plain
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def publish(port: int, tls: bool, queue: str, count: int, size: int) -> None:
    peer = connect(port, tls)
    peer.sendall(_OPENING)
    one, _ = publish_frames("", queue, (0x1000, b"\x01"), b"x" * size, 131_072)
    batch = max(1, 200_000 // len(one))
    for at in range(0, count, batch):
        peer.sendall(one * min(batch, count - at))
    time.sleep(60)


def run(port: int, tls: bool, count: int, size: int) -> float:
    """Messages a second."""
    queue = f"tls.{os.getpid()}.{time.monotonic_ns()}"
    peer = connect(port, tls)
    declare = method(50, 10, b"\0\0" + short_string(queue) + b"\x08" + long_string(b""))  # deleted with its consumer
    consume = method(60, 20, b"\0\0" + short_string(queue) + short_string("c") + b"\x02" + long_string(b""))
    peer.sendall(_OPENING + declare + consume)
    begun = b""
    while b"\x00\x3c\x00\x15\x01c" not in begun:  # basic.consume-ok
        begun += peer.recv(65_536)
    process = multiprocessing.Process(target=publish, args=(port, tls, queue, count, size), daemon=True)
    process.start()
    buffer = bytearray(1 << 18)
    first = received = 0
    end = frame(3, 1, b"x" * size)
    started = 0.0
    rest = b""
    while received < count:
        got = peer.recv_into(buffer)
        if not got:
            raise SystemExit("the broker closed the connection")
        if not first:
            first, started = 1, time.perf_counter()
        data = rest + buffer[:got]
        received += data.count(end)
        rest = data[-(len(end) - 1) :]
    seconds = time.perf_counter() - started
    process.kill()
    peer.close()
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5672)
    parser.add_argument("--tls-port", type=int, default=5671)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"plain": [], "TLS": []}
    for _ in range(options.rounds):
        for name, port in (("plain", options.port), ("TLS", options.tls_port)):
            rates[name].append(run(port, name == "TLS", options.messages, options.bytes))
    for name, each in rates.items():
        rate = statistics.median(each)
        print(f"{name:<6} {rate:>10,.0f} messages/s  {rate * options.bytes / 1e6:>8,.0f} MB/s of bodies")


if __name__ == "__main__":
    main()
