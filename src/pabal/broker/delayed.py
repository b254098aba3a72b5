"""Exchanges that hold a message back for as long as it asks (RabbitMQ's plugin delayed_message_exchange): type
`x-delayed-message`, which routes as the type named by the argument `x-delayed-type` does, when the time has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pabal.broker.exchange import Binding, BindingKey, Exchange
from pabal.broker.queue import Queue
from pabal.broker.timetable import Timetable
from pabal.model.arguments import QueueArguments
from pabal.model.definitions import BindingDefinition, ExchangeDefinition, QueueDefinition
from pabal.model.errors import InvalidCommand, PreconditionFailed
from pabal.model.limits import DELAY_MS_MAX, OVERLOAD_MS, TIMER_MESSAGES_MAX
from pabal.model.message import Container, Envelope, Message
from pabal.store.batch import QueueState, waiting_id

if TYPE_CHECKING:
    from pabal.broker.vhost import Vhost


ExchangeTypes = Mapping[str, type[Exchange]]


class DelayedExchange(Exchange):
    """`inner` has the bindings, and routes what is not to be held back, or not any more. `delay` takes the others."""

    type = "x-delayed-message"

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self.by_key = False
        self.delay: Delay | None = None
        self._inner: Exchange | None = None

    @property
    def inner(self) -> Exchange:
        assert self._inner is not None
        return self._inner

    def set_inner(self, types: ExchangeTypes, random_token: Callable[[], str]) -> None:
        """PreconditionFailed, InvalidCommand: `x-delayed-type` is not one of `types`, or is this one."""
        kind = self.definition.arguments.get("x-delayed-type")
        if not isinstance(kind, str):
            raise PreconditionFailed("Invalid argument, 'x-delayed-type' must be an existing exchange type")
        if kind == self.type:
            raise PreconditionFailed("Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'")
        if kind not in types:
            raise InvalidCommand(f"unknown exchange type '{kind}'")
        self._inner = types[kind](replace(self.definition, type=kind), random_token)

    def check_arguments(self) -> None:
        self.inner.check_arguments()

    def check_binding(self, definition: BindingDefinition) -> None:
        self.inner.check_binding(definition)

    def bind(self, binding: Binding) -> bool:
        self.inner.bind(binding)
        return super().bind(binding)

    def unbind(self, key: BindingKey) -> Binding | None:
        self.inner.unbind(key)
        return super().unbind(key)

    def _added(self, binding: Binding) -> None:
        pass

    def _removed(self, binding: Binding) -> None:
        pass

    def close(self) -> None:
        if self.delay is not None:
            self.delay.close()

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        if 0 < container.delay_ms(content) <= DELAY_MS_MAX:
            assert self.delay is not None
            return [self.delay]
        return self.inner.route(keys, container, content)


class Delay(Queue):
    """Where a delayed exchange's messages wait: a queue as far as publishers and timers go, which nobody can
    consume from. All of them are in the store, also transient ones: there may be millions."""

    def __init__(self, vhost: Vhost, exchange: DelayedExchange, queue_id: int, waiting: QueueState | None) -> None:
        definition = exchange.definition
        journal = vhost.broker.store.journal
        super().__init__(
            vhost,
            QueueDefinition(vhost.name, f"{definition.name}\n", queue_id, definition.durable),  # no queue's name
            QueueArguments(),
            journal.queue_log(queue_id),
        )
        self._exchange = exchange
        self._held = journal.queue_log(waiting_id(queue_id), waiting, timed=True)
        self._timetable = Timetable(vhost.broker.store, self._held)

    @property
    def ready(self) -> int:
        """Messages that wait here."""
        return len(self._timetable)

    def publish(
        self, envelope: Envelope, contents: list[bytes], content_bytes: int, forced: bool = False
    ) -> Sequence[int]:
        now_ms = self.vhost.broker.now_ms
        delay_ms = envelope.container.delay_ms
        times_ms = [now_ms + delay_ms(content) for content in contents]
        self._timetable.add_new(envelope, contents, content_bytes, times_ms)
        self.schedule()
        return ()

    def takes(self, count: int, body_bytes: int) -> bool:
        return True

    def dispatch(self) -> None:
        """Routes what is due, in the order of its time, and sets the timer for the rest."""
        if self.deleted:
            return
        broker = self.vhost.broker
        if broker.overloaded:
            broker.wake(self, broker.now_ms + OVERLOAD_MS)
            return
        due = self._timetable.take(broker.now_ms, TIMER_MESSAGES_MAX)
        for message in due:
            self._release(message)
        self._timetable.remove(due)
        next_ms = self._timetable.next_ms()
        if next_ms is not None:
            broker.wake(self, next_ms)

    def _release(self, message: Message) -> None:
        """To the queues that it is for now. What was confirmed is not refused by a queue that is full now."""
        content = message.envelope.container.delayed(message.content)
        envelope = message.envelope.anew(content)
        for queue in self.vhost.released_targets(self._exchange, envelope, content):
            queue.publish(envelope, [content], len(content), forced=True)

    def tick(self) -> None:
        self.wake_at_ms = 0
        if not self.deleted:
            self.schedule()

    def close(self) -> None:
        self.deleted = True
        self.vhost.broker.store.journal.drop_queue(self._held)
