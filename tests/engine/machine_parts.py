"""What the state machine drives: a broker whose queues take their turns in a fixed order, and channels of it.

Contents are AMQP's and channels are the session's own, so that deaths are counted, bodies measured and transactions
committed as they are for a client; only the frames that they would write go nowhere.
"""

from __future__ import annotations

import re
from typing import Any

from broker_twin import OnDisk
from queue_twin import TwinMessage

from engine import Engine, TakingConsumer
from pabal.broker.access import Access, Principal, Rights
from pabal.broker.broker import Broker
from pabal.broker.delayed import Delay, DelayedExchange
from pabal.broker.queue import Queue
from pabal.model.definitions import ExchangeDefinition, QueueDefinition, decode_definition
from pabal.model.message import Envelope, Message
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.settings import SessionSettings
from pabal.session.amqp091.transaction import tx_select
from pabal.store.batch import waiting_id
from pabal.store.memory import MemoryStore
from pabal.wire.amqp091.content import build, encode_properties

FRAME_BYTES_MAX = 4096
CONTAINER = Amqp091Container()
LATER = "later"
"""The exchange that holds messages back."""

_NAME = re.compile(rb"<(m\d+)>")


def make_content(message: TwinMessage) -> bytes:
    """Its body begins with its name."""
    properties = encode_properties(
        {
            "delivery_mode": 2 if message.persistent else 1,
            "priority": message.priority or None,
            "expiration": None if message.ttl_ms is None else str(message.ttl_ms),
            "headers": {"x-delay": message.delay_ms} if message.delay_ms else None,
        }
    )
    return build(properties, f"<{message.name}>".encode().ljust(message.size, b"."), 1, FRAME_BYTES_MAX)


def make_envelope(queue: str, message: TwinMessage) -> Envelope:
    return Envelope(
        LATER if message.delay_ms else "", queue, message.persistent, message.ttl_ms, CONTAINER, (), message.priority
    )


def name_in(data: bytes) -> str:
    """Of the message that this content or record is."""
    match = _NAME.search(data)
    assert match is not None, data
    return match[1].decode()


class OrderedEngine(Engine):
    """An end of a turn is as Broker's, but that the queues come in the order of their names, and before them what was
    held back: the twin could not know another. Who was scheduled, and who set which timer, is the broker's doing."""

    counts_releases = True

    def start(self) -> None:
        self.store = MemoryStore({CONTAINER.code: CONTAINER}, self.disk)
        self.broker = Broker(self.store, self.now_ms, self._token)
        self.broker.counts_releases = self.counts_releases
        self.broker.add_vhost("/")
        self.exchange(LATER, "x-delayed-message", arguments={"x-delayed-type": "direct"})

    def declare(self, name: str, durable: bool, arguments: dict[str, Any]) -> None:
        self.vhost.declare_queue(name, durable, False, False, arguments, None)
        self.bind(LATER, name, name)

    @property
    def delay(self) -> Delay:
        exchange = self.vhost.exchanges[LATER]
        assert isinstance(exchange, DelayedExchange) and exchange.delay is not None
        return exchange.delay

    def turn(self) -> None:
        for _ in range(1000):
            at_ms = self.broker.next_tick_ms()
            if at_ms is not None and at_ms <= self.now_ms:
                self.broker.tick(self.now_ms)
            if not self.broker.scheduled:
                return
            for queue in (self.delay, *(self.vhost.queues[name] for name in sorted(self.vhost.queues))):
                if queue.scheduled:
                    self.broker.scheduled.remove(queue)
                    queue.scheduled = False
                    queue.dispatch()
            self.broker.scheduled = [queue for queue in self.broker.scheduled if not queue.deleted]
        raise AssertionError("the queues never come to rest")

    def on_disk(self) -> OnDisk:
        """The names of the messages in the durable queues and exchanges; nothing else may be there."""
        found = OnDisk({}, {}, set())
        total: list[str] = []

        def names_in(queue_id: int) -> set[str]:
            names = [name_in(record) for record in self.disk.messages.get(queue_id, {}).values()]
            total.extend(names)
            return set(names)

        for data in self.disk.definitions.values():
            definition = decode_definition(data)
            if isinstance(definition, QueueDefinition):
                found.queues[definition.name] = names_in(definition.queue_id)
                found.waiting[definition.name] = names_in(waiting_id(definition.queue_id))
            elif isinstance(definition, ExchangeDefinition) and definition.name == LATER:
                found.delayed.update(names_in(waiting_id(definition.queue_id)))
        assert len(set(total)) == len(total), "twice on disk"
        return found


def open_channel(engine: Engine, transacting: bool) -> Channel:
    """A channel that nobody is connected to."""
    session = Amqp091Session(
        engine.broker, Access(engine.broker, b"key"), SessionSettings(), CONTAINER, lambda: None, print, True
    )
    session.vhost = engine.vhost
    session.rights = Rights(Principal("nobody"), engine.vhost)
    channel = Channel(session, 1)
    if transacting:
        tx_select(channel)
    return channel


class TaggingConsumer(TakingConsumer):
    """Settles by way of its channel. `given`: each message as it was then, with its delivery tag."""

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        credit: int,
        auto: bool,
        exclusive: bool,
        priority: int,
        lease_ms: int | None,
    ) -> None:
        super().__init__(queue, "c", credit, auto, exclusive)
        self.priority = priority
        self.lease_ms = lease_ms
        self.channel = channel
        self.given: list[tuple[Message, int, int, bool]] = []

    def deliver(self, messages: list[Message]) -> None:
        super().deliver(messages)
        for message in messages:
            self.channel.last_delivery += 1
            message.delivery = self.channel.last_delivery
            self.given.append((message, message.delivery, message.attempts, message.redelivered))
            if not self.auto_settle:
                self.channel.unsettled_deliveries[message.delivery] = message

    def revoked(self, message: Message) -> None:
        self.channel.revoke(message.delivery, self)

    def cancelled(self) -> None:
        self.was_cancelled = True
        self.channel.forget(self)  # type: ignore[arg-type]
