"""Many connections or many queues from one process: endpoints that publish to queues and consume from them.

Where one publisher on one queue can count bytes, an endpoint with many queues looks at every delivery: that it is
whole, its delivery tag, and that it is the message whose turn it was in its queue.
"""

from __future__ import annotations

import select
import struct
import time
from array import array
from dataclasses import dataclass

from client import Connection, method, publish_frames
from publisher import Confirms
from shapes import properties, short_string, table
from spec import Load, LoadError

TAG_BYTES = 5
HEAD_BYTES = 16
"""A body begins with its number in its queue and the time of its sending."""
_NUMBERS = struct.Struct(">QQ")
_DELIVER = b"\x00\x3c\x00\x3c"
_ACK = b"\x00\x3c\x00\x50"
_NO_ACK, _NO_WAIT = 2, 8
_CONFIRM_BYTES = 21
_RECEIVE_BYTES = 262_144
PATIENCE_S = 20.0


@dataclass(slots=True)
class Place:
    """A queue of an endpoint: what goes before and after a message's numbers, and how many went and came."""

    before: bytes
    after: bytes
    sent: int = 0
    came: int = 0


class Endpoint:
    """A connection with one channel that publishes and consumes.

    Args:
        load: its port, durability, size of bodies, window (0: no confirms), prefetch (0: automatic acks), rate.
        queues: their names, all of one length.
        exchange: what to publish to, with the queue's name as routing key; "": the default exchange.

    Attributes:
        sock: the connection's.
        sent, confirmed, came: messages.
        end_to_end_ns, confirm_ns: latencies, noted when the load has a rate.
    """

    def __init__(self, load: Load, queues: list[str], exchange: str = "") -> None:
        self._load = load
        self._connection = Connection(load.port, timeout_s=60.0)
        self.sock = self._connection.sock
        if load.window:
            self._connection.select_confirms()
        self._confirms = Confirms(self._connection)
        self._places = [self._place(queue, exchange) for queue in queues]
        self._queues = queues
        around = len(exchange) + len(queues[0]) + TAG_BYTES
        self._delivery_bytes = (
            7 + 4 + 8 + 1 + 3 + around + 1 + 7 + 14 + len(properties(load, 0)[1]) + 1 + 8 + load.size_bytes
        )
        self._body_at = self._delivery_bytes - 1 - load.size_bytes
        self._turn = 0
        self._rest = b""
        self._sent_ns: array[int] = array("q", [0])
        self.sent = self.confirmed = self.came = 0
        self.end_to_end_ns: array[int] = array("q")
        self.confirm_ns: array[int] = array("q")

    def _place(self, queue: str, exchange: str) -> Place:
        load = self._load
        body = b"x" * load.size_bytes
        frame_bytes_max = self._connection.frame_bytes_max
        whole, at = publish_frames(exchange, queue, properties(load, 0), body, frame_bytes_max)
        return Place(whole[:at], whole[at + HEAD_BYTES :])

    def subscribe(self) -> None:
        """Consume from all queues; without waiting for an answer, since deliveries come before it."""
        load = self._load
        if load.prefetch:
            self._connection.call(60, 10, struct.pack(">IHB", 0, load.prefetch, 0), 11)
        flags = bytes([_NO_WAIT | (0 if load.prefetch else _NO_ACK)])
        tags = [short_string(f"{number:0{TAG_BYTES}}") for number in range(len(self._queues))]
        for tag, queue in zip(tags, self._queues, strict=True):
            self._connection.send(method(60, 20, b"\x00\x00" + short_string(queue) + tag + flags + table({})))

    def publish(self, count: int) -> None:
        """Publish messages to the queue whose turn it is."""
        place = self._places[self._turn]
        self._turn = (self._turn + 1) % len(self._places)
        before, after, pack = place.before, place.after, _NUMBERS.pack
        now_ns = time.monotonic_ns()
        first, place.sent = place.sent, place.sent + count
        self._connection.send(b"".join([before + pack(each, now_ns) + after for each in range(first, place.sent)]))
        self.sent += count
        if self._load.rate_per_s:
            self._sent_ns.extend([now_ns] * count)

    def receive(self) -> None:
        """Take in what has come, and acknowledge it.

        Raises:
            LoadError: a message out of turn, or the broker closed.
        """
        chunk = self.sock.recv(_RECEIVE_BYTES)
        if not chunk:
            raise LoadError("the broker closed the connection without a word")
        data = self._rest + chunk
        size, at, before = self._delivery_bytes, 0, self.came
        while len(data) - at >= _CONFIRM_BYTES:
            kind = data[at + 7 : at + 11]
            if kind == _DELIVER:
                if len(data) - at < size:
                    break
                self._take(data, at)
                at += size
            elif kind == _ACK:
                self._note_confirm(data, at)
                at += _CONFIRM_BYTES
            else:
                self._connection.buffer[:] = data[at:]
                self._connection.read_frame()
                raise LoadError(f"expected a delivery or a confirm, got {data[at : at + 40]!r}")
        self._rest = data[at:]
        if self._load.prefetch and self.came > before:
            self._connection.ack(self.came)

    def _take(self, data: bytes, at: int) -> None:
        """Look at one delivery."""
        self.came += 1
        number, sent_ns = _NUMBERS.unpack_from(data, at + self._body_at)
        consumer = int(data[at + 12 : at + 12 + TAG_BYTES])
        place = self._places[consumer]
        tag = int.from_bytes(data[at + 17 : at + 25])
        if tag != self.came or number != place.came or data[at + self._delivery_bytes - 1] != 0xCE:
            raise LoadError(
                f"delivery {tag} (the {self.came}th) is {number}, not {place.came}, of {self._queues[consumer]}"
            )
        place.came += 1
        if self._load.rate_per_s:
            self.end_to_end_ns.append(time.monotonic_ns() - sent_ns)

    def _note_confirm(self, data: bytes, at: int) -> None:
        fresh = self._confirms.settle(int.from_bytes(data[at + 11 : at + 19]), bool(data[at + 19] & 1))
        self.confirmed += len(fresh)
        if self._load.rate_per_s:
            now_ns = time.monotonic_ns()
            self.confirm_ns.extend([now_ns - self._sent_ns[each] for each in fresh])

    def close(self) -> None:
        """Have everything taken in, then hang up."""
        self._connection.close()


