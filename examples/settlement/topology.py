"""The queues of the settlement system. Declared once, as a deployment would; they survive restarts."""

from __future__ import annotations

import argparse

import pika
from pika.adapters.blocking_connection import BlockingChannel

QUEUE = "settlement"
DEAD_QUEUE = "settlement.dead"

LEASE_MS = 3_000
DELIVERY_LIMIT = 5


def declare(channel: BlockingChannel, lease_ms: int = LEASE_MS) -> None:
    """Declares both queues. Asking again for the same is no error, so it can run at every deployment."""
    channel.queue_declare(DEAD_QUEUE, durable=True)
    channel.queue_declare(
        QUEUE,
        durable=True,
        arguments={
            # Who holds an entry longer than this is taken for hung: the entry goes to another worker.
            "x-consumer-timeout": lease_ms,
            # An entry that came back this often will not do better the next time. Innocent entries come back
            # too, when their worker dies, so leave room for a bad day.
            "x-delivery-limit": DELIVERY_LIMIT,
            # The default exchange ("") routes to the queue of that name: no exchange, no binding needed.
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD_QUEUE,
            # Pabal has one kind of queue. RabbitMQ has delivery limits in this one only.
            "x-queue-type": "quorum",
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="amqp://user:password@host:port/")
    parser.add_argument("--lease-ms", type=int, default=LEASE_MS)
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        declare(connection.channel(), options.lease_ms)


if __name__ == "__main__":
    main()
