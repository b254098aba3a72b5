"""A worker: takes entries from the queue, settles them in the ledger, then acknowledges. Start as many as you like."""

from __future__ import annotations

import argparse
import json
import time
from decimal import Decimal, InvalidOperation

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPChannelError, AMQPConnectionError
from pika.spec import Basic, BasicProperties

from ledger import REJECTED, RETURNED, Ledger
from topology import QUEUE

RATES = {
    1: {"EUR": Decimal(1)},
    2: {"EUR": Decimal(1), "USD": Decimal("0.9")},
}
"""What a unit of each currency is worth in euro, by release of this program."""


class Malformed(Exception):
    """The entry makes no sense to this program, now or later."""


class NoRate(Exception):
    """There is no rate for the entry's currency yet. It may be there the next time."""


def worth_in_cents(entry: dict[str, str], release: int) -> int:
    """What the entry is worth. Release 1 has two bugs; release 2 is the fix."""
    text = entry["amount"]
    if release >= 2:
        text = text.replace(",", ".")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise Malformed(f"amount {text!r} is not a number") from None
    try:
        rate = RATES[release][entry["currency"]]
    except KeyError:
        raise NoRate(entry["currency"]) from None
    return int(amount * rate * 100)


class Worker:
    """`work_seconds`: how long a settlement takes; here it is only slept through."""

    def __init__(self, name: str, ledger: Ledger, release: int, work_seconds: float) -> None:
        self.name = name
        self.ledger = ledger
        self.release = release
        self.work_seconds = work_seconds

    def on_entry(
        self, channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        entry = json.loads(body)
        try:
            cents = worth_in_cents(entry, self.release)
        except Malformed:
            # To try again would change nothing: to the dead-letter queue with it, for a person to look at.
            self.ledger.note_failure(entry["id"], self.name, REJECTED, method.redelivered)
            channel.basic_reject(method.delivery_tag, requeue=False)
        except NoRate:
            # Back to its place in the queue. The delivery limit ends this if it does not end by itself.
            self.ledger.note_failure(entry["id"], self.name, RETURNED, method.redelivered)
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            time.sleep(self.work_seconds)
            # First the ledger, then the acknowledgement. The other way round, to die in between would lose the
            # entry; this way it is delivered again, and the ledger knows it already.
            self.ledger.settle(entry["id"], entry["merchant"], cents, self.name, method.redelivered)
            channel.basic_ack(method.delivery_tag)

    def run(self, url: str, prefetch: int) -> None:
        """Works for ever. When the broker goes away, whatever was not acknowledged comes again."""
        while True:
            try:
                with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                    channel = connection.channel()
                    # Enough in hand to never wait for the network, not so much that others have nothing to do.
                    # All of it must be done within the queue's lease.
                    channel.basic_qos(prefetch_count=prefetch)
                    channel.basic_consume(QUEUE, self.on_entry)
                    print("connected", flush=True)
                    channel.start_consuming()
            except (AMQPConnectionError, AMQPChannelError):
                time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="amqp://user:password@host:port/")
    parser.add_argument("ledger", help="the SQLite file")
    parser.add_argument("--name", default="worker")
    parser.add_argument("--release", type=int, choices=RATES, default=1, help="2 has the bug fix")
    parser.add_argument("--prefetch", type=int, default=50)
    parser.add_argument("--work-ms", type=float, default=0.0)
    options = parser.parse_args()
    worker = Worker(options.name, Ledger(options.ledger), options.release, options.work_ms / 1000)
    worker.run(options.url, options.prefetch)


if __name__ == "__main__":
    main()