class Crowd:
    """Endpoints that share a load, served by one poll.

    Args:
        endpoints: not yet publishing.
        copies: deliveries of each message.
        subscribed: have all endpoints consume.

    Attributes:
        sent, came: messages and deliveries so far.
    """

    def __init__(self, endpoints: list[Endpoint], *, copies: int = 1, subscribed: bool = False) -> None:
        self._endpoints = endpoints
        if subscribed:
            self.subscribe()
        self._by_file = {each.sock.fileno(): each for each in endpoints}
        self._copies = copies
        self._turn = self._confirmed = self.sent = self.came = 0
        self._poll = select.epoll()
        for file in self._by_file:
            self._poll.register(file, select.EPOLLIN)

    def subscribe(self) -> None:
        """Have all endpoints consume from their queues."""
        for each in self._endpoints:
            each.subscribe()

    def _receive(self, timeout_s: float) -> bool:
        ready = self._poll.poll(timeout_s)
        for file, _ in ready:
            endpoint = self._by_file[file]
            confirmed, came = endpoint.confirmed, endpoint.came
            endpoint.receive()
            self._confirmed += endpoint.confirmed - confirmed
            self.came += endpoint.came - came
        return bool(ready)

    def _publish(self, count: int) -> None:
        self._endpoints[self._turn].publish(count)
        self._turn = (self._turn + 1) % len(self._endpoints)
        self.sent += count

    def _under_way(self, *, confirms: bool, deliveries: bool) -> int:
        """Messages sent, and not yet confirmed, or not yet delivered."""
        confirmed = self._confirmed if confirms else self.sent
        came = self.came // self._copies if deliveries else self.sent
        return self.sent - min(confirmed, came)

    def run(self, messages: int, burst: int, window: int, *, confirms: bool, deliveries: bool) -> None:
        """Send messages in bursts, to one endpoint and queue after the other, until all are through.

        Args:
            messages: in total.
            burst: at once to one queue.
            window: under way at once.
            confirms: wait for confirms.
            deliveries: wait for deliveries.
        """
        while (under_way := self._under_way(confirms=confirms, deliveries=deliveries)) or self.sent < messages:
            while self.sent < messages and under_way + burst <= window:
                count = min(burst, messages - self.sent)
                self._publish(count)
                under_way += count
            if under_way and not self._receive(PATIENCE_S):
                raise LoadError(f"nothing from the broker for {PATIENCE_S:.0f} s with {under_way} messages under way")

    def run_at_rate(self, messages: int, rate_per_s: float, *, confirms: bool) -> None:
        """Send a message at a time, to one endpoint after the other, so many a second over all of them."""
        started_ns = time.monotonic_ns()
        while self.sent < messages:
            due = min(messages, int((time.monotonic_ns() - started_ns) * rate_per_s / 1e9) + 1)
            for _ in range(self.sent, due):
                self._publish(1)
            next_s = (started_ns + self.sent * 1e9 / rate_per_s - time.monotonic_ns()) / 1e9
            self._receive(max(0.0, next_s))
        while left := self._under_way(confirms=confirms, deliveries=True):
            if not self._receive(PATIENCE_S):
                raise LoadError(f"nothing from the broker for {PATIENCE_S:.0f} s with {left} messages under way")

    def drain(self, deliveries: int) -> None:
        """Take in so many deliveries in total."""
        while self.came < deliveries:
            if not self._receive(PATIENCE_S):
                raise LoadError(f"nothing from the broker for {PATIENCE_S:.0f} s after {self.came} deliveries")

    def close(self) -> None:
        """Close all endpoints."""
        self._poll.close()
        for each in self._endpoints:
            each.close()
