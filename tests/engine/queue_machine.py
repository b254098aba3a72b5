"""Queues against their obvious twins (Hypothesis): order, priorities, limits, expiry, leases, attempts, dead letters,
consumers of every kind, transactions, restarts.

There are three queues: `q` may have any arguments, its dead letters go to `dead`, and `dead` may send them back;
`other` is there for transactions. Windows are so small that they page to disk all the time.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar

from broker_twin import TwinBroker, TwinChannel
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_actions import CHANNELS, DEAD_LETTERS_TO, NEWCOMERS, Newcomer, Publication, actions, arguments_of
from machine_parts import (
    CONTAINER,
    OrderedEngine,
    TaggingConsumer,
    make_content,
    make_envelope,
    name_in,
    open_channel,
)
from queue_twin import TwinConsumer, TwinMessage, TwinQueue

from engine import START_MS, limits, small_windows
from pabal.broker.queue import Queue
from pabal.model.errors import AccessRefused
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.transaction import tx_commit, tx_rollback

WINDOWS = {
    "stored": st.sampled_from([1, 2, 4, 30]),
    "transient": st.sampled_from([1, 2, 30]),
    "load": st.integers(1, 3),
}


class QueueMachine(RuleBasedStateMachine):
    """Each action is a turn or more; a commit begins, is on disk and is done in turns of its own. There is one rule
    for all of them, as Hypothesis leaves some rules out in each example, and without any of these little happens."""

    forced: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments that queues have in any case."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize(
        arguments=st.fixed_dictionaries(
            {"q": arguments_of("q", 5), "dead": arguments_of("dead", 2), "other": arguments_of("other", 2)}
        ),
        durable=st.sampled_from([True, True, True, False]),
        regulars=st.lists(NEWCOMERS, max_size=3),
        windows=st.fixed_dictionaries(WINDOWS),
        step=st.integers(1, 3),
    )
    def begin(
        self,
        arguments: dict[str, dict[str, Any]],
        durable: bool,
        regulars: list[Newcomer],
        windows: dict[str, int],
        step: int,
    ) -> None:
        """`durable`: q. `regulars`: consumers that are there from the beginning, and again after each restart."""
        self.stack.enter_context(small_windows(**windows))
        self.stack.enter_context(limits(DISPATCH_MESSAGES_MAX=step))
        self.arguments = arguments
        for name in arguments:
            arguments[name] |= self.forced.get(name, {})
            if "x-dead-letter-exchange" in arguments[name]:
                arguments[name] |= {"x-dead-letter-routing-key": DEAD_LETTERS_TO[name]}
        self.durable = {"q": durable, "dead": True, "other": True}
        self.regulars = regulars
        self.engine = OrderedEngine()
        self.twin = TwinBroker(START_MS)
        self.committing: list[TwinQueue] | None = None
        self.finished = False
        self.number = 0
        self.connect()
        self.commit(3)

    def connect(self) -> None:
        """The broker has just begun, so clients come and declare what is not there."""
        self.consumers: list[tuple[TaggingConsumer, TwinConsumer]] = []
        self.channels = [(open_channel(self.engine, mode), TwinChannel(mode)) for mode in CHANNELS]
        for name in self.arguments:
            self.declare(name)
        for newcomer in self.regulars:
            self.consume(newcomer)

    def teardown(self) -> None:
        """Everything is taken out: in order, with the attempts and the deaths that the twin expects."""
        try:
            if hasattr(self, "engine"):
                self.drain()
        finally:
            self.stack.close()  # also when a bug shows only now: other tests need the limits as they are

    def drain(self) -> None:
        for name in list(self.twin.queues):
            consumer, twin = self.make_consumer(Newcomer(name, 0, 0, auto=True))
            while consumer.queue.get(consumer) is not None:
                pass
            while self.twin.queues[name].ready:
                twin.queue.get(twin)
            self.compare(consumer, twin)
        self.the_same()

    @rule(action=actions())
    def act(self, action: tuple[str, dict[str, Any]]) -> None:
        name, arguments = action
        getattr(self, name)(**arguments)

    def end_turn(self) -> None:
        self.engine.turn()
        self.twin.end_turn()

    def real(self, name: str) -> Queue:
        return self.engine.vhost.queues[name]

    # --- Publishing and queues ------------------------------------------------------------------------------

    def publish(self, publication: Publication) -> None:
        messages = []
        for size in publication.sizes:
            self.number += 1
            messages.append(publication.message(f"m{self.number}", size))
        contents = [make_content(message) for message in messages]
        total = sum(map(len, contents))
        name = publication.queue
        envelope = make_envelope(name, messages[0])
        if publication.held:
            channel, twin = self.channels[-1]
            assert channel.transaction is not None
            channel.transaction.publish(envelope, False, contents, total)
            if name in self.twin.queues:
                twin.published.append((name, messages))
        else:
            published = self.engine.vhost.publish(envelope, contents, total)
            if name in self.twin.queues:
                assert list(published.refused) == self.twin.queues[name].publish(messages)
            else:
                assert list(published.unroutable) == list(range(len(messages)))
        self.end_turn()

    def declare(self, name: str) -> None:
        """It may be there already."""
        arguments, durable = self.arguments[name], self.durable[name]
        self.engine.vhost.declare_queue(name, durable, False, False, arguments, None)
        self.twin.declare(name, arguments, durable)
        self.end_turn()

    def purge_or_delete(self, name: str, deletes: bool) -> None:
        queue = self.twin.queues.get(name)
        if queue is None:
            return
        if deletes:
            assert self.engine.vhost.delete_queue(self.real(name)) == len(queue.ready)
            self.twin.delete(name)
        else:
            assert self.real(name).purge() == len(queue.ready)
            queue.ready.clear()
        self.end_turn()

    # --- Consumers ------------------------------------------------------------------------------------------

    def make_consumer(self, newcomer: Newcomer) -> tuple[TaggingConsumer, TwinConsumer]:
        channel, twin = self.channels[newcomer.channel]
        _, _, credit, auto, exclusive, priority = newcomer
        consumer = TaggingConsumer(channel, self.real(newcomer.queue), credit, auto, exclusive, priority)
        return consumer, TwinConsumer(self.twin.queues[newcomer.queue], twin, credit, auto, exclusive, priority)

    def consume(self, newcomer: Newcomer) -> None:
        if newcomer.queue not in self.twin.queues or len(self.consumers) > 5:
            return
        consumer, twin = self.make_consumer(newcomer)
        admitted = twin.queue.admits(twin.exclusive)
        try:
            consumer.queue.add_consumer(consumer)
        except AccessRefused:
            assert not admitted, "refused in vain"
            return
        assert admitted, "somebody has the queue for himself"
        self.number += 1
        consumer.channel.consumers[f"c{self.number}"] = consumer  # type: ignore[assignment]
        twin.queue.add_consumer(twin)
        self.consumers.append((consumer, twin))
        self.end_turn()

    def change_credit(self, which: int, more: int) -> None:
        if self.consumers:
            consumer, twin = self.consumers[which % len(self.consumers)]
            consumer.credit += more
            twin.credit += more
            consumer.queue.schedule()
            self.end_turn()

    def cancel(self, which: int) -> None:
        """It keeps what it holds."""
        if self.consumers:
            consumer, twin = self.consumers[which % len(self.consumers)]
            consumer.queue.remove_consumer(consumer)
            consumer.channel.forget(consumer)  # type: ignore[arg-type]
            twin.queue.remove_consumer(twin)
            self.end_turn()

    def close(self, index: int) -> None:
        """What the channel holds goes back; the client opens another at once."""
        channel, twin = self.channels[index]
        channel.close()
        for consumer in [c for queue in self.twin.queues.values() for c in queue.consumers if c.channel is twin]:
            consumer.queue.remove_consumer(consumer)
        self.twin.close(twin)
        self.channels[index] = (open_channel(self.engine, twin.transacting), TwinChannel(twin.transacting))
        self.end_turn()

    def get(self, newcomer: Newcomer) -> None:
        if newcomer.queue in self.twin.queues:
            consumer, twin = self.make_consumer(newcomer._replace(credit=0))
            consumer.queue.get(consumer)
            twin.queue.get(twin)
            self.consumers.append((consumer, twin))
            self.end_turn()

    # --- Settling -------------------------------------------------------------------------------------------

    def holding(self, which: int) -> tuple[Channel, TwinChannel] | None:
        """A channel with something to settle."""
        able = [(channel, twin) for channel, twin in self.channels if twin.unsettled]
        return able[which % len(able)] if able else None

    def settle(self, which: int, place: int, more: int, outcome: str, multiple: bool) -> None:
        """One delivery, or all up to it, or it and another one."""
        pair = self.holding(which)
        if pair is None:
            return
        channel, twin = pair
        count = len(twin.unsettled)
        lease = twin.unsettled[place % count]
        leases = [lease]
        if multiple:
            leases = [other for other in twin.unsettled if other.tag <= lease.tag]
        elif outcome == "accept":
            leases = [twin.unsettled[index] for index in sorted({place % count, more % count})]
        self.twin.settle(twin, leases, outcome)
        if outcome != "accept":
            channel.basic_nack(lease.tag, multiple, outcome == "return")
        elif multiple:
            channel.ack_multiple(lease.tag)
        else:
            channel.ack([lease.tag for lease in leases])
        self.end_turn()

    def recover(self, which: int) -> None:
        """No transaction holds that back."""
        pair = self.holding(which)
        if pair is not None:
            channel, twin = pair
            leases, twin.unsettled = twin.unsettled, []
            self.twin.do_settle(leases, "return")
            channel.basic_recover_async(True)
            self.end_turn()

    def end_transaction(self, commits: bool) -> None:
        channel, twin = self.channels[-1]
        if not commits:
            self.twin.rollback(twin)
            tx_rollback(channel)
        elif self.twin.commit(twin):
            tx_commit(channel)
        else:
            try:
                tx_commit(channel)
            except ChannelFault:
                self.close(-1)
            else:
                raise AssertionError("a transaction that cannot be done as a whole")
        self.end_turn()

    # --- Time, commits and restarts -------------------------------------------------------------------------

    def advance(self, ms: int) -> None:
        self.engine.now_ms += ms
        self.engine.broker.begin(self.engine.now_ms)
        self.twin.now_ms += ms
        self.twin.tick()
        self.end_turn()

    def commit(self, steps: int) -> None:
        """It begins, is on disk, is done: whatever comes next, and so many steps."""
        for _ in range(steps):
            if self.committing is None:
                snapshot = self.twin.snapshot()
                if self.engine.store.begin():
                    self.committing, self.finished = snapshot, False
            elif not self.finished:
                self.engine.store.finish()
                self.finished = True
                self.committed = self.committing
            else:
                self.engine.store.done()
                self.committing = None

    def restart(self, steps: int) -> None:
        """kill -9, after some steps of commits. Of the messages that were not persistent the disk says which of
        them had been paged to it."""
        self.commit(steps)
        self.engine.start()
        self.committing = None
        self.twin.restart(self.committed, self.engine.on_disk())
        self.committed = self.twin.snapshot()
        self.connect()

    # --- Comparing ------------------------------------------------------------------------------------------

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "engine"):
            return
        for consumer, twin in self.consumers:
            self.compare(consumer, twin)
        self.consumers = [(c, twin) for c, twin in self.consumers if twin in twin.queue.consumers or twin.unsettled]
        queues = self.engine.vhost.queues
        assert sorted(queues) == sorted(self.twin.queues)
        for name, queue in self.twin.queues.items():
            assert queues[name].ready == len(queue.ready), name
            assert queues[name].leased == len(queue.leases), name
            if "x-max-length-bytes" in queue.arguments:
                assert queues[name].body_bytes == sum(message.size for message in queue.ready), name
        for channel, twin_channel in self.channels:
            twin_channel.unsettled.sort(key=lambda lease: lease.tag)
            assert list(channel.unsettled_deliveries) == [lease.tag for lease in twin_channel.unsettled]

    def compare(self, consumer: TaggingConsumer, twin: TwinConsumer) -> None:
        """What it was given is what the twin gave."""
        assert consumer.unsettled == twin.unsettled
        names = [name_in(message.content) for message, _, _, _ in consumer.given]
        assert names == [lease.message.name for lease in twin.taken]
        for (message, tag, attempts, redelivered), lease in zip(consumer.given, twin.taken, strict=True):
            if not lease.tag:
                lease.tag = tag
                assert message.expires_at_ms == (lease.message.expires_at_ms or 0)
                self.compare_one(message.content, attempts, redelivered, lease.message)

    def compare_one(self, content: bytes, attempts: int, redelivered: bool, twin: TwinMessage) -> None:
        """The twin learns what it cannot know."""
        assert twin.attempts in (None, attempts), f"{twin} after {attempts} attempts"
        twin.attempts = attempts
        assert twin.redelivered in (None, redelivered), f"{twin} redelivered"
        twin.redelivered = redelivered
        assert CONTAINER.body_bytes(content) == twin.size
        assert tuple((d.queue, d.reason, d.count) for d in CONTAINER.deaths(content)) == twin.deaths


QueueMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestQueueAgainstItsTwin = QueueMachine.TestCase
