"""What the tests of the engine share: a broker without a protocol, its contents, consumers, limits set small."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pabal.broker.backlog
import pabal.broker.broker
import pabal.broker.priorities
import pabal.broker.queue
import pabal.broker.returns
import pabal.broker.timetable
import pabal.broker.waiting
from pabal.broker.broker import Broker
from pabal.broker.consumer import Consumer
from pabal.broker.exchange import Exchange
from pabal.broker.queue import Queue
from pabal.broker.router import Published
from pabal.broker.vhost import Vhost
from pabal.model.definitions import BindingDefinition, ExchangeDefinition
from pabal.model.message import Death, Envelope, Message
from pabal.store.memory import Disk, MemoryStore

START_MS = 1_700_000_000_000


class PlainContainer:
    """Contents are JSON: {"name": ..., "headers": {}, "ttl": text or null, "copies": [...], "deaths": [...]}."""

    code = 7

    def headers(self, content: bytes, names: Collection[str] | None = None) -> dict[str, Any]:
        return dict(json.loads(content)["headers"])

    def property(self, content: bytes, name: str) -> str | None:
        return None

    def body_bytes(self, content: bytes) -> int:
        return len(content)

    def priority(self, content: bytes) -> int:
        return int(json.loads(content)["headers"].get("priority", 0))

    def deaths(self, content: bytes) -> list[Death]:
        return [Death(**{**d, "routing_keys": tuple(d["routing_keys"])}) for d in json.loads(content)["deaths"]]

    def ttl(self, content: bytes) -> str | None:
        ttl: str | None = json.loads(content)["ttl"]
        return ttl

    def delay_ms(self, content: bytes) -> int:
        return int(json.loads(content)["headers"].get("x-delay", 0))

    def delayed(self, content: bytes) -> bytes:
        value = json.loads(content)
        value["headers"]["x-delay"] *= -1
        return json.dumps(value).encode()

    def copies(self, content: bytes) -> tuple[str, ...]:
        return tuple(json.loads(content)["copies"])

    def with_death(self, content: bytes, death: Death, keep_copies: bool) -> bytes:
        value = json.loads(content)
        value["deaths"] = [asdict(death), *value["deaths"]]
        value["ttl"] = None
        if not keep_copies:
            value["copies"] = []
        return json.dumps(value).encode()


class LabelledContainer(PlainContainer):
    """Whatever the content, these are its headers: they may be of types that JSON lacks."""

    def __init__(self, headers: dict[str, Any]) -> None:
        self._headers = headers

    def headers(self, content: bytes, names: Collection[str] | None = None) -> dict[str, Any]:
        return self._headers


PLAIN = PlainContainer()
CONTAINERS = {PLAIN.code: PLAIN}


def content(
    name: str, headers: dict[str, Any] | None = None, ttl: str | None = None, copies: tuple[str, ...] = ()
) -> bytes:
    value = {"name": name, "headers": headers or {}, "ttl": ttl, "copies": copies, "deaths": []}
    return json.dumps(value).encode()


def name_of(message: Message) -> str:
    return str(json.loads(message.content)["name"])


def reasons_of(message: Message) -> list[tuple[str, str]]:
    """Where and why it died, the latest first."""
    return [(death.queue, death.reason) for death in PLAIN.deaths(message.content)]


def envelope(
    exchange: str = "",
    key: str = "q",
    persistent: bool = True,
    ttl_ms: int | None = None,
    copies: tuple[str, ...] = (),
) -> Envelope:
    return Envelope(exchange, key, persistent, ttl_ms, PLAIN, copies)


class TakingConsumer(Consumer):
    """Keeps what it is given. `credit`: how many it may hold, or take in all when it settles automatically."""

    def __init__(
        self, queue: Queue, tag: str = "c", credit: int = 10**6, auto: bool = False, exclusive: bool = False
    ) -> None:
        super().__init__(queue, tag, auto, exclusive)
        self.credit = credit
        self.taken: list[Message] = []
        self.held: list[Message] = []
        self.lost: list[Message] = []
        self.was_cancelled = False

    def room(self) -> int:
        return self.credit - (len(self.taken) if self.auto_settle else self.unsettled)

    def deliver(self, messages: list[Message]) -> None:
        assert messages, "nothing is no delivery"
        self.taken += messages
        if not self.auto_settle:
            self.held += messages
        assert self.room() >= 0 or self not in self.queue.consumers, "more than there was room for"

    def revoked(self, message: Message) -> None:
        self.held.remove(message)
        self.lost.append(message)

    def cancelled(self) -> None:
        self.was_cancelled = True

    @property
    def names(self) -> list[str]:
        return [name_of(message) for message in self.taken]


class Engine:
    """A broker over a disk, its clock turned by hand."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.now_ms = START_MS
        self._tokens = 0
        self.start()

    def start(self) -> None:
        self.store = MemoryStore(CONTAINERS, self.disk)
        self.broker = Broker(self.store, self.now_ms, self._token)
        self.broker.add_vhost("/")

    def _token(self) -> str:
        self._tokens += 1
        return str(self._tokens)

    @property
    def vhost(self) -> Vhost:
        return self.broker.vhosts["/"]

    def queue(self, name: str = "q", durable: bool = True, owner: object = None, **arguments: Any) -> Queue:
        """Declares; `x_max_length=3` for x-max-length. Exclusive when there is an owner."""
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        queue, _ = self.vhost.declare_queue(name, durable, owner is not None, False, table, owner)
        return queue

    def exchange(self, name: str, kind: str = "direct", **options: Any) -> None:
        self.vhost.declare_exchange(ExchangeDefinition("/", name, kind, **options))

    def routed_by(self, exchange: str, headers: dict[str, Any]) -> list[Queue | Exchange]:
        """Where the exchange, by itself, sends a message with these headers."""
        return list(self.vhost.exchanges[exchange].route(("ignored",), LabelledContainer(headers), b""))

    def bind(
        self,
        source: str,
        destination: str,
        key: str = "",
        to_exchange: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> bool:
        return self.vhost.bind(BindingDefinition("/", source, destination, to_exchange, key, arguments or {}))

    def publish(
        self, *names: str, key: str = "q", exchange: str = "", persistent: bool = True, ttl_ms: int | None = None
    ) -> Published:
        contents = [content(name, ttl=None if ttl_ms is None else str(ttl_ms)) for name in names]
        return self.vhost.publish(envelope(exchange, key, persistent, ttl_ms), contents, sum(map(len, contents)))

    def turn(self) -> None:
        """The end of a turn, the timers that are due, and the turns that it takes until all is handed out."""
        self.broker.dispatch()
        for _ in range(10_000):
            at_ms = self.broker.next_tick_ms()
            due = at_ms is not None and at_ms <= self.now_ms
            if not due and not self.broker.unfinished:
                return
            self.broker.begin(self.now_ms)
            if due:
                self.broker.tick(self.now_ms)
            self.broker.dispatch()
        raise AssertionError("the broker never comes to rest")

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        self.broker.begin(self.now_ms)
        self.turn()

    def commit(self) -> None:
        while self.store.begin():
            self.store.finish()
            self.store.done()

    def restart(self) -> None:
        """As after kill -9."""
        self.start()
        self.turn()

    def drain(self, name: str = "q") -> list[Message]:
        """Takes out all that is ready, and settles it."""
        queue = self.vhost.queues[name]
        consumer = TakingConsumer(queue, "drain", auto=True)
        taken: list[Message] = []
        while queue.get(consumer) is not None:
            taken += consumer.taken
            consumer.taken.clear()
        return taken

    def names(self, name: str = "q") -> list[str]:
        return [name_of(message) for message in self.drain(name)]


_LIMITED = (
    pabal.broker.broker,
    pabal.broker.queue,
    pabal.broker.backlog,
    pabal.broker.priorities,
    pabal.broker.returns,
    pabal.broker.timetable,
    pabal.broker.waiting,
)


@contextmanager
def limits(**values: int) -> Iterator[None]:
    """Sets limits of the broker where they are used, and sets them back."""
    before = []
    for name, value in values.items():
        users = [module for module in _LIMITED if hasattr(module, name)]
        assert users, f"no module uses {name}"
        for module in users:
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def small_windows(stored: int = 2, transient: int = 2, load: int = 2) -> Any:
    """Limits so small that a few messages page to disk."""
    return limits(
        WINDOW_MESSAGES_STORED=stored,
        WINDOW_MESSAGES_TRANSIENT=transient,
        LOAD_MESSAGES_MAX=load,
        _FIRST_LOAD_SHARE=1,
    )
