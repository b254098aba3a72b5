"""Good clients that work while others misbehave, and a watch on the broker's memory."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator

import pika
from pika.exceptions import AMQPError

from broker_process import BrokerAddress
from robustness.peers import WAIT_SECONDS_MAX, anonymous_bytes, eventually, rss_bytes

MIB = 1024 * 1024


class Memory:
    """Samples a process's memory until stopped. `most`: its own, in bytes; `most_mapped`: with mapped files."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = self.most_mapped = 0
        self._look()
        self._thread.start()

    def _look(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.most = max(self.most, anonymous_bytes(self._pid))
            self.most_mapped = max(self.most_mapped, rss_bytes(self._pid))

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            self._look()

    def check(self, most: int) -> None:
        self._look()
        assert self.most <= most, f"{self.most / MIB:.0f} MiB of memory, more than {most / MIB:.0f}"

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def memory_under(pid: int, most: int) -> Iterator[Memory]:
    """The process's own memory stays below `most` bytes in the block. Prints the most it was."""
    memory = Memory(pid)
    try:
        yield memory
    finally:
        memory.stop()
        print(f"memory: {memory.most / MIB:.0f} MiB, with mapped files {memory.most_mapped / MIB:.0f} MiB")
    memory.check(most)


class Citizens:
    """A pika publisher with confirms and a pika consumer with acks on one durable queue.

    `slowest_seconds`: the longest that a confirm took.
    """

    def __init__(self, broker: BrokerAddress, queue: str = "citizens") -> None:
        self._parameters = pika.ConnectionParameters(
            broker.host, broker.port, heartbeat=20, blocked_connection_timeout=WAIT_SECONDS_MAX
        )
        self._queue = queue
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(f,)) for f in (self._publish, self._consume)]
        self.confirmed = 0
        self.received: list[bytes] = []
        self.slowest_seconds = 0.0
        self.failures: list[str] = []

    def start(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        connection.channel().queue_declare(self._queue, durable=True)
        connection.close()
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.received or self.failures, "the good clients work")

    def _guard(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception:
            self.failures.append(traceback.format_exc())

    def _publish(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        channel = connection.channel()
        channel.confirm_delivery()
        persistent = pika.BasicProperties(delivery_mode=2)
        while not self._ended.is_set():
            begun = time.monotonic()
            channel.basic_publish("", self._queue, b"%d" % self.confirmed, persistent, mandatory=True)
            self.confirmed += 1
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
        connection.close()

    def _consume(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=100)
        deadline = 0.0
        for method, _, body in channel.consume(self._queue, inactivity_timeout=0.05):
            if method is not None:
                self.received.append(body)
                channel.basic_ack(method.delivery_tag)
            if self._ended.is_set() and not self._threads[0].is_alive():
                deadline = deadline or time.monotonic() + WAIT_SECONDS_MAX
                if len(self.received) >= self.confirmed or time.monotonic() > deadline:
                    break
        with contextlib.suppress(AMQPError):
            connection.close()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2 * WAIT_SECONDS_MAX)

    def check(self, slowest_seconds: float) -> None:
        assert not self.failures, "\n".join(self.failures)
        assert self.received == [b"%d" % n for n in range(self.confirmed)]
        assert self.slowest_seconds <= slowest_seconds, f"a confirm took {self.slowest_seconds:.1f} s"


@contextlib.contextmanager
def unharmed(broker: BrokerAddress, slowest_seconds: float = 3.0, queue: str = "citizens") -> Iterator[Citizens]:
    """Good clients work on the broker during the block, lose nothing and never wait long."""
    citizens = Citizens(broker, queue)
    try:
        citizens.start()
        yield citizens
    finally:
        citizens.stop()
        print(f"good clients: {citizens.confirmed} confirmed, slowest {citizens.slowest_seconds * 1000:.0f} ms")
    citizens.check(slowest_seconds)
