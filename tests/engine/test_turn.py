"""The turn: deliveries first, then one commit for all, then what was promised; and what a failure does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pabal.broker.broker
from engine import Engine, TakingConsumer
from pabal.model.errors import StoreError
from pabal.model.limits import SETTLEMENTS_WAIT_MS
from pabal.model.message import Outcome
from pabal.server.turn import Turn

Finish = Callable[[], None]
Done = Callable[[StoreError | None], None]


class Waiter:
    """Somebody who waits for a commit. `then`: what it does when that has come."""

    def __init__(self, log: list[str], name: str, then: Callable[[], None] | None = None) -> None:
        self.log = log
        self.name = name
        self.then = then

    def durable(self, upto: int) -> None:
        self.log.append(f"{self.name} durable {upto}")
        if self.then is not None:
            self.then()


class Writer:
    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name

    def flush(self) -> None:
        self.log.append(f"{self.name} flushed")


class Turned:
    """A turn whose commits end when the test says so. `log`: what happened, in order."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.log: list[str] = []
        self.commits: list[tuple[Finish, Done]] = []
        self.errors: list[StoreError] = []
        self.turn = Turn(self.engine.broker, self.engine.store, self.run_commit, self.errors.append)
        self.engine.queue()
        self.engine.commit()

    def run_commit(self, finish: Finish, done: Done) -> None:
        self.log.append("commit begun")
        self.commits.append((finish, done))

    def end_commit(self, error: StoreError | None = None) -> None:
        finish, done = self.commits.pop(0)
        if error is None:
            finish()
            self.log.append("commit on disk")
        done(error)

    def wait(self, name: str, upto: int = 0, then: Callable[[], None] | None = None) -> Waiter:
        waiter = Waiter(self.log, name, then)
        self.engine.broker.await_durable(waiter, upto)
        return waiter

    def writes(self, name: str) -> None:
        self.turn.writes(Writer(self.log, name))


@pytest.fixture
def turned() -> Turned:
    return Turned()


def test_deliveries_then_the_commit_then_confirms(turned: Turned) -> None:
    turned.engine.publish("m1")
    turned.wait("publisher", 1)
    turned.writes("consumer")
    turned.turn.end()
    assert turned.log == ["consumer flushed", "commit begun"]
    assert turned.turn.committing
    turned.end_commit()
    assert turned.log[2:] == ["commit on disk", "publisher durable 1"]
    assert not turned.turn.committing


def test_what_comes_during_a_commit_waits_for_the_next_and_shares_it(turned: Turned) -> None:
    turned.engine.publish("m1")
    turned.wait("a", 1)
    turned.turn.end()
    for number in (2, 3):
        turned.engine.publish(f"m{number}")
        turned.wait("b", number)
        turned.wait("c", number)
        turned.turn.end()
    assert turned.log == ["commit begun"], "one at a time"
    turned.end_commit()
    assert turned.log == ["commit begun", "commit on disk", "a durable 1", "commit begun"]
    turned.end_commit()
    assert turned.log[4:] == ["commit on disk", "b durable 2", "c durable 2", "b durable 3", "c durable 3"]


def test_one_who_waits_twice_is_told_of_the_last(turned: Turned) -> None:
    waiter = turned.wait("a", 1)
    turned.engine.publish("m1")
    turned.engine.broker.await_durable(waiter, 5)
    turned.turn.end()
    turned.end_commit()
    assert turned.log == ["commit begun", "commit on disk", "a durable 5"]


def test_when_there_is_nothing_to_commit_nobody_waits(turned: Turned) -> None:
    turned.wait("a", 1)
    turned.turn.end()
    assert turned.log == ["a durable 1"]
    turned.engine.publish("transient", persistent=False)
    turned.wait("b", 2)
    turned.turn.end()
    assert turned.log == ["a durable 1", "b durable 2"]


def test_a_message_settled_at_once_is_confirmed_without_being_written(turned: Turned) -> None:
    queue = turned.engine.vhost.queues["q"]
    queue.add_consumer(TakingConsumer(queue, auto=True))
    turned.engine.publish("m1")
    turned.wait("a", 1)
    turned.turn.end()
    while turned.commits:
        turned.end_commit()
    assert turned.log[-1] == "a durable 1"
    assert not any(turned.engine.disk.messages.values())


def test_what_is_done_on_being_told_is_committed_next(turned: Turned) -> None:
    def publish_more() -> None:
        turned.engine.publish("m2")
        turned.wait("again", 2)
        turned.writes("client")

    turned.engine.publish("m1")
    turned.wait("first", 1, publish_more)
    turned.turn.end()
    turned.end_commit()
    assert turned.log == ["commit begun", "commit on disk", "first durable 1", "client flushed", "commit begun"]
    turned.end_commit()
    assert turned.log[-1] == "again durable 2"
    assert turned.engine.names() == ["m1", "m2"]


