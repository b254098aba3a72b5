"""The queue against its obvious twin (Hypothesis): order, leases, attempts, expiry, limits, dead letters, restarts.

Windows are so small that it pages to disk all the time.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queue_twin import Twin, TwinConsumer, TwinMessage

from engine import START_MS, Engine, TakingConsumer, limits, name_of, reasons_of, small_windows
from pabal.model.definitions import QueueDefinition, decode_definition
from pabal.model.message import Message, Outcome

OUTCOMES = {"accept": Outcome.ACCEPT, "return": Outcome.RETURN, "reject": Outcome.REJECT}
ARGUMENTS: dict[str, Any] = {
    "x-message-ttl": st.sampled_from([0, 40]),
    "x-max-length": st.integers(0, 4),
    "x-overflow": st.sampled_from(["drop-head", "reject-publish"]),
    "x-delivery-limit": st.integers(0, 2),
    "x-consumer-timeout": st.just(30),
    "x-dead-letter-exchange": st.just(""),
}
WINDOWS = {
    "stored": st.sampled_from([1, 2, 4, 30]),
    "transient": st.sampled_from([1, 2, 30]),
    "load": st.integers(1, 3),
}


class QueueMachine(RuleBasedStateMachine):
    """Each rule is a turn; a commit begins, is on disk and is done in turns of its own."""

    forced: ClassVar[dict[str, Any]] = {}
    """Arguments that the queue has in any case."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize(
        arguments=st.fixed_dictionaries({}, optional=ARGUMENTS),
        durable=st.sampled_from([True, True, True, False]),
        windows=st.fixed_dictionaries(WINDOWS),
        step=st.integers(1, 3),
    )
    def begin(self, arguments: dict[str, Any], durable: bool, windows: dict[str, int], step: int) -> None:
        self.stack.enter_context(small_windows(**windows))
        self.stack.enter_context(limits(DISPATCH_MESSAGES_MAX=step))
        arguments |= self.forced
        if "x-dead-letter-exchange" in arguments:
            arguments |= {"x-dead-letter-routing-key": "dead"}
        self.arguments = arguments
        self.durable = durable
        self.engine = Engine()
        self.twin = Twin(arguments, durable, START_MS)
        self.committing: Twin | None = None
        self.finished = False
        self.committed = Twin(arguments, durable, START_MS)
        self.consumers: list[tuple[TakingConsumer, TwinConsumer]] = []
        self.number = 0
        self.declare()
        self.engine.commit()

    def declare(self) -> None:
        vhost = self.engine.vhost
        vhost.declare_queue("dead", True, False, False, {}, None)
        self.queue, _ = vhost.declare_queue("q", self.durable, False, False, self.arguments, None)

    def teardown(self) -> None:
        """Everything is taken out: in order, with the attempts and the reasons that the twin expects."""
        if hasattr(self, "engine"):
            self.twin.dispatch()
            drained = self.engine.drain("q")
            drainer = TwinConsumer(10**6, True)
            while self.twin.ready:
                self.twin.get(drainer)
            self.compare(drained, drainer.taken)
            letters = [(name_of(m), reasons_of(m)[0][1]) for m in self.engine.drain("dead")]
            assert letters == [(name, reason) for name, reason, _ in self.twin.dead]
        self.stack.close()

    # --- Rules ----------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 4), persistent=st.booleans(), ttl_ms=st.sampled_from([None, None, None, 20]))
    def publish(self, count: int, persistent: bool, ttl_ms: int | None) -> None:
        names = [f"m{self.number + index}" for index in range(1, count + 1)]
        self.number += count
        published = self.engine.publish(*names, persistent=persistent, ttl_ms=ttl_ms)
        assert list(published.refused) == self.twin.publish(names, persistent, ttl_ms)
        self.end_turn()

    @precondition(lambda self: len(self.consumers) < 4)
    @rule(credit=st.integers(0, 4), auto=st.sampled_from([False, False, False, True]))
    def add_consumer(self, credit: int, auto: bool) -> None:
        consumer, twin = TakingConsumer(self.queue, "c", credit, auto), TwinConsumer(credit, auto)
        self.queue.add_consumer(consumer)
        self.twin.consumers.append(twin)
        self.consumers.append((consumer, twin))
        self.end_turn()

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), more=st.integers(-1, 3))
    def change_credit(self, data: st.DataObject, more: int) -> None:
        consumer, twin = data.draw(st.sampled_from(self.consumers))
        consumer.credit += more
        twin.credit += more
        self.queue.schedule()
        self.end_turn()

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), keeps=st.booleans())
    def remove_consumer(self, data: st.DataObject, keeps: bool) -> None:
        """Cancelled, it keeps what it holds; closed, it gives it back."""
        consumer, twin = data.draw(st.sampled_from(self.consumers))
        self.queue.remove_consumer(consumer)
        if twin in self.twin.consumers:
            index = next(i for i, c in enumerate(self.twin.consumers) if c is twin)
            del self.twin.consumers[index]
            if index < self.twin.turn:
                self.twin.turn -= 1
        if not keeps:
            self.settle_these(consumer, list(consumer.held), "return")
            while consumer.lost:
                self.speak_late(consumer, twin)
            self.consumers.remove((consumer, twin))
        self.end_turn()

    @precondition(lambda self: any(consumer.held for consumer, _ in self.consumers))
    @rule(data=st.data(), outcome=st.sampled_from(["accept", "accept", "return", "reject"]))
    def settle(self, data: st.DataObject, outcome: str) -> None:
        consumer, _ = data.draw(st.sampled_from([pair for pair in self.consumers if pair[0].held]))
        places = data.draw(st.sets(st.integers(0, len(consumer.held) - 1), min_size=1, max_size=3))
        self.settle_these(consumer, [consumer.held[place] for place in sorted(places)], outcome)
        self.end_turn()

    def settle_these(self, consumer: TakingConsumer, messages: list[Message], outcome: str) -> None:
        if messages:
            self.twin.settle([name_of(message) for message in messages], outcome)
            self.queue.settle(messages, consumer, OUTCOMES[outcome])
            for message in messages:
                consumer.held.remove(message)

    @precondition(lambda self: any(consumer.lost for consumer, _ in self.consumers))
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        self.speak_late(*data.draw(st.sampled_from([pair for pair in self.consumers if pair[0].lost])))
        self.end_turn()

    def speak_late(self, consumer: TakingConsumer, twin: TwinConsumer) -> None:
        consumer.lost.pop()
        self.queue.late(consumer)
        twin.unsettled -= 1

    @rule(auto=st.booleans())
    def get(self, auto: bool) -> None:
        consumer, twin = TakingConsumer(self.queue, "get", 0, auto), TwinConsumer(0, auto)
        self.queue.get(consumer)
        self.twin.get(twin)
        self.compare(consumer.taken, twin.taken)
        if consumer.held:
            self.consumers.append((consumer, twin))
        self.end_turn()

    @rule(ms=st.sampled_from([0, 1, 10, 25, 100]))
    def advance(self, ms: int) -> None:
        self.engine.now_ms += ms
        self.engine.broker.begin(self.engine.now_ms)
        self.twin.now_ms += ms
        self.twin.tick()
        self.end_turn()

    @precondition(lambda self: len(self.twin.ready) > 2)
    @rule()
    def purge(self) -> None:
        assert self.queue.purge() == len(self.twin.ready)
        self.twin.ready.clear()
        self.end_turn()

    @rule()
    def begin_commit(self) -> None:
        if self.committing is None:
            snapshot = self.twin.snapshot()
            if self.engine.store.begin():
                self.committing, self.finished = snapshot, False

    @rule()
    def finish_commit(self) -> None:
        if self.committing is not None and not self.finished:
            self.engine.store.finish()
            self.finished = True
            self.committed = self.committing

    @rule()
    def end_commit(self) -> None:
        self.finish_commit()
        if self.committing is not None:
            self.engine.store.done()
            self.committing = None

    @rule()
    def commit(self) -> None:
        self.end_commit()
        self.begin_commit()
        self.end_commit()

    @rule(commits=st.booleans(), looks=st.booleans())
    def restart(self, commits: bool, looks: bool) -> None:
        """kill -9, after a commit or not. Of the messages that were not persistent the disk says which of them had
        been paged to it. `looks`: at what there is now, by way of a consumer."""
        if commits:
            self.commit()
        on_disk = self.names_on_disk("q")
        dead_on_disk = self.names_on_disk("dead")
        self.engine.start()
        self.consumers.clear()
        self.committing = None
        place = self.twin.place
        self.twin = self.committed.snapshot()
        self.twin.place = place
        if not self.durable:
            on_disk.clear()
            self.twin.surely_delivered = self.twin.maybe_delivered = 0
        self.twin.restarted(self.engine.now_ms, on_disk, dead_on_disk)
        self.committed = self.twin.snapshot()
        self.declare()
        self.end_turn()
        if looks:
            self.add_consumer(20, False)
            self.the_same()

    def names_on_disk(self, queue: str) -> set[str]:
        disk = self.engine.disk
        names: list[str] = []
        for data in disk.definitions.values():
            definition = decode_definition(data)
            if isinstance(definition, QueueDefinition) and definition.name == queue:
                records = disk.messages.get(definition.queue_id, {}).values()
                names = [json.loads(record[record.index(b'{"name"') :])["name"] for record in records]
        assert len(set(names)) == len(names), "twice on disk"
        return set(names)

    # --- Comparing ------------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        self.engine.turn()
        self.twin.dispatch()
        while self.twin.ready and self.twin.expired(self.twin.ready[0]):  # that others hid
            self.twin.die(self.twin.ready.pop(0), "expired")

    def compare(self, real: list[Message], twin: list[TwinMessage]) -> None:
        assert [name_of(m) for m in real] == [m.name for m in twin]

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.queue.ready == len(self.twin.ready)
        assert self.queue.leased == len(self.twin.leased)
        assert self.engine.vhost.queues["dead"].ready == len(self.twin.dead)
        for consumer, twin in self.consumers:
            self.compare(consumer.taken, twin.taken)
            assert consumer.unsettled == twin.unsettled
            assert sorted(name_of(m) for m in consumer.held) == sorted(m.name for m in twin.held)
            twins = {m.name: m for m in twin.held}
            for message in consumer.held:
                other = twins[name_of(message)]
                assert other.attempts in (None, message.attempts)
                other.attempts = message.attempts
                assert other.redelivered in (None, message.redelivered), f"{other} redelivered"
                other.redelivered = message.redelivered
                assert message.expires_at_ms == (other.expires_at_ms or 0)
                assert message.consumer is consumer


QueueMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestQueueAgainstItsTwin = QueueMachine.TestCase
