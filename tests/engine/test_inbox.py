"""Inboxes: answers to one consumer, in order, within a limit, gone with the consumer and never in the store."""

from __future__ import annotations

from itertools import count

import pytest

from pabal.broker import inbox as inbox_module
from pabal.broker.broker import Broker
from pabal.broker.consumer import Consumer
from pabal.broker.inbox import Inbox
from pabal.broker.router import ALL_TAKEN, Published
from pabal.broker.vhost import Vhost
from pabal.model.message import Envelope, Message
from pabal.session.amqp091.container import Amqp091Container
from pabal.store.memory import MemoryStore

CONTAINER = Amqp091Container()


class Reader(Consumer):
    """Takes as much as it is told to."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(inbox, "reader", auto_settle=True, exclusive=False)
        self.credit = 0
        self.received: list[bytes] = []

    def room(self) -> int:
        return self.credit

    def deliver(self, messages: list[Message]) -> None:
        self.received += [message.content for message in messages]
        self.credit -= len(messages)

    def revoked(self, message: Message) -> None:
        raise AssertionError("there are no leases")

    def cancelled(self) -> None:
        raise AssertionError("it is the consumer who ends it")


@pytest.fixture
def broker() -> Broker:
    tokens = count()
    broker = Broker(MemoryStore({CONTAINER.code: CONTAINER}), 0, lambda: str(next(tokens)))
    broker.add_vhost("/")
    broker.store.begin()
    broker.store.finish()
    broker.store.done()
    return broker


def answer(vhost: Vhost, name: str, *contents: bytes) -> Published:
    envelope = Envelope("", name, True, None, CONTAINER)
    return vhost.publish(envelope, list(contents), sum(map(len, contents)))


def test_answers_come_in_order_and_nothing_is_stored(broker: Broker) -> None:
    vhost = broker.vhosts["/"]
    inbox = vhost.open_inbox("inbox.")
    assert inbox.name.startswith("inbox.")
    assert inbox.name not in vhost.queues
    reader = Reader(inbox)
    inbox.add_consumer(reader)
    assert answer(vhost, inbox.name, b"1", b"2") == ALL_TAKEN
    assert answer(vhost, inbox.name, b"3") == ALL_TAKEN
    broker.dispatch()
    assert reader.received == []
    reader.credit = 2
    inbox.schedule()
    broker.dispatch()
    assert reader.received == [b"1", b"2"]
    inbox.remove_consumer(reader)
    assert answer(vhost, inbox.name, b"4").unroutable == range(1)
    reader.credit = 9
    broker.dispatch()
    assert reader.received == [b"1", b"2"]
    assert vhost.inboxes == {}
    assert broker.store.journal.empty


def test_what_is_beyond_the_limit_is_refused(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_MESSAGES_MAX", 3)
    monkeypatch.setattr(inbox_module, "INBOX_BYTES_MAX", 10)
    vhost = broker.vhosts["/"]
    inbox = vhost.open_inbox("inbox.")
    reader = Reader(inbox)
    inbox.add_consumer(reader)
    assert answer(vhost, inbox.name, b"a great many bytes") == ALL_TAKEN
    assert list(answer(vhost, inbox.name, b"x", b"y").refused) == [0, 1]
    reader.credit = 9
    inbox.schedule()
    broker.dispatch()
    assert reader.received == [b"a great many bytes"]
    reader.credit = 0
    assert answer(vhost, inbox.name, b"1", b"2", b"3") == ALL_TAKEN
    assert list(answer(vhost, inbox.name, b"4").refused) == [0]
    reader.credit = 9
    inbox.schedule()
    broker.dispatch()
    assert reader.received[1:] == [b"1", b"2", b"3"]
    assert broker.store.journal.empty
