"""What the clients of a kill test know: who sent, got and settled what, and which of it must be durable.

The clock is a counter. A confirm proves that everything the broker had done before it took the confirmed
message is durable, so each publish is stamped when it is sent, and its confirm moves `_proven` to that stamp.
"""

from __future__ import annotations

import itertools
import random
import threading
import zlib
from collections import Counter, defaultdict

SIZES = (0, 0, 10, 100, 100, 1000, 3000)
LARGE_BYTES = 300_000  # more than two body frames


def make_body(source: str, number: int, randomness: random.Random) -> bytes:
    """A body that names itself and can be checked."""
    size = LARGE_BYTES if randomness.random() < 0.001 else randomness.choice(SIZES)
    text = f"{source}:{number}:".encode() + bytes((65 + number % 26,)) * size
    return text + b"%08x" % zlib.crc32(text)


def read_body(body: bytes) -> tuple[str, int]:
    text, check = body[:-8], body[-8:]
    assert b"%08x" % zlib.crc32(text) == check, f"a damaged body: {body[:60]!r}"
    source, number, _ = text.split(b":", 2)
    return source.decode(), int(number)


class Ledger:
    """Of messages named (source, number), in queues. Used by many threads. `problems`: what must not be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ticks = itertools.count(1)
        self._proven = 0
        self.sent: dict[str, int] = Counter()
        self.confirmed: dict[str, set[int]] = defaultdict(set)
        self.received: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """By queue: delivered at least once."""
        self.marked: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """By queue: delivered, and durably noted as such: when it comes again, it must say so."""
        self._this_life: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
        self.settled: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """By queue: settled, and proven durable."""
        self.acked: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """By queue: an ack was sent, whatever became of it."""
        self.problems: list[str] = []
        self.ending = False
        """Consumers are leaving, so what they held is given to others: later than what came after it."""
        self.confirm_count = 0
        self.delivery_count = 0
        self.redelivered_count = 0
        self.unflagged_count = 0
        """Redelivered without the flag where the first delivery was not proven durable: permitted."""

    def now(self) -> int:
        return next(self._ticks)

    def next_number(self, source: str) -> int:
        with self._lock:
            self.sent[source] += 1
            return self.sent[source]

    def confirm(self, source: str, numbers: list[int], stamp: int) -> None:
        """The broker confirmed these; the last of them was sent at `stamp`."""
        with self._lock:
            self.confirmed[source].update(numbers)
            self.confirm_count += len(numbers)
            self._proven = max(self._proven, stamp)

    def prove(self, stamp: int) -> None:
        with self._lock:
            self._proven = max(self._proven, stamp)

    def deliver(self, queue: str, name: tuple[str, int], redelivered: bool) -> None:
        """To be called before anything is said of the delivery."""
        with self._lock:
            self.delivery_count += 1
            self.redelivered_count += redelivered
            if not 0 < name[1] <= self.sent[name[0]]:
                self.problems.append(f"{queue}: {name} was never sent")
            if name in self.settled[queue]:
                self.problems.append(f"{queue}: {name} came back after its ack was durable")
            if name in self.received[queue] and not redelivered:
                if name in self.marked[queue]:
                    self.problems.append(f"{queue}: {name} came again and is not marked as redelivered")
                else:
                    self.unflagged_count += 1
            self.received[queue].add(name)
            self._this_life[queue][name] = next(self._ticks)

    def end_life(self) -> None:
        """The broker is down and the clients have ended: what it had made durable by then stays so."""
        with self._lock:
            for queue, stamps in self._this_life.items():
                self.marked[queue].update(name for name, stamp in stamps.items() if stamp < self._proven)
            self._this_life.clear()
            self._proven = 0

    def settle(self, queue: str, names: list[tuple[str, int]]) -> None:
        with self._lock:
            self.settled[queue].update(names)

    def check(self, queue: str, sources: list[str], left: list[tuple[str, int]]) -> None:
        """At the end, `left` being what the queue still held, in order."""
        counts = Counter(left)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            self.problems.append(f"{queue}: twice in the queue: {twice[:5]} and {len(twice)} in all")
        seen = set(self.received[queue]) | set(left)
        for source in sources:
            lost = [number for number in sorted(self.confirmed[source]) if (source, number) not in seen]
            if lost:
                self.problems.append(f"{queue}: {len(lost)} confirmed of {source} lost: {lost[:5]}...")
            numbers = [number for name, number in left if name == source]
            if numbers != sorted(numbers):
                self.problems.append(f"{queue}: what is left of {source} is not in order")
        back = [name for name in left if name in self.settled[queue]]
        if back:
            self.problems.append(f"{queue}: {len(back)} came back after their ack was durable: {back[:5]}")
        for name in left:
            if not 0 < name[1] <= self.sent[name[0]]:
                self.problems.append(f"{queue}: {name} was never sent")
