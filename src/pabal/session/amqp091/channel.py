"""A channel: its consumers, what it has not settled, and the basic, confirm and channel methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr

from pabal.broker.clients import Client
from pabal.broker.consumer import Consumer
from pabal.broker.inbox import Inbox
from pabal.broker.queue import Queue
from pabal.broker.statistics import Counters
from pabal.model.arguments import parse_consumer_arguments
from pabal.model.message import Message, Outcome
from pabal.session.amqp091 import entities, replies, transaction
from pabal.session.amqp091.deliveries import ChannelConsumer, GetConsumer, Revoked
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.publishing import Publisher
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.errors import (
    COMMAND_INVALID,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    WireError,
)

if TYPE_CHECKING:
    from pabal.session.amqp091.connection import Amqp091Session


@mypyc_attr(acyclic=True)
class Channel:
    """`prefetch`: how many unsettled deliveries all its consumers together may hold (basic.qos global), 0 for
    any number. `inbox`: where answers to its requests go, if it consumes them, or did.

    A client may open thousands and use none, so that each is to be little: what not every channel needs is made when
    it is needed. Closed, nothing that it had refers to it any more: Python need not look for garbage in it, and
    compiled it does not.
    """

    __slots__ = (
        "_cancelled",
        "_client",
        "_first_unsettled",
        "_getter",
        "_publisher",
        "broker",
        "closed",
        "consumer_prefetch",
        "consumers",
        "counters",
        "inbox",
        "last_delivery",
        "last_queue",
        "number",
        "output",
        "prefetch",
        "rights",
        "session",
        "since_ms",
        "transaction",
        "unsettled_deliveries",
        "vhost",
    )

    def __init__(self, session: Amqp091Session, number: int) -> None:
        assert session.vhost is not None and session.rights is not None
        self.session = session
        self._client = session.client
        self.output = session.output
        self.broker = session.broker
        self.vhost = session.vhost
        self.rights = session.rights
        self.number = number
        self.closed = False
        self.since_ms = session.broker.now_ms
        self.counters = Counters()
        session.broker.statistics.channels_opened += 1
        self.prefetch = 0
        self.last_queue = ""
        self.last_delivery = 0
        self.inbox: Inbox | None = None
        self.consumers: dict[str, Consumer] = {}
        self._cancelled: tuple[Consumer, ...] = ()
        self.unsettled_deliveries: dict[int, Message | Revoked] = {}
        self._publisher: Publisher | None = None
        self.transaction: transaction.Transaction | None = None  # after tx.select
        self._first_unsettled = 1  # no delivery below it is unsettled
        self.consumer_prefetch = 0
        self._getter: GetConsumer | None = None  # of the last basic.get

    def call(self, method: m.Method, arguments: tuple[Any, ...]) -> None:
        """Does what a client's method asks. BrokerError and ChannelFault close this channel."""
        handler = _HANDLERS.get(method.key)
        if handler is None:
            raise WireError(COMMAND_INVALID, "unimplemented method")
        handler(self, *arguments)

    def reply(self, method: m.Method, *arguments: object) -> None:
        self.output.write(m.encode_method(self.number, method, *arguments))

    def durable(self, upto: int) -> None:
        """See broker.Waiter: what was published up to this number may be confirmed."""
        if self._publisher is not None:
            self._publisher.confirm(upto)

    def unsettled(self) -> int:
        """Deliveries that consumers hold, cancelled ones too."""
        self._cancelled = tuple([consumer for consumer in self._cancelled if consumer.unsettled])
        return sum(consumer.unsettled for consumer in (*self.consumers.values(), *self._cancelled))

    def forget(self, consumer: Consumer) -> None:
        """It is cancelled; what it still holds counts on against the channel's prefetch."""
        self.consumers.pop(consumer.tag, None)
        self._cancelled = tuple([each for each in (*self._cancelled, consumer) if each.unsettled])

    def stop_consumers(self) -> None:
        """Cancels the consumers, the last one first, so that nobody takes over for a moment; what they hold stays
        with the channel."""
        consumers = list(self.consumers.values())
        self.consumers.clear()
        for consumer in reversed(consumers):
            consumer.queue.remove_consumer(consumer)

    def close(self) -> None:
        """Cancels the consumers and gives back what is unsettled; what a transaction holds is not done."""
        if not self.closed:
            self.broker.statistics.channels_closed += 1
        self.closed = True
        if self.consumers:
            self.stop_consumers()
        if self.transaction is not None:
            self.transaction.rollback()
        if self.unsettled_deliveries:
            self.broker.returns.take(self, list(self.unsettled_deliveries))
        self._publisher = self.transaction = self._getter = None
        self._cancelled = ()

    def held_queues(self) -> Iterable[Queue]:
        """See returns.Leaver."""
        holders = dict.fromkeys([delivery.consumer for delivery in self.unsettled_deliveries.values()])
        return [consumer.queue for consumer in holders]

    def give_back(self, deliveries: list[int]) -> None:
        """See returns.Leaver."""
        self.settle(self.unsettled_deliveries, deliveries, Outcome.RETURN)

    # --- What is to be seen of it, see broker.clients ---------------------------------------------------------

    @property
    def client(self) -> Client:
        return self._client

    @property
    def open_consumers(self) -> Sequence[Consumer]:
        return list(self.consumers.values())

    @property
    def publisher(self) -> Publisher:
        publisher = self._publisher
        if publisher is None:
            publisher = self._publisher = Publisher(self)
        return publisher

    @property
    def confirming(self) -> bool:
        return self._publisher is not None and self._publisher.confirming

    @property
    def transactional(self) -> bool:
        return self.transaction is not None

    @property
    def channel_prefetch(self) -> int:
        return self.prefetch

    @property
    def unacknowledged(self) -> int:
        return len(self.unsettled_deliveries)

    @property
    def unconfirmed(self) -> int:
        return 0 if self._publisher is None else self._publisher.unconfirmed

    @property
    def uncommitted(self) -> int:
        return 0 if self.transaction is None else self.transaction.held_messages

    @property
    def uncommitted_acknowledgements(self) -> int:
        return 0 if self.transaction is None else self.transaction.held_settlements

    # --- Settling -------------------------------------------------------------------------------------------

    def ack(self, tags: list[int]) -> None:
        if self.transaction is None:
            self.settle(self.unsettled_deliveries, tags, Outcome.ACCEPT)
        else:
            self.transaction.settle(tags, Outcome.ACCEPT)

    def ack_multiple(self, tag: int) -> None:
        tags = self._upto(tag)
        if self.transaction is None:
            self.settle(self.unsettled_deliveries, tags, Outcome.ACCEPT)
        else:
            self.transaction.settle(tags, Outcome.ACCEPT)

    def _upto(self, tag: int) -> list[int]:
        """The unsettled deliveries up to `tag`, all of them when it is 0 (§1.8.3.13)."""
        unsettled = self.unsettled_deliveries
        if tag == 0:
            tags = list(unsettled)
            self._first_unsettled = self.last_delivery + 1
            return tags
        if tag not in unsettled:
            raise ChannelFault(PRECONDITION_FAILED, f"unknown delivery tag {tag}")
        tags = list(range(self._first_unsettled, tag + 1))
        if len(unsettled) != self.last_delivery - self._first_unsettled + 1:  # else there is no gap
            tags = [t for t in tags if t in unsettled]
        self._first_unsettled = tag + 1
        return tags

    def settle(self, deliveries: dict[int, Message | Revoked], tags: list[int], outcome: Outcome) -> None:
        """Settles these of `deliveries` and takes them out, those of the same consumer in one step."""
        pop = deliveries.pop
        consumer: Consumer | None = None
        batch: list[Message] = []
        unknown: int | None = None
        tag: Any  # an int, and the object that is in the list
        for tag in tags:
            delivery = pop(tag, None)
            if delivery is None:
                unknown = tag
                break
            if isinstance(delivery, Revoked):
                delivery.consumer.queue.late(delivery.consumer)
                continue
            if delivery.consumer is not consumer:
                if consumer is not None:
                    consumer.queue.settle(batch, consumer, outcome)
                consumer = delivery.consumer
                batch = []
            batch.append(delivery)
        if consumer is not None:
            consumer.queue.settle(batch, consumer, outcome)
        if self.prefetch:
            self._schedule_consumers()
        if unknown is not None:
            raise ChannelFault(PRECONDITION_FAILED, f"unknown delivery tag {unknown}")

    def restore(self, deliveries: dict[int, Message | Revoked]) -> None:
        """These are unsettled after all."""
        self.unsettled_deliveries = dict(sorted((self.unsettled_deliveries | deliveries).items()))
        self._first_unsettled = min(self._first_unsettled, *deliveries)

    def revoke(self, tag: int, consumer: Consumer) -> None:
        """The lease of this delivery ran out."""
        if self.transaction is None or not self.transaction.revoke(tag, consumer):
            self.unsettled_deliveries[tag] = Revoked(consumer)

    def _schedule_consumers(self) -> None:
        for consumer in self.consumers.values():
            consumer.queue.schedule()

    def basic_nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        self._give_back(self._upto(tag) if multiple else [tag], Outcome.RELEASE if requeue else Outcome.REJECT)

    def basic_reject(self, tag: int, requeue: bool) -> None:
        """Unlike nack it says that processing failed (RabbitMQ 4.3 counts an attempt for it)."""
        self._give_back([tag], Outcome.RETURN if requeue else Outcome.REJECT)

    def _give_back(self, tags: list[int], outcome: Outcome) -> None:
        if self.transaction is None:
            self.settle(self.unsettled_deliveries, tags, outcome)
        else:
            self.transaction.settle(tags, outcome)

    def basic_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self.ack_multiple(tag)
        else:
            self.ack([tag])

    def basic_recover(self, requeue: bool) -> None:
        self.basic_recover_async(requeue)
        self.reply(m.BASIC_RECOVER_OK)

    def basic_recover_async(self, requeue: bool) -> None:
        """No transaction holds this back, as in RabbitMQ; nor does it concern what one has settled."""
        if not requeue:
            raise WireError(NOT_IMPLEMENTED, "requeue=false")
        self.settle(self.unsettled_deliveries, self._upto(0), Outcome.RELEASE)

    # --- Consuming ------------------------------------------------------------------------------------------

    def basic_qos(self, size: int, count: int, of_channel: bool) -> None:
        """RabbitMQ's reading: without `global` for each consumer started later, with it for all of the channel; 4.3
        has the former only, and takes the latter for it."""
        if size:
            raise WireError(NOT_IMPLEMENTED, f"prefetch_size!=0 ({size})")
        if of_channel and self.session.settings.compatibility.shared_prefetch:
            self.prefetch = count
            for consumer in self.consumers.values():
                consumer.shared_credit = count > 0
            self._schedule_consumers()
        else:
            self.consumer_prefetch = count
        self.reply(m.BASIC_QOS_OK)

    def basic_consume(
        self,
        queue_name: str,
        tag: str,
        no_local: bool,
        no_ack: bool,
        exclusive: bool,
        no_wait: bool,
        arguments: dict[str, Any],
    ) -> None:
        if not tag:
            tag = self.broker.name_consumer()
        elif tag in self.consumers:
            raise WireError(NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        if queue_name == replies.PSEUDO_QUEUE:
            queue: Queue = replies.open_inbox(self, no_ack)
        else:
            queue_name = entities.queue_name(self, queue_name)
            self.rights.consume(queue_name)
            queue = self.vhost.queue(queue_name, self.session)
        queue.check_exclusive(exclusive)
        priority, lease_ms = parse_consumer_arguments(arguments, queue.name, queue.vhost.name)
        consumer = ChannelConsumer(self, queue, tag, no_ack, exclusive, self.consumer_prefetch, priority, arguments)
        consumer.lease_ms = lease_ms
        consumer.shared_credit = self.prefetch > 0
        self.consumers[tag] = consumer
        if not no_wait:
            self.reply(m.BASIC_CONSUME_OK, tag)
        queue.add_consumer(consumer)

    def basic_cancel(self, tag: str, no_wait: bool) -> None:
        consumer = self.consumers.get(tag)
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
            self.forget(consumer)
        if not no_wait:
            self.reply(m.BASIC_CANCEL_OK, tag)

    def basic_get(self, queue_name: str, no_ack: bool) -> None:
        queue_name = entities.queue_name(self, queue_name)
        self.rights.get(queue_name)
        queue = self.vhost.queue(queue_name, self.session)
        getter = self._getter
        if getter is None or getter.queue is not queue or getter.auto_settle is not no_ack:
            getter = self._getter = GetConsumer(self, queue, no_ack)
        if queue.get(getter) is None:
            self.reply(m.BASIC_GET_EMPTY)

    # --- The channel itself ---------------------------------------------------------------------------------

    def channel_flow(self, active: bool) -> None:
        """As in RabbitMQ a client cannot stop the flow: it has prefetch for that."""
        if not active:
            raise WireError(NOT_IMPLEMENTED, "active=false")
        self.reply(m.CHANNEL_FLOW_OK, active)

    def confirm_select(self, no_wait: bool) -> None:
        if self.transaction is not None:
            raise ChannelFault(PRECONDITION_FAILED, "cannot switch from tx to confirm mode")
        self.publisher.confirming = True
        if not no_wait:
            self.reply(m.CONFIRM_SELECT_OK)

    def access_request(self, *_: object) -> None:
        """Obsolete since 0-9; old clients still ask. Any ticket will do."""
        self.reply(m.ACCESS_REQUEST_OK, 1)


_HANDLERS: dict[int, Callable[..., None]] = {
    m.CHANNEL_FLOW.key: Channel.channel_flow,
    m.ACCESS_REQUEST.key: Channel.access_request,
    m.EXCHANGE_DECLARE.key: entities.exchange_declare,
    m.EXCHANGE_DELETE.key: entities.exchange_delete,
    m.EXCHANGE_BIND.key: entities.exchange_bind,
    m.EXCHANGE_UNBIND.key: entities.exchange_unbind,
    m.QUEUE_DECLARE.key: entities.queue_declare,
    m.QUEUE_BIND.key: entities.queue_bind,
    m.QUEUE_UNBIND.key: entities.queue_unbind,
    m.QUEUE_PURGE.key: entities.queue_purge,
    m.QUEUE_DELETE.key: entities.queue_delete,
    m.BASIC_QOS.key: Channel.basic_qos,
    m.BASIC_CONSUME.key: Channel.basic_consume,
    m.BASIC_CANCEL.key: Channel.basic_cancel,
    m.BASIC_GET.key: Channel.basic_get,
    m.BASIC_ACK.key: Channel.basic_ack,
    m.BASIC_NACK.key: Channel.basic_nack,
    m.BASIC_REJECT.key: Channel.basic_reject,
    m.BASIC_RECOVER.key: Channel.basic_recover,
    m.BASIC_RECOVER_ASYNC.key: Channel.basic_recover_async,
    m.CONFIRM_SELECT.key: Channel.confirm_select,
    m.TX_SELECT.key: transaction.tx_select,
    m.TX_COMMIT.key: transaction.tx_commit,
    m.TX_ROLLBACK.key: transaction.tx_rollback,
}
