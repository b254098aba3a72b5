"""A crowd that misbehaves, and what two good clients notice of it: a program that prints figures.

    PYTHONPATH=src:tests python -m robustness.crowd

A publisher and a consumer exchange 200 confirmed, durable messages a second on a broker that this program starts: a
while alone; then while the connections of the crowd each do something that they should not, again and again, to
another broker on this machine, which shows what they cost the machine; then while they do it to this one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trustme

from broker_process import BrokerProcess, free_port
from robustness import peers as p
from robustness.attacks import nested, tls_hello
from robustness.citizens import MIB, Memory

PER_SECOND = 200
QUEUE = "good"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPENING = p.PROTOCOL_HEADER + p.start_ok() + p.tune_ok() + p.connection_open() + p.channel_open(1)
HUGE = b"\x20\x00" + p.long(b"\x01h" + b"S" + p.long(b"x" * 130_000))  # properties with one header of 130 kB
NESTED = b"\x20\x00" + nested(5000, b"F")


# --- What the crowd does ------------------------------------------------------------------------------------------


async def silent(streams: Streams) -> None:
    """No handshake at all."""
    await streams[0].read()


async def half(streams: Streams) -> None:
    """Stops in the middle of the handshake."""
    streams[1].write(p.PROTOCOL_HEADER + p.start_ok())
    while await streams[0].read(65_536):
        pass


async def byte_by_byte(streams: Streams) -> None:
    for byte in OPENING:
        streams[1].write(bytes((byte,)))
        await asyncio.sleep(0.05)


async def garbage(streams: Streams) -> None:
    streams[1].write(random.randbytes(200_000))
    await streams[0].read()


async def wrong_password(streams: Streams) -> None:
    """One of the thousand."""
    streams[1].write(p.PROTOCOL_HEADER + p.start_ok("guest", f"guess{random.random()}"))
    await streams[0].read()


async def huge_headers(streams: Streams) -> None:
    """Properties of 130 kB, and tables nested deep, as fast as they are taken."""
    streams[1].write(OPENING + p.queue_declare(1, "huge", False, arguments=p.table(x_max_length=10)))
    for _ in range(50):
        streams[1].write(p.publish(1, "", "huge", b"x", HUGE) * 5)
        await streams[1].drain()
    streams[1].write(p.publish(1, "", "huge", b"x", NESTED))
    while await streams[0].read(65_536):
        pass


async def endless_body(streams: Streams) -> None:
    """Begins messages of 100 MB on many channels, and ends none."""
    streams[1].write(OPENING)
    for channel in range(2, 40):
        begun = (
            p.publish_method(channel, "", "huge") + p.header(channel, 100_000_000) + p.bodies(channel, b"x" * 50_000)
        )
        streams[1].write(p.channel_open(channel) + begun)
        await streams[1].drain()
    await asyncio.sleep(5)


async def deaf_consumer(streams: Streams) -> None:
    """Consumes and gives back, and never reads."""
    streams[1].write(OPENING + p.basic_consume(1, "full") + p.basic_get(1, "full", no_ack=False) * 1000)
    await asyncio.sleep(random.uniform(5, 15))


async def deaf_publisher(streams: Streams) -> None:
    """Publishes to nowhere, mandatory, and never reads what comes back."""
    streams[1].write(OPENING)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(random.uniform(5, 15)):
            while True:
                streams[1].write(p.publish(1, "", "nowhere", b"x" * 1000, mandatory=True) * 50)
                await streams[1].drain()


async def channels(streams: Streams) -> None:
    """Opens and closes channels, 2,000 at a time."""
    streams[1].write(OPENING)
    for _ in range(5):
        opened = b"".join(map(p.channel_open, range(2, 2000)))
        streams[1].write(opened + b"".join(map(p.channel_close, range(2, 2000))))
        await streams[1].drain()
        await streams[0].read(65_536)
        await asyncio.sleep(0.5)


async def come_and_go(streams: Streams) -> None:
    """Connects, and leaves at once without a word."""
    streams[1].write(p.PROTOCOL_HEADER)


async def half_tls(streams: Streams) -> None:
    streams[1].write(tls_hello()[:100])
    await streams[0].read()


async def tls_and_silence(streams: Streams) -> None:
    """The client's hello, which costs the broker a signature, and nothing more."""
    streams[1].write(tls_hello())
    while await streams[0].read(65_536):
        pass


async def plain_on_tls(streams: Streams) -> None:
    streams[1].write(OPENING)
    await streams[0].read()


PLAIN: list[Callable[[Streams], Awaitable[None]]] = [
    silent,
    half,
    byte_by_byte,
    garbage,
    wrong_password,
    huge_headers,
    endless_body,
    deaf_consumer,
    deaf_publisher,
    channels,
    come_and_go,
]
OVER_TLS = [half_tls, tls_and_silence, plain_on_tls]


async def misbehave(number: int, port: int, tls_port: int, only: str, pause: float, counts: dict[str, int]) -> None:
    """One of the crowd, for ever."""
    await asyncio.sleep(pause * random.random())  # they need not be in step
    kinds = [kind for kind in PLAIN + OVER_TLS if not only or kind.__name__ in only.split(",")]
    kind = kinds[number % len(kinds)]
    at = tls_port if kind in OVER_TLS else port
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            streams = await asyncio.open_connection("127.0.0.1", at)
            counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
            try:
                await kind(streams)
            finally:
                streams[1].transport.abort()
        await asyncio.sleep(pause)


