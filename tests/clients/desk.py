"""A queue with a dead-letter queue beside it, and how a dead letter's history is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.compat import long

from clients.pika_client import Names, Received, get, publish


class Desk:
    """A queue whose dead letters go to another queue, and both ends of it."""

    def __init__(self, channel: BlockingChannel, names: Names) -> None:
        self.channel = channel
        self.names = names
        self.source = names.queue("source")
        self.dead = names.queue("dead")
        channel.queue_declare(self.dead)

    def confirm(self) -> None:
        """From now on what has been published is in the queue, and can be counted."""
        self.channel.confirm_delivery()

    def declare(self, durable: bool = False, **arguments: object) -> None:
        """The source queue, with the arguments x-<name>; dead letters go by the default exchange."""
        options: dict[str, object] = {"dead_letter_exchange": "", "dead_letter_routing_key": self.dead}
        options.update(arguments)
        self.channel.queue_declare(
            self.source,
            durable=durable,
            arguments={f"x-{k.replace('_', '-')}": v for k, v in options.items() if v is not None},
        )

    def publish(self, *payloads: bytes | str, **properties: Any) -> None:
        publish(self.channel, self.source, *payloads, **properties)

    def reject(self) -> None:
        self.channel.basic_reject(get(self.channel, self.source, auto_ack=False).tag, requeue=False)

    def take(self) -> Received:
        return get(self.channel, self.dead)


def history(received: Received) -> list[dict[str, Any]]:
    """x-death without its times, which must be those of now, to the second."""
    deaths = received.properties.headers["x-death"]
    now = datetime.now(UTC)
    for death in deaths:
        assert abs(death["time"] - now) < timedelta(seconds=30)
        # pika's type for an integer of 64 bits; Java programs cast it to Long.
        assert type(death["count"]) is long
    return [{key: value for key, value in death.items() if key != "time"} for death in deaths]


def other_headers(received: Received) -> dict[str, Any]:
    """The headers beside x-death and x-last-death-*, which RabbitMQ writes from 3.13 on."""
    return {
        key: value
        for key, value in received.properties.headers.items()
        if key != "x-death" and not key.startswith("x-last-death-")
    }


def first_death(queue: str, reason: str, exchange: str = "") -> dict[str, str]:
    return {
        "x-first-death-queue": queue,
        "x-first-death-reason": reason,
        "x-first-death-exchange": exchange,
    }


def death(queue: str, reason: str, **more: object) -> dict[str, object]:
    return {"count": 1, "reason": reason, "queue": queue, "exchange": "", "routing-keys": [queue], **more}


def delivery_count(received: Received) -> int:
    count: int = (received.properties.headers or {}).get("x-delivery-count", long(0))
    assert type(count) is long
    return count
