"""A queue: messages in order, consumers in turn, and one door (`settle`) through which deliveries end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pabal.broker.backlog import count_bodies
from pabal.broker.consumer import Consumer, Rotation, deal
from pabal.broker.intake import Intake
from pabal.broker.leases import Leases
from pabal.broker.relays import enter_chain
from pabal.broker.waiting import Waiting
from pabal.model.arguments import QueueArguments
from pabal.model.definitions import QueueDefinition
from pabal.model.errors import AccessRefused
from pabal.model.limits import DISPATCH_BYTES_MAX, TIMER_MESSAGES_MAX
from pabal.model.message import UNSTORED, Envelope, Message, Outcome
from pabal.store.batch import QueueState
from pabal.store.journal import QueueLog

if TYPE_CHECKING:
    from pabal.broker.vhost import Vhost

_NO_END: Final = 1 << 62


class Queue(Intake):
    """`owner`: the connection an exclusive queue belongs to, None for a queue of all. `leased`: how many messages are
    with consumers. `expired_leases`: how many leases ran out; `late_settlements`: how many settlements came later.
    `declared`: the arguments before policies; `arguments`: those in force. Made with what waits in it, if anything.
    """

    def __init__(
        self,
        vhost: Vhost,
        definition: QueueDefinition,
        arguments: QueueArguments,
        log: QueueLog,
        owner: object | None = None,
        waiting: QueueState | None = None,
    ) -> None:
        super().__init__(vhost, definition, arguments, log)
        self.owner = owner
        self.expired_leases = self.late_settlements = 0
        self.deleted = False
        self.wake_at_ms = 0  # when the broker's timer looks in, 0 for never
        self._redelivers = log.count > 0  # some of its messages may have been handed over before
        self._ranked = False  # there was a consumer with a priority
        self._rotation = Rotation()
        self._used_ms = vhost.broker.now_ms  # when it last had a consumer, a get or a declaration
        self._leases = Leases()
        self._waiting = Waiting(self, waiting) if waiting is not None else None

    def change_arguments(self, arguments: QueueArguments) -> None:
        """From now on these are in force. What is beyond a length limit goes at once; messages keep the time to live
        that they have, and deliveries their leases; the queue's own expiry begins anew."""
        self.vhost.broker.returns.complete(self)
        before, self.arguments = self.arguments, arguments
        self._follow_arguments()
        self._used_ms = self.vhost.broker.now_ms
        if not self._counts_bytes:
            self.log.count_bytes(None)
        elif before.max_length_bytes is None:
            self._count_bytes()
        if self._exceeds(0, 0):
            self.dispatch()
            self._drop_head()
        self._set_timer()

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer, or on their way through a chain of delays that begins here."""
        return len(self.backlog) + (self._waiting.relayed if self._waiting is not None else 0)

    @property
    def waiting_count(self) -> int:
        """How many messages wait for their time, relayed ones included."""
        return len(self._waiting) if self._waiting is not None else 0

    @property
    def leased_bytes(self) -> int:
        """About how many bytes those with consumers have: keeping count would cost each message something."""
        return self.leased * self.backlog.mean_bytes

    @property
    def waiting(self) -> Waiting:
        """What waits for its time before it is ready (again)."""
        if self._waiting is None:
            self._waiting = Waiting(self, None)
        return self._waiting

    @property
    def empty(self) -> bool:
        """There is no message, ready, leased or waiting."""
        return not (self.ready or self.leased or self._waiting)

    # --- Taking in ------------------------------------------------------------------------------------------

    def publish(
        self, envelope: Envelope, contents: list[bytes], content_bytes: int, forced: bool = False
    ) -> Sequence[int]:
        """Takes messages in at the end. Returns the indexes of those it refuses; with `forced` it refuses none."""
        if self._bounded:
            return self._publish_bounded(envelope, contents, forced)
        if self._may_relay and self.only_delays and enter_chain(self, envelope, contents):
            return ()
        self._append(envelope, contents, content_bytes)
        return ()

    def publish_here(self, envelope: Envelope, content: bytes) -> None:
        """At the end of this queue, whatever there is in it and wherever it leads."""
        self._append(envelope, [content], len(content))
        if self._counts_bytes:
            self.body_bytes += envelope.container.body_bytes(content)

    @property
    def only_delays(self) -> bool:
        """Messages leave it when their time is over, and nobody sees them before that."""
        return self._may_relay and not self.consumers

    # --- Handing out ----------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """There may be something to hand out, or room for it anywhere: look at the end of this turn."""
        self._rotation.ask_all()
        self._look()

    def _look(self) -> None:
        """The same, but nobody has room who had none before."""
        if not self.scheduled:
            self.scheduled = True
            self.vhost.broker.scheduled.append(self)

    def dispatch(self) -> None:
        """Hands ready messages to consumers that have room, each in turn, and sets the timer for the rest. Unless
        `at_once`, about DISPATCH_BYTES_MAX, and what is left when it is this queue's turn again."""
        if self.deleted:
            return
        came_back = self._waiting is not None and self._waiting.end()
        if self._sifts:
            self._expire()
        if self.consumers:
            upto = _NO_END if self.at_once else self.vhost.broker.handed_out_bytes + DISPATCH_BYTES_MAX
            if len(self.consumers) == 1 or self.arguments.single_active_consumer:
                self._dispatch_to(self.consumers[0], upto)
            else:
                self._dispatch_in_turn(upto)
            if len(self.backlog) and not self.scheduled:
                self.vhost.broker.consumers_busy = True
        if came_back and self._bounded:
            self._drop_head()  # too much of it may be left
        if self._sifts and not len(self.backlog):
            self._urgent = False
            self._sifts = self._ttl_ms is not None
        if self._timed or self._sifts or self._leases or self._waiting is not None:
            self._set_timer()

    def _dispatch_to(self, consumer: Consumer, upto: int) -> None:
        while len(self.backlog):
            room = consumer.room()
            if room <= 0 or self._postponed(upto):
                return
            messages = self._take(min(room, self.backlog.step()))
            if self._sifts:
                messages = self._sift(messages)
            if messages:
                self._lease(consumer, messages)

    def _dispatch_in_turn(self, upto: int) -> None:
        """A message to each consumer with room, round and round, handed over in batches."""
        if self._rotation.misplaced:
            self._rotation.misplaced = False
            for place, consumer in enumerate(self.consumers):
                consumer.place = place
        while len(self.backlog):
            takers, rooms, most = self._takers(self.backlog.step())
            if not takers or self._postponed(upto):
                return
            messages = self._take(min(most, sum(rooms)))
            if self._sifts:
                messages = self._sift(messages)
            batches, end = deal(messages, rooms, 0)
            if messages:
                self._rotation.next = takers[(end - 1) % len(takers)].place + 1
            for consumer, batch in zip(takers, batches, strict=True):
                if batch:
                    self._lease(consumer, batch)

    def _postponed(self, upto: int) -> bool:
        """It has handed out enough for now. The rest follows when it is this queue's turn again."""
        if self.vhost.broker.handed_out_bytes < upto:
            return False
        self._look()
        return True

    def _takers(self, step: int) -> tuple[list[Consumer], list[int], int]:
        """Those whose turn it is, no more than there are messages for, how much room each has, and how many messages
        to hand out. Of consumers with priorities only the highest that have room; and one whose room may depend on
        what another takes comes alone."""
        found: Iterable[tuple[Consumer, int]] = self._with_room()
        if self._ranked:
            found = list(found)
            best = max((consumer.priority for consumer, _ in found), default=0)
            found = [(consumer, room) for consumer, room in found if consumer.priority == best]
        most = min(len(self.backlog), step)
        takers: list[Consumer] = []
        rooms: list[int] = []
        for consumer, room in found:
            if consumer.shared_credit and takers:
                return takers, rooms, len(takers)  # a message for each of those before it
            takers.append(consumer)
            rooms.append(room)
            if consumer.shared_credit:
                return takers, rooms, 1
            if len(takers) == most:
                break
        return takers, rooms, most

    def _with_room(self) -> Iterator[tuple[Consumer, int]]:
        for place in self._rotation.in_turn():
            consumer = self.consumers[place]
            room = consumer.room()
            if room > 0:
                yield consumer, room
            else:
                self._rotation.pass_over(place)

    def _lease(self, consumer: Consumer, messages: list[Message]) -> None:
        if self.durable:
            for message in reversed(messages):
                if message.state != UNSTORED:
                    self.log.delivered(message.position)
                    break
        count = len(messages)
        if consumer.auto_settle:
            self.log.remove(messages)
        else:
            self.leased += count
            consumer.unsettled += count
            for message in messages:
                message.consumer = consumer
            if self.log.counts_attempts:
                for message in messages:
                    self.log.update(message)
            lease_ms = self._lease_ms if consumer.lease_ms is None else consumer.lease_ms
            if lease_ms is not None:
                self._leases.begin(messages, lease_ms, self.vhost.broker.now_ms)
        again = sum([message.redelivered for message in messages]) if self._redelivers else 0
        self.counters.handed(count, again, consumer.asked, consumer.auto_settle)
        self.vhost.counters.handed(count, again, consumer.asked, consumer.auto_settle)
        if consumer.counters is not None:
            consumer.counters.handed(count, again, consumer.asked, consumer.auto_settle)
        consumer.deliver(messages)
        if self.vhost.broker.observer is not None:
            self.vhost.broker.observer.delivered(self, consumer, messages)

    def get(self, consumer: Consumer) -> Message | None:
        """The next message, for `consumer`, which need not be one of this queue's; None when there is none."""
        self.use()
        self.vhost.broker.returns.complete(self)
        if self._waiting is not None:
            self._waiting.recall()
        if self._sifts:
            self._expire()
        while messages := self._take(1):
            if self._sifts and not (messages := self._sift(messages)):
                continue
            self._lease(consumer, messages)
            if self._sifts or self._leases:
                self._set_timer()
            break
        if self._waiting is not None:
            self.schedule()
        if messages:
            return messages[0]
        self.counters.get_empty += 1
        self.vhost.counters.get_empty += 1
        if consumer.counters is not None:
            consumer.counters.get_empty += 1
        return None

    # --- Consumers ------------------------------------------------------------------------------------------

    def check_exclusive(self, exclusive: bool) -> None:
        """AccessRefused when a consumer is exclusive and another is there, or only one is active anyway."""
        alone = exclusive or any(c.exclusive for c in self.consumers)
        if alone and (self.consumers or self.arguments.single_active_consumer):
            raise AccessRefused(f"queue '{self.name}' in vhost '{self.vhost.name}' in exclusive use")

    def add_consumer(self, consumer: Consumer) -> None:
        self.check_exclusive(consumer.exclusive)
        if self._waiting is not None:
            self._waiting.recall()
        self.consumers.append(consumer)
        consumer.place = len(self.consumers) - 1
        self._rotation.resize(len(self.consumers))
        self._ranked = self._ranked or consumer.priority != 0
        self._look()

    def remove_consumer(self, consumer: Consumer) -> None:
        """It gets nothing more; what it has leased stays with it. The last to go takes an auto-delete queue along."""
        if consumer not in self.consumers:
            return
        index = self.consumers.index(consumer)
        del self.consumers[index]
        consumer.place = -1
        if index < self._rotation.next:
            self._rotation.next -= 1
        self._rotation.misplaced = True
        self._rotation.resize(len(self.consumers))
        if not self.consumers:
            self.use()
            if self.definition.auto_delete:
                self.vhost.delete_queue(self)
        elif index == 0 and self.arguments.single_active_consumer:
            # The next active one is, as in RabbitMQ, the first of those with the highest priority.
            successor = max(self.consumers, key=lambda each: each.priority)
            self.consumers.remove(successor)
            self.consumers.insert(0, successor)
            self._look()

    def use(self) -> None:
        """Somebody takes an interest in the queue: its own expiry (x-expires) begins anew."""
        self._used_ms = self.vhost.broker.now_ms
        if self._timed:
            self._set_timer()

    # --- Settling -------------------------------------------------------------------------------------------

    def settle(self, messages: list[Message], consumer: Consumer, outcome: Outcome) -> None:
        """Ends the leases of these messages, all of them with `consumer`."""
        count = len(messages)
        consumer.unsettled -= count
        if self.vhost.broker.observer is not None:
            self.vhost.broker.observer.settled(self, messages, outcome)
        if outcome is Outcome.ACCEPT:
            self.counters.ack += count
            self.vhost.counters.ack += count
            if consumer.counters is not None:
                consumer.counters.ack += count
        if self.deleted:
            return
        self.leased -= count
        if len(self.consumers) > 1 and not self._rotation.misplaced:
            self._rotation.ask(consumer.place)  # first: a dead letter may come back to this queue at once
        if self._leases:
            self._leases.end(messages)
        if outcome is Outcome.ACCEPT:
            self.log.remove(messages)
        elif outcome is Outcome.REJECT:
            self._dead_letter(messages, "rejected")
        else:
            self._return(messages, "delivery_limit", outcome is Outcome.RETURN)
        if not self.scheduled and (len(self.backlog) or self._waiting is not None):
            self._look()

    def late(self, consumer: Consumer) -> None:
        """A consumer spoke of a message whose lease had run out: ignored, but it has room again."""
        consumer.unsettled -= 1
        consumer.overdue -= 1
        self.late_settlements += 1
        self.vhost.broker.statistics.late_settlements += 1
        if not self.deleted:
            self.schedule()

    def _return(self, messages: list[Message], reason: str, failed: bool) -> None:
        """Back to their places, now or later; those that came back too often are dead-lettered for `reason`."""
        arguments = self.arguments
        limit = arguments.delivery_limit
        counted = failed or self.vhost.broker.counts_releases
        worn: list[Message] = []
        for message in messages:
            message.attempts += counted
            message.consumer = None
            if limit is not None and message.attempts > limit:
                worn.append(message)
                continue
            delay_ms = arguments.retry_delay_ms(message.attempts, failed) if arguments.retry_min_ms else 0
            if delay_ms:
                self.waiting.hold(message, delay_ms)
                continue
            if self.log.counts_attempts:
                self.log.update(message)
            self.take_back(message)
        if worn:
            self._dead_letter(worn, reason)
        if self._bounded:
            self._drop_head()

    def take_back(self, message: Message) -> None:
        """A message that was delivered before is ready again."""
        message.redelivered = True
        self._redelivers = True
        self.backlog.push_back(message)
        if self._counts_bytes:
            self.body_bytes += message.envelope.container.body_bytes(message.content)
        if message.expires_at_ms:
            self._will_expire(message.expires_at_ms)

    def _dead_letter(self, messages: list[Message], reason: str) -> None:
        self.vhost.broker.dead_letter(self, messages, reason)

    # --- Time -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """What time has brought: leases that ran out, messages that expired."""
        self.wake_at_ms = 0
        if self.deleted or self in self.vhost.broker.returns.expected:
            return
        expires_ms = self.arguments.expires_ms
        if expires_ms is not None and not self.consumers and self.vhost.broker.now_ms >= self._used_ms + expires_ms:
            self.vhost.delete_queue(self)
        else:
            self.end_leases()

    def end_leases(self) -> None:
        """Messages whose leases have run out come back; then looks what is to be done in this turn."""
        ended = self._leases.take_ended(self.vhost.broker.now_ms, TIMER_MESSAGES_MAX)
        if ended:
            ended.sort(key=lambda message: message.position)  # letters among them come in the queue's order
            self.leased -= len(ended)
            self.expired_leases += len(ended)
            self.vhost.broker.statistics.leases_expired += len(ended)
            for message in ended:
                message.consumer.overdue += 1
                message.consumer.revoked(message)
            self._return(ended, "lease_expired", failed=False)
        self.schedule()  # expires what is due, hands out what came back, sets the timer again

    def _expire(self) -> None:
        """Dead-letters what has expired at the front: only there, as the order is kept (as RabbitMQ does)."""
        now_ms = self.vhost.broker.now_ms
        for _ in range(TIMER_MESSAGES_MAX):
            message = self.backlog.first()
            if message is None or not message.expires_at_ms or message.expires_at_ms >= now_ms:
                return
            self._dead_letter(self._take(1), "expired")

    def _sift(self, messages: list[Message]) -> list[Message]:
        """Those that may be delivered. Dead-letters what has expired, and what was on its last attempt when the
        broker went down."""
        now_ms = self.vhost.broker.now_ms
        limit = self.arguments.delivery_limit
        fit: list[Message] = []
        for message in messages:  # one by one, so that the dead keep their order
            if message.expires_at_ms and message.expires_at_ms < now_ms:
                self._dead_letter([message], "expired")
            elif limit is not None and message.attempts > limit:
                self._dead_letter([message], "delivery_limit")
            else:
                fit.append(message)
        return fit

    def _set_timer(self) -> None:
        """At the next lease's end, when something has waited long enough, or at the first message's expiry (one ms
        later: it may be delivered at its last)."""
        times = [self._leases.next_ms(), self._waiting.next_ms() if self._waiting is not None else None]
        if self._sifts:
            first = self.backlog.first()
            if first is not None and first.expires_at_ms:
                times.append(first.expires_at_ms + 1)
        if self._timed and not self.consumers and self.arguments.expires_ms is not None:
            times.append(self._used_ms + self.arguments.expires_ms)
        known = [at_ms for at_ms in times if at_ms is not None]
        if known:
            self.vhost.broker.wake(self, min(known))

    # --- The whole queue ------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Removes all messages that are ready or wait for their time; returns how many there were. Leased ones stay
        (AMQP 0-9-1 §1.7.2.7)."""
        self.vhost.broker.returns.complete(self)
        purged = self._waiting.purge() if self._waiting is not None else 0
        messages, on_disk = self.backlog.clear()
        self.log.remove(messages)
        purged += len(messages)
        held = count_bodies(messages)[0] if self._counts_bytes else 0
        disk_bytes = self.body_bytes - held  # all but what was in memory; counted for the first range
        for count, first, last in on_disk:
            self.vhost.broker.store.journal.drop_range(self.log.queue_id, first, last)
            self.log.forget(count, disk_bytes, first)
            disk_bytes = 0
            purged += count
        self.body_bytes = 0
        return purged

    def close(self) -> None:
        """The queue was deleted: forget its messages, tell its consumers."""
        self.deleted = True
        self._leases.clear()
        self.backlog.clear()
        self.vhost.broker.store.journal.drop_queue(self.log)
        if self._waiting is not None:
            self._waiting.close()
        consumers, self.consumers = self.consumers, []
        for consumer in consumers:
            consumer.place = -1
            consumer.cancelled()