def test_who_need_not_wait_and_asks_again_gets_its_commit(turned: Turned) -> None:
    turned.wait("first", 1, lambda: (turned.engine.publish("m1"), turned.wait("then", 2), None)[2])
    turned.turn.end()
    assert turned.log == ["first durable 1", "commit begun"]
    turned.end_commit()
    assert turned.log[-1] == "then durable 2"


def test_a_failed_commit_ends_everything(turned: Turned) -> None:
    turned.engine.publish("m1")
    turned.wait("a", 1)
    turned.turn.end()
    turned.engine.publish("m2")
    turned.wait("b", 2)
    error = StoreError("disk full")
    turned.end_commit(error)
    assert turned.errors == [error]
    assert turned.turn.failed
    turned.engine.publish("m3")
    turned.wait("c", 3)
    turned.turn.end()
    assert turned.log == ["commit begun"], "nobody is told, nothing is begun any more"
    turned.engine.restart()
    assert turned.engine.names() == []


def test_a_store_that_cannot_begin_is_fatal(turned: Turned, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> bool:
        raise StoreError("no room")

    monkeypatch.setattr(turned.engine.store, "begin", begin)
    turned.engine.publish("m1")
    turned.wait("a", 1)
    turned.turn.end()
    assert [str(error) for error in turned.errors] == ["no room"]
    assert turned.log == []


@pytest.mark.plain
@pytest.mark.parametrize("moment", ["in the turn", "when a commit is done"])
def test_a_queue_that_cannot_be_read_is_fatal(turned: Turned, moment: str) -> None:
    queue = turned.engine.vhost.queues["q"]

    def dispatch() -> None:
        raise StoreError("damaged")

    def break_queue() -> None:
        queue.dispatch = dispatch  # type: ignore[method-assign]
        queue.schedule()

    turned.engine.publish("m1")
    turned.wait("a", 1, break_queue if moment == "when a commit is done" else None)
    if moment == "in the turn":
        break_queue()
    turned.turn.end()
    if turned.commits:
        turned.end_commit()
    assert [str(error) for error in turned.errors] == ["damaged"]
    assert turned.turn.failed
    assert not turned.commits


def test_too_much_unsaved_is_an_overload_until_it_is_taken(turned: Turned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pabal.broker.broker, "UNSAVED_BYTES_MAX", 100)
    assert not turned.engine.broker.overloaded
    turned.engine.publish("m1", "m2", "m3")
    assert turned.engine.broker.overloaded
    turned.turn.end()
    assert not turned.engine.broker.overloaded, "it is with the commit now"
    turned.end_commit()


# --- Settlements that nobody waits for ----------------------------------------------------------------------


def settle_one(turned: Turned, consumer: TakingConsumer) -> None:
    turned.engine.broker.dispatch()
    queue = consumer.queue
    queue.settle([consumer.taken.pop(0)], consumer, Outcome.ACCEPT)


def test_settlements_right_after_a_commit_wait_for_more(turned: Turned) -> None:
    engine = turned.engine
    for number in range(4):
        engine.publish(f"m{number}")
    turned.turn.end()
    turned.end_commit()
    consumer = TakingConsumer(engine.vhost.queues["q"])
    consumer.queue.add_consumer(consumer)
    turned.log.clear()
    begun_ms = engine.broker.now_ms

    settle_one(turned, consumer)
    turned.turn.end()
    assert (turned.log, turned.turn.postponed_ms) == ([], begun_ms + SETTLEMENTS_WAIT_MS)
    engine.broker.begin(begun_ms + SETTLEMENTS_WAIT_MS - 1)
    settle_one(turned, consumer)
    turned.turn.end()
    assert turned.log == []
    engine.broker.begin(begun_ms + SETTLEMENTS_WAIT_MS)
    turned.turn.end()
    assert (turned.log, turned.turn.postponed_ms) == (["commit begun"], 0)
    turned.end_commit()

    settle_one(turned, consumer)
    turned.turn.end()
    assert turned.log[2:] == [], "the next wait again"
    turned.wait("somebody", 1)
    turned.turn.end()
    assert turned.log[2:] == ["commit begun"], "but not when somebody waits"
    turned.end_commit()
    engine.publish("m5")
    turned.turn.end()
    assert turned.log[-1] == "commit begun", "nor when there is something to be stored"
    turned.end_commit()
    engine.broker.add_vhost("another")
    turned.turn.end()
    assert turned.log[-1] == "commit begun", "or defined"
