"""The clients of a kill test, a thread each: publishers, consumers, workers that prove what they settled."""

from __future__ import annotations

import random
import threading
import traceback
from collections import deque

from robustness import peers as p
from robustness.ledger import Ledger, make_body, read_body


class Client(threading.Thread):
    """Works until the broker ends the connection or `halt` is set. `failure`: what should not happen."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.ledger = ledger
        self.halt = threading.Event()
        self.failure = ""
        self.close_code = 0
        self.ready = threading.Event()

    def run(self) -> None:
        try:
            with p.Peer(self.port, timeout=1.0) as peer:
                self.set_up(peer)
                self.ready.set()
                while not self.halt.is_set():
                    try:
                        self.work(peer)
                    except TimeoutError:
                        continue
        except (p.Closed, ConnectionError):
            pass
        except TimeoutError:
            pass  # in set_up: the broker was killed or stopped then
        except Exception:
            self.failure = traceback.format_exc()
        finally:
            self.ready.set()

    def set_up(self, peer: p.Peer) -> None:
        raise NotImplementedError

    def work(self, peer: p.Peer) -> None:
        raise NotImplementedError

    def take_close(self, peer: p.Peer, event: p.Event) -> None:
        """The broker says goodbye."""
        assert event.key == p.CONNECTION_CLOSE, event
        self.close_code = event.code
        peer.send(p.connection_close_ok())
        raise p.Closed(event.text)


class Publisher(Client):
    """Publishes with a window of unconfirmed messages."""

    def __init__(
        self, port: int, ledger: Ledger, source: str, exchange: str, key: str, seed: int, window: int = 200
    ) -> None:
        super().__init__(port, ledger)
        self.source = source
        self.exchange = exchange
        self.key = key
        self.window = window
        self.random = random.Random(seed)
        self.unconfirmed: deque[tuple[int, int, int]] = deque()  # delivery tag, number, stamp
        self.published = 0

    def set_up(self, peer: p.Peer) -> None:
        peer.call(p.confirm_select(1), p.CONFIRM_OK)

    def work(self, peer: p.Peer) -> None:
        pieces = []
        for _ in range(self.random.randint(1, 30)):
            if len(self.unconfirmed) >= self.window:
                break
            number = self.ledger.next_number(self.source)
            self.published += 1
            self.unconfirmed.append((self.published, number, self.ledger.now()))
            body = make_body(self.source, number, self.random)
            pieces.append(p.publish(1, self.exchange, self.key, body, p.PERSISTENT))
        if pieces:
            peer.send(b"".join(pieces))
        if len(self.unconfirmed) < self.window // 2 and self.random.random() < 0.5:
            return
        for event in peer.receive():
            if event.key != p.ACK:
                self.take_close(peer, event)
            numbers = []
            stamp = 0
            while self.unconfirmed and self.unconfirmed[0][0] <= event.tag:
                tag, number, stamp = self.unconfirmed.popleft()
                assert event.multiple or tag == event.tag, "a confirm out of order"
                numbers.append(number)
            assert numbers, "a confirm of nothing"
            self.ledger.confirm(self.source, numbers, stamp)


class Consumer(Client):
    """Takes messages and acks them, singly or many at once; never knows whether the acks are durable."""

    def __init__(self, port: int, ledger: Ledger, queue: str, seed: int, prefetch: int = 100) -> None:
        super().__init__(port, ledger)
        self.queue = queue
        self.prefetch = prefetch
        self.random = random.Random(seed)
        self.last: dict[str, int] = {}
        self.held: deque[tuple[int, tuple[str, int]]] = deque()

    def set_up(self, peer: p.Peer) -> None:
        peer.call(p.basic_qos(1, self.prefetch), p.QOS_OK)
        peer.send(p.basic_consume(1, self.queue))

    def work(self, peer: p.Peer) -> None:
        for event in peer.receive():
            if event.key == p.DELIVER:
                self.take(event)
            elif event.key != p.CONSUME_OK:
                self.other(peer, event)
        self.answer(peer)

    def take(self, event: p.Event) -> None:
        name = read_body(event.body)
        self.ledger.deliver(self.queue, name, event.redelivered)
        if name[1] <= self.last.get(name[0], 0) and not self.ledger.ending:
            self.ledger.problems.append(
                f"{self.queue}: {name} was delivered after number {self.last[name[0]]} of the same publisher"
            )
        self.last[name[0]] = name[1]
        self.held.append((event.tag, name))

    def other(self, peer: p.Peer, event: p.Event) -> None:
        self.take_close(peer, event)

    def answer(self, peer: p.Peer) -> None:
        """Acks some: mostly the oldest, now and then all at once."""
        if self.random.random() < 0.3 and self.held:
            tag, _ = self.held[-1]
            self.note_acks([name for _, name in self.held])
            self.held.clear()
            peer.send(p.ack(1, tag, multiple=True))
            return
        # Never all of them, so that each kill finds some unsettled.
        some = [self.held.popleft() for _ in range(max(0, len(self.held) - self.random.randint(0, 5)))]
        if some:
            self.note_acks([name for _, name in some])
            peer.send(b"".join([p.ack(1, tag) for tag, _ in some]))

    def note_acks(self, names: list[tuple[str, int]]) -> None:
        self.ledger.acked[self.queue].update(names)


class Worker(Consumer):
    """Acks and then publishes "done" on the same channel: its confirm proves that the ack is durable."""

    def __init__(self, port: int, ledger: Ledger, queue: str, done_queue: str, seed: int, prefetch: int = 50) -> None:
        super().__init__(port, ledger, queue, seed, prefetch)
        self.done_queue = done_queue
        self.unconfirmed: deque[tuple[int, tuple[str, int], int]] = deque()
        self.published = 0

    def set_up(self, peer: p.Peer) -> None:
        peer.call(p.confirm_select(1), p.CONFIRM_OK)
        super().set_up(peer)

    def answer(self, peer: p.Peer) -> None:
        pieces = []
        names = []
        for _ in range(max(0, len(self.held) - self.random.randint(0, 5))):
            tag, name = self.held.popleft()
            names.append(name)
            self.published += 1
            self.unconfirmed.append((self.published, name, self.ledger.now()))
            done = f"{name[0]}:{name[1]}".encode()
            pieces.append(p.ack(1, tag) + p.publish(1, "", self.done_queue, done, p.PERSISTENT))
        if pieces:
            self.note_acks(names)
            peer.send(b"".join(pieces))

    def other(self, peer: p.Peer, event: p.Event) -> None:
        if event.key != p.ACK:
            self.take_close(peer, event)
        names = []
        stamp = 0
        while self.unconfirmed and self.unconfirmed[0][0] <= event.tag:
            _, name, stamp = self.unconfirmed.popleft()
            names.append(name)
        self.ledger.settle(self.queue, names)
        self.ledger.prove(stamp)


class Rejecter(Consumer):
    """Takes messages and rejects them, so that they are dead-lettered."""

    def answer(self, peer: p.Peer) -> None:
        if not self.held:
            return
        if self.random.random() < 0.3:
            peer.send(p.nack(1, self.held[-1][0], multiple=True, requeue=False))
        else:
            peer.send(b"".join([p.nack(1, tag, requeue=False) for tag, _ in self.held]))
        self.held.clear()
