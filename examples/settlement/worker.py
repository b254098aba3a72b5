"""A worker: takes entries from the queue, settles them, then acknowledges. Start as many as you like."""

from __future__ import annotations

import argparse
import json
import signal
import time
from decimal import Decimal, InvalidOperation

import pika
from ledger import REJECTED, RETURNED, Ledger, Settlement
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPChannelError, AMQPConnectionError
from pika.spec import Basic, BasicProperties
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


def read(body: bytes, redelivered: bool, release: int) -> Settlement:
    """What there is to settle. Release 1 of this has two bugs; release 2 is the fix."""
    try:
        entry = json.loads(body)
        text = str(entry["amount"])
        amount = Decimal(text.replace(",", ".") if release >= 2 else text)
        if not amount.is_finite():
            raise ValueError(text)
        id, merchant, currency = entry["id"], entry["merchant"], entry["currency"]
    except (ValueError, TypeError, LookupError, InvalidOperation) as error:
        raise Malformed(f"{body[:100]!r}: {error!r}") from error
    rate = RATES[release].get(currency)
    if rate is None:
        raise NoRate(currency)
    return Settlement(id, merchant, int(amount * rate * 100), redelivered)


class Worker:
    """`work_seconds`: how long a settlement takes; here it is only slept through."""

    def __init__(self, name: str, ledger: Ledger, release: int, work_seconds: float) -> None:
        self.name = name
        self.ledger = ledger
        self.release = release
        self.work_seconds = work_seconds
        self.stopping = False
        self.done: list[Settlement] = []
        self.last_tag = 0

    def on_entry(
        self, channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        try:
            settlement = read(body, method.redelivered, self.release)
        except Malformed:
            # To try again would change nothing: to the dead-letter queue with it, for a person to look at.
            self.ledger.note_failure(properties.message_id, self.name, REJECTED, method.redelivered)
            channel.basic_reject(method.delivery_tag, requeue=False)
        except NoRate:
            # Back to its place in the queue. The delivery limit ends this if it does not end by itself.
            self.ledger.note_failure(properties.message_id, self.name, RETURNED, method.redelivered)
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            time.sleep(self.work_seconds)
            self.done.append(settlement)
            self.last_tag = method.delivery_tag

    def settle_what_is_done(self, channel: BlockingChannel) -> None:
        """Writes to the ledger, then acknowledges. The other way round, to die in between would lose entries;
        this way they are delivered again, and the ledger knows them already.

        One transaction for all that came together: to wait for the disk is what takes the time.
        """
        if self.done:
            self.ledger.settle(self.done, self.name)
            self.done.clear()
            channel.basic_ack(self.last_tag, multiple=True)  # rejected ones below it are settled already

    def stop(self, *_: object) -> None:
        """Finish what is in hand, then leave. To be killed would do no harm, only make for duplicates."""
        self.stopping = True

    def run(self, url: str, prefetch: int) -> None:
        """Works until told to stop. When the broker goes away, what was not acknowledged comes again."""
        while not self.stopping:
            try:
                with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                    channel = connection.channel()
                    self.done.clear()  # of a connection that was lost: all that comes again
                    # Enough in hand to never wait for the network, but no more than is done well within the
                    # queue's lease: an entry's lease runs from its delivery, not from the start of the work.
                    channel.basic_qos(prefetch_count=prefetch)
                    channel.basic_consume(QUEUE, self.on_entry)
                    print("connected", flush=True)
                    while not self.stopping:
                        connection.process_data_events(time_limit=0.2)  # calls on_entry for all that came
                        self.settle_what_is_done(channel)
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
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)
    worker.run(options.url, options.prefetch)


if __name__ == "__main__":
    main()
