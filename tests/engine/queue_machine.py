"""Real queues beside their obvious twins: each action is done to both, and they must be the same.

There are three queues: `q` may have any arguments, its dead letters go to `dead`, and `dead` may send them back;
`other` is there for transactions. Windows are so small that they page to disk all the time.
"""

from __future__ import annotations

import random
import traceback
from contextlib import ExitStack
from typing import Any
from unittest import mock

from broker_twin import Committed, TwinBroker, TwinChannel
from machine_actions import CHANNELS, Action, Newcomer, Publication, Setup, pick_action, pick_setup
from machine_parts import (
    CONTAINER,
    OrderedEngine,
    TaggingConsumer,
    make_content,
    make_envelope,
    name_in,
    open_channel,
)
from queue_twin import LETTER_MS, QUORUM_LIMIT, TwinConsumer, TwinMessage

import pabal.broker.waiting
import pabal.model.arguments
from engine import START_MS, limits, small_windows
from pabal.broker.queue import Queue
from pabal.model.errors import AccessRefused
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.transaction import tx_commit, tx_rollback

DEAD_LETTERS_TO = {"q": "dead", "dead": "q"}


class QueueMachine:
    """Each action is a turn or more; a commit begins, is on disk and is done in turns of its own. To be closed, since
    it sets limits of the broker."""

    def __init__(self, setup: Setup) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(small_windows(setup.stored, setup.transient, setup.load))
        letters = {"DEAD_LETTER_RETRY_MS": LETTER_MS, "DEAD_LETTER_RETRIES_DOUBLED_MAX": 0}
        self.stack.enter_context(limits(DISPATCH_MESSAGES_MAX=setup.step, **letters))
        patch = mock.patch.object
        self.stack.enter_context(patch(pabal.broker.waiting, "WINDOW_MESSAGES_STORED", 1000))  # all that is due
        self.stack.enter_context(patch(pabal.model.arguments, "QUORUM_DELIVERY_LIMIT", QUORUM_LIMIT))
        self.arguments: dict[str, dict[str, Any]] = {}
        for name, arguments in setup.arguments.items():
            self.arguments[name] = dict(arguments)
            if "x-dead-letter-exchange" in arguments:
                self.arguments[name]["x-dead-letter-routing-key"] = DEAD_LETTERS_TO[name]
        durable = setup.durable or setup.arguments["q"].get("x-queue-type") == "quorum"
        self.durable = {"q": durable, "dead": True, "other": True}
        self.regulars = setup.regulars
        self.engine = OrderedEngine()
        self.engine.counts_releases = self.engine.broker.counts_releases = setup.counts_releases
        self.twin = TwinBroker(START_MS, setup.counts_releases)
        self.committing: Committed | None = None
        self.finished = False
        self.number = 0
        self.connect()
        self.commit(3)

    def close_down(self) -> None:
        """Sets the limits back."""
        self.stack.close()

    def connect(self) -> None:
        """The broker has just begun, so clients come and declare what is not there."""
        self.consumers: list[tuple[TaggingConsumer, TwinConsumer]] = []
        self.channels = [(open_channel(self.engine, mode), TwinChannel(mode)) for mode in CHANNELS]
        for name in self.arguments:
            self.declare(name)
        for newcomer in self.regulars:
            self.consume(newcomer)

    def drain(self) -> None:
        """Everything is taken out: in order, with the attempts and the deaths that the twin expects."""
        for name in list(self.twin.queues):
            consumer, twin = self.make_consumer(Newcomer(name, 0, 0, auto=True))
            while consumer.queue.get(consumer) is not None:
                pass
            while self.twin.queues[name].ready:
                twin.queue.get(twin)
            self.compare(consumer, twin)
        self.check()

    def act(self, action: Action) -> None:
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
            if name in self.twin.queues or publication.delay_ms:
                twin.published.append((name, messages))
        else:
            published = self.engine.vhost.publish(envelope, contents, total)
            if name in self.twin.queues or publication.delay_ms:
                assert list(published.refused) == self.twin.publish(name, messages)
            else:
                assert list(published.unroutable) == list(range(len(messages)))
        self.end_turn()

    def declare(self, name: str) -> None:
        """It may be there already."""
        arguments, durable = self.arguments[name], self.durable[name]
        self.engine.declare(name, durable, arguments)
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
            assert self.real(name).purge() == len(queue.ready) + len(queue.waiting)
            queue.ready, queue.waiting = [], []
        self.end_turn()

    # --- Consumers ------------------------------------------------------------------------------------------

    def make_consumer(self, newcomer: Newcomer) -> tuple[TaggingConsumer, TwinConsumer]:
        channel, twin = self.channels[newcomer.channel]
        name, _, *rest = newcomer
        if name == "dead":
            rest[-1] = None  # or its leases could end together with those of q, whose letters it gets: in any order
        return TaggingConsumer(channel, self.real(name), *rest), TwinConsumer(self.twin.queues[name], twin, *rest)

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
        """One delivery, or all up to it, or it and another one. basic.reject says that one failed, basic.nack that it
        was not tried."""
        pair = self.holding(which)
        if pair is None:
            return
        channel, twin = pair
        count = len(twin.unsettled)
        lease = twin.unsettled[place % count]
        leases = [lease]
        if multiple and outcome != "return":
            leases = [other for other in twin.unsettled if other.tag <= lease.tag]
        elif outcome == "accept":
            leases = [twin.unsettled[index] for index in sorted({place % count, more % count})]
        self.twin.settle(twin, leases, outcome)
        if outcome == "return":
            channel.basic_reject(lease.tag, True)
        elif outcome != "accept":
            channel.basic_nack(lease.tag, multiple, outcome == "release")
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
            self.twin.do_settle(leases, "release")
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

    def check(self) -> None:
        """Both are the same."""
        for consumer, twin in self.consumers:
            self.compare(consumer, twin)
        self.consumers = [(c, twin) for c, twin in self.consumers if twin in twin.queue.consumers or twin.unsettled]
        queues = self.engine.vhost.queues
        assert sorted(queues) == sorted(self.twin.queues)
        for name, queue in self.twin.queues.items():
            assert queues[name].ready == len(queue.ready), name
            assert queues[name].leased == len(queue.leases), name
            assert len(queues[name]._waiting or ()) == len(queue.waiting), name
            if "x-max-length-bytes" in queue.arguments:
                assert queues[name].body_bytes == sum(message.size for message in queue.ready), name
        assert self.engine.delay.ready == len(self.twin.delayed)
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


def run_at_random(seed: int, steps: int, forced: dict[str, dict[str, Any]] | None = None) -> list[object]:
    """A setup and so many actions made of one seed. Returns what fails first, all of it that it takes; nothing if
    nothing fails. `forced`: the arguments of queues, if they are not to be any."""
    pick = random.Random(seed).choice
    setup = pick_setup(pick)
    if forced is not None:
        setup = setup._replace(arguments={name: forced.get(name, {}) for name in setup.arguments})
    actions = [pick_action(pick) for _ in range(steps)]
    error = play(setup, actions)
    if error is None:
        return []
    for index in range(len(actions) - 1, -1, -1):
        fewer = actions[:index] + actions[index + 1 :]
        if type(play(setup, fewer)) is type(error):
            actions = fewer
    return [setup, *actions, *traceback.format_exception(play(setup, actions))]


def play(setup: Setup, actions: list[Action]) -> Exception | None:
    machine = QueueMachine(setup)
    try:
        machine.check()
        for action in actions:
            machine.act(action)
            machine.check()
        machine.drain()
    except Exception as error:
        return error
    finally:
        machine.close_down()
    return None
