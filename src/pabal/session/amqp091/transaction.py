"""Transactions (class tx, AMQP 0-9-1 §1.9): what a channel publishes and settles is held until it commits.

A commit decides first whether all of it can be done, and then does all of it in one step of a turn, so that it
is in one commit of the store: all or nothing over every queue it touches, whatever happens to the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.model.limits import TRANSACTION_BYTES_MAX
from pabal.model.message import Envelope, Message, Outcome
from pabal.session.amqp091.deliveries import Revoked
from pabal.session.amqp091.faults import ChannelFault
from pabal.wire.amqp091.errors import PRECONDITION_FAILED
from pabal.wire.amqp091.methods import TX_COMMIT_OK, TX_ROLLBACK_OK, TX_SELECT_OK

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel

_MESSAGE_OVERHEAD_BYTES: Final = 256
"""What a message costs besides its content, about, while it is held and when it is committed."""


class _Run:
    """Contents published alike, one after the other, and the queues they were routed to when they were published."""

    __slots__ = ("content_bytes", "contents", "envelope", "mandatory", "queues")

    def __init__(
        self, envelope: Envelope, mandatory: bool, queues: list[Queue], contents: list[bytes], content_bytes: int
    ) -> None:
        self.envelope = envelope
        self.mandatory = mandatory
        self.queues = queues
        self.contents = contents
        self.content_bytes = content_bytes


class Transaction:
    """What a channel in transaction mode holds. Committed or rolled back, it begins anew."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._runs: list[_Run] = []
        self._held_bytes = 0
        self._settlements: list[tuple[list[int], Outcome]] = []
        self._deliveries: dict[int, Message | Revoked] = {}  # those settled, by delivery tag

    @property
    def held_messages(self) -> int:
        return sum(len(run.contents) for run in self._runs)

    @property
    def held_settlements(self) -> int:
        return sum(len(tags) for tags, _ in self._settlements)

    # --- Holding --------------------------------------------------------------------------------------------

    def publish(self, envelope: Envelope, mandatory: bool, contents: list[bytes], content_bytes: int) -> None:
        """Holds contents published alike. Where they go is decided now, as RabbitMQ does: a binding made before
        the commit comes too late for them, and an exchange that is not there is an error now."""
        queues = self._channel.vhost.route(envelope, contents[0])
        self._count(content_bytes + _MESSAGE_OVERHEAD_BYTES * len(contents))
        last = self._runs[-1] if self._runs else None
        if last and last.envelope is envelope and last.queues is queues and last.mandatory is mandatory:
            last.contents += contents
            last.content_bytes += content_bytes
        else:
            self._runs.append(_Run(envelope, mandatory, queues, contents, content_bytes))

    def _count(self, size: int) -> None:
        self._held_bytes += size
        if self._held_bytes > TRANSACTION_BYTES_MAX:
            raise ChannelFault(
                PRECONDITION_FAILED, f"more than {TRANSACTION_BYTES_MAX} bytes of messages in one transaction"
            )

    def settle(self, tags: list[int], outcome: Outcome) -> None:
        """Holds settlements. The deliveries count as unsettled, against prefetch limits too, but they cannot be
        settled again before a rollback."""
        pop = self._channel.unsettled_deliveries.pop
        for tag in tags:
            delivery = pop(tag, None)
            if delivery is None:
                raise ChannelFault(PRECONDITION_FAILED, f"unknown delivery tag {tag}")
            self._deliveries[tag] = delivery
        self._settlements.append((tags, outcome))

    def revoke(self, tag: int, consumer: Consumer) -> bool:
        """The lease of this delivery ran out. False when it is not settled in this transaction."""
        if tag not in self._deliveries:
            return False
        self._deliveries[tag] = Revoked(consumer)
        return True

    # --- Ending ---------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Does all of it, publishes before settlements (RabbitMQ's order). A ChannelFault when some of it cannot be
        done: then nothing was. Nothing may fail once the first thing is done."""
        queues = self._channel.vhost.queues
        routed = [
            (run, [current for q in run.queues if not (current := queues.get(q.name, q)).deleted])
            for run in self._runs
        ]
        self._check_room(routed)
        self._check_leases()
        for run, targets in routed:
            count = len(run.contents)
            self._channel.counters.publish += count
            self._channel.vhost.count_published(run.envelope, count, count * len(targets))
            if self._channel.broker.observer is not None:
                self._channel.broker.observer.published(self._channel.vhost.name, run.envelope, run.contents)
            for queue in targets:
                queue.counters.publish += count
                queue.publish(run.envelope, run.contents, run.content_bytes, forced=True)
            if not targets:
                self._channel.publisher.count_unroutable(count, run.mandatory)
            if run.mandatory and not targets:
                for content in run.contents:
                    self._channel.publisher.send_back(run.envelope, content)
        for tags, outcome in self._settlements:
            self._channel.settle(self._deliveries, tags, outcome)
        self._clear()

    def _check_room(self, routed: list[tuple[_Run, list[Queue]]]) -> None:
        """RabbitMQ does the rest and says "partial tx completion"."""
        totals: dict[Queue, tuple[int, int]] = {}
        for run, targets in routed:
            body_bytes = sum(map(run.envelope.container.body_bytes, run.contents))
            for queue in targets:
                count, size = totals.get(queue, (0, 0))
                totals[queue] = (count + len(run.contents), size + body_bytes)
        for queue, (count, size) in totals.items():
            if not queue.takes(count, size):
                raise ChannelFault(
                    PRECONDITION_FAILED,
                    f"nothing committed: queue '{queue.name}' in vhost '{queue.vhost.name}' is full",
                )

    def _check_leases(self) -> None:
        """Who was late must not publish what came of it: another has the message to work on now."""
        for tags, outcome in self._settlements:
            if outcome in (Outcome.ACCEPT, Outcome.REJECT):
                for tag in tags:
                    if isinstance(self._deliveries[tag], Revoked):
                        raise ChannelFault(
                            PRECONDITION_FAILED, f"nothing committed: the lease of delivery tag {tag} ran out"
                        )

    def rollback(self) -> None:
        """Forgets what was published; what was settled is unsettled again, and stays with the channel (§1.9)."""
        if self._deliveries:
            self._channel.restore(self._deliveries)
        self._clear()

    def _clear(self) -> None:
        self._held_bytes = 0
        self._runs = []
        self._settlements = []
        self._deliveries = {}


# --- Methods ------------------------------------------------------------------------------------------------


def tx_select(channel: Channel) -> None:
    if channel.publisher.confirming:
        raise ChannelFault(PRECONDITION_FAILED, "cannot switch from confirm to tx mode")
    if channel.transaction is None:
        channel.transaction = channel.publisher.transaction = Transaction(channel)
    channel.reply(TX_SELECT_OK)


def tx_commit(channel: Channel) -> None:
    _transaction(channel).commit()
    channel.output.write_durable(channel.number, TX_COMMIT_OK)


def tx_rollback(channel: Channel) -> None:
    _transaction(channel).rollback()
    channel.reply(TX_ROLLBACK_OK)


def _transaction(channel: Channel) -> Transaction:
    if channel.transaction is None:
        raise ChannelFault(PRECONDITION_FAILED, "channel is not transactional")
    return channel.transaction