async def crowd(port: int, tls_port: int, size: int, seconds: float, only: str, pause: float) -> None:
    """Prints how often each kind was done."""
    counts: dict[str, int] = {}
    tasks = [asyncio.create_task(misbehave(n, port, tls_port, only, pause, counts)) for n in range(size)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


# --- The good ones ------------------------------------------------------------------------------------------------


class Good:
    """Times of messages, in ms, from publish to delivery and from publish to confirm."""

    def __init__(self, port: int) -> None:
        self._publisher = p.Peer(port)
        self._consumer = p.Peer(port)
        self._publisher.declare(QUEUE)
        self._publisher.call(p.confirm_select(1), p.CONFIRM_OK)
        self._consumer.send(p.basic_consume(1, QUEUE))
        self._sent: dict[int, float] = {}
        self._sequence = 0
        self._measured: tuple[list[float], list[float]] = ([], [])
        for work in (self._take, self._hear):
            threading.Thread(target=self._until_closed, args=(work,), daemon=True).start()

    def _until_closed(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(p.Closed):
            work()

    def measure(self, seconds: float) -> tuple[list[float], list[float]]:
        self._measured = ([], [])
        begun = time.perf_counter()
        for n in range(int(seconds * PER_SECOND)):
            time.sleep(max(0.0, begun + n / PER_SECOND - time.perf_counter()))
            self._sequence += 1
            self._sent[self._sequence] = now = time.perf_counter()
            self._publisher.send(p.publish(1, "", QUEUE, repr(now).encode(), p.PERSISTENT))
        deadline = time.monotonic() + 30
        while self._sent and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self._sent, f"{len(self._sent)} messages were not confirmed"
        return self._measured

    def _take(self) -> None:
        while True:
            for event in self._consumer.receive():
                if event.key == p.DELIVER:
                    self._measured[0].append(1000 * (time.perf_counter() - float(event.body)))
                    self._consumer.send(p.ack(1, event.tag))

    def _hear(self) -> None:
        while True:
            for event in self._publisher.receive():
                now = time.perf_counter()
                first = min(self._sent, default=event.tag) if event.multiple else event.tag
                for tag in range(first, event.tag + 1):
                    if (sent := self._sent.pop(tag, None)) is not None:
                        self._measured[1].append(1000 * (now - sent))


def quantiles(times: list[float]) -> str:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {ordered[-1]:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="connections of the crowd")
    parser.add_argument("--seconds", type=float, default=20, help="of each phase")
    parser.add_argument(
        "--nice", type=int, default=0, help="of the crowd's process: 19 leaves the processors to others"
    )
    parser.add_argument("--only", default="", help="the crowd does these things, by their functions' names")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two misdeeds of a connection")
    parser.add_argument("--crowd", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        os.nice(options.nice)
        asyncio.run(crowd(*options.crowd, options.size, options.seconds, options.only, options.pause))
        return
    with tempfile.TemporaryDirectory(dir=".") as name:
        run(Path(name).resolve(), options)


class Target:
    """A broker in `directory`, with a port for TLS and a queue of 200 MB."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.tls_port = free_port()
        certificate = directory / "server.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
        environment = {
            "PABAL_TLS_CERTIFICATE": str(certificate),
            "PABAL_TLS_PORT": str(self.tls_port),
            "PABAL_HTTPS_PORT": "0",
        }
        self.broker = BrokerProcess(directory, environment=environment).start()
        with p.Peer(self.broker.port) as peer:
            peer.declare("full")
        p.fill(self.broker.port, "full", (b"x" * 10_000 for _ in range(20_000)))

    def meet_crowd(self, good: Good, options: argparse.Namespace) -> tuple[str, str]:
        """What `good`, who may be elsewhere, notices of the crowd meanwhile, and what the crowd did."""
        arguments = ["--size", str(options.size), "--seconds", str(options.seconds + 5), "--nice", str(options.nice)]
        arguments += ["--only", options.only, "--pause", str(options.pause)]
        arguments += ["--crowd", str(self.broker.port), str(self.tls_port)]
        command = [sys.executable, "-m", "robustness.crowd", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(4)  # until all of them have come, and some come again
            noticed = good.measure(options.seconds)
            did, _ = process.communicate()
        return described(*noticed), did.strip()

    def stop(self) -> None:
        assert "Traceback" not in self.broker.log(), self.broker.log()[-5000:]
        self.broker.stop()


def described(deliveries: list[float], confirms: list[float]) -> str:
    return f"delivery {quantiles(deliveries)}; confirm {quantiles(confirms)}"


def run(directory: Path, options: argparse.Namespace) -> None:
    target = Target(directory / "target")
    other = Target(directory / "other")
    try:
        good = Good(target.broker.port)
        good.measure(3)
        memory = Memory(target.broker.pid)
        print("alone:    ", described(*good.measure(options.seconds)), f"{memory.most / MIB:.0f} MiB", sep="  ")
        print("elsewhere:", other.meet_crowd(good, options)[0], sep="  ")
        other.stop()
        noticed, did = target.meet_crowd(good, options)
        memory.stop()
        print("here:     ", noticed, f"{memory.most / MIB:.0f} MiB", sep="  ")
        print(f"{options.size} connections here: {did}")
        target.stop()
    finally:
        target.broker.kill()
        other.broker.kill()


if __name__ == "__main__":
    main()
