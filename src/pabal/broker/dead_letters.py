"""Dead letters: a message that cannot be delivered or processed moves to the queue's dead-letter exchange.

The move is a delete and a put made in one step, so they are in one commit: the message is never lost, never
there twice.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pabal.model.message import UNSTORED, Death, Envelope, Message

if TYPE_CHECKING:
    from pabal.broker.queue import Queue
    from pabal.broker.vhost import Vhost

REJECTED = "rejected"


class DeadLetters:
    """Moves dead letters one after the other. One that kills another (a full dead-letter queue) waits its turn,
    so a chain of queues, however long, costs no stack."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Queue, list[Message], str]] = deque()
        self._moving = False

    def add(self, queue: Queue, messages: list[Message], reason: str) -> None:
        """Messages, no longer in `queue`'s backlog nor leased, died there of `reason`. Without a dead-letter
        exchange, or when it is not there or routes nowhere, they are gone, as in RabbitMQ; unless the queue keeps
        its dead letters until there is a place for them."""
        self._waiting.append((queue, messages, reason))
        if self._moving:
            return
        self._moving = True
        try:
            while self._waiting:
                origin, letters, why = self._waiting.popleft()
                _count(origin, len(letters), why)
                if origin.arguments.dead_letter_exchange is not None:
                    for message in letters:
                        _move(origin, message, why)
                if not origin.deleted:
                    origin.log.remove(letters)
        finally:
            self._moving = False


def _count(queue: Queue, count: int, reason: str) -> None:
    arguments = queue.arguments
    queue.counters.dead_letter += count
    queue.vhost.counters.dead_letter += count
    strategy = "disabled"
    if arguments.dead_letter_exchange is not None:
        strategy = "at_least_once" if arguments.keeps_dead_letters else "at_most_once"
    queue.vhost.broker.statistics.died(count, reason, strategy)


def _move(queue: Queue, message: Message, reason: str) -> None:
    exchange = queue.arguments.dead_letter_exchange
    if exchange not in queue.vhost.exchanges and not queue.arguments.keeps_dead_letters:
        return
    envelope, content = dead_letter(queue, message, reason, queue.vhost.broker.now_ms)
    publish_or_keep(queue, envelope, content)


def dead_letter(queue: Queue, message: Message, reason: str, time_ms: int) -> tuple[Envelope, bytes]:
    """What becomes of a message that died in `queue`, which has a dead-letter exchange."""
    exchange = queue.arguments.dead_letter_exchange
    assert exchange is not None
    old = message.envelope
    container = old.container
    copies = container.copies(message.content)
    priority = container.priority(message.content)
    death = Death(
        queue.name,
        reason,
        old.exchange,
        (old.routing_key, *copies),
        time_ms,
        container.ttl(message.content),
    )
    key = queue.arguments.dead_letter_routing_key
    content = container.with_death(message.content, death, keep_copies=key is None)
    if key is None:
        return Envelope(exchange, old.routing_key, old.persistent, None, container, copies, priority), content
    return Envelope(exchange, key, old.persistent, None, container, (), priority), content


def publish_or_keep(queue: Queue, envelope: Envelope, content: bytes) -> None:
    """Publishes a dead letter of `queue`, which keeps it, if that is what it is to do with one that has no place."""
    if (
        not publish_letter(queue.vhost, envelope, content)
        and queue.arguments.keeps_dead_letters
        and not queue.deleted
    ):
        queue.waiting.keep(Message(envelope, content, 0, 0, UNSTORED))


def publish_letter(vhost: Vhost, envelope: Envelope, content: bytes) -> bool:
    """Publishes a dead letter. False when there is no queue for it."""
    targets = vhost.targets(envelope, content) if envelope.exchange in vhost.exchanges else []
    for target in targets:
        if not is_cycle(target.name, envelope.container.deaths(content)):
            target.publish(envelope, [content], len(content), forced=True)
    return bool(targets)


def is_cycle(queue: str, deaths: list[Death]) -> bool:
    """The message was in `queue` before and nobody rejected it since: it would go round for ever. Such a one is
    dropped (RabbitMQ, "Dead-Lettered Message Cycles")."""
    for death in deaths:
        if death.reason == REJECTED:
            return False
        if death.queue == queue:
            return True
    return False
