"""Chains of queues that do nothing but delay: each has a time to live, a dead-letter exchange that leads to the next,
and no consumer. Celery declares 28 of them, one for each power of two of seconds, and a task with a countdown goes
through those that make up its time.

A message that enters such a chain waits once, for the whole of it, in the first queue of it. When it is due, it
goes the way in thought, by the bindings there are then, and ends where it would be by now, with the same history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pabal.broker.dead_letters import dead_letter, is_cycle, publish_or_keep
from pabal.model.message import UNSTORED, Envelope, Message

if TYPE_CHECKING:
    from pabal.broker.queue import Queue


def enter_chain(queue: Queue, envelope: Envelope, contents: list[bytes]) -> bool:
    """Has messages published to `queue`, which only delays, wait for the end of its chain. False when it is none: the
    next stop is no such queue."""
    if envelope.ttl_ms is not None or envelope.copies:
        return False
    total_ms = _chain_ms(queue, envelope)
    if not total_ms:
        return False
    now_ms = queue.vhost.broker.now_ms
    for content in contents:
        queue.waiting.relay(Message(envelope, content, 0, now_ms, UNSTORED), now_ms + total_ms)
    queue.schedule()
    return True


def _chain_ms(queue: Queue, envelope: Envelope) -> int:
    """How long a message published to `queue` takes to the end of its chain; 0 when there is not a second queue."""
    total_ms = 0
    passed: set[Queue] = set()
    stop: Queue | None = queue
    while stop is not None:
        passed.add(stop)
        total_ms += stop.arguments.message_ttl_ms or 0
        exchange, key = stop.arguments.dead_letter_exchange, stop.arguments.dead_letter_routing_key
        assert exchange is not None
        envelope = Envelope(exchange, envelope.routing_key if key is None else key, True, None, envelope.container)
        targets = stop.vhost.targets_by_key(envelope) if exchange in stop.vhost.exchanges else None
        stop = _next_stop(targets or [])
        if stop in passed:
            return 0
    return total_ms if len(passed) > 1 else 0


def _next_stop(targets: list[Queue]) -> Queue | None:
    """The queue that delays, when that is where all of it goes."""
    return targets[0] if len(targets) == 1 and targets[0].only_delays else None


def leave_chain(queue: Queue, message: Message, now_ms: int) -> None:
    """A message that entered the chain at `queue` at the time in `message.expires_at_ms` comes to where it is now."""
    envelope, content, time_ms = message.envelope, message.content, message.expires_at_ms
    while True:
        time_ms += queue.arguments.message_ttl_ms or 0
        if not queue.only_delays or time_ms > now_ms:
            queue.publish_here(envelope, content)
            return
        envelope, content = dead_letter(queue, Message(envelope, content, 0, 0, UNSTORED), "expired", time_ms)
        exists = envelope.exchange in queue.vhost.exchanges
        targets = queue.vhost.targets(envelope, content) if exists else []
        stop = _next_stop(targets)
        if stop is None or is_cycle(stop.name, envelope.container.deaths(content)):
            publish_or_keep(queue, envelope, content)
            return
        queue = stop
