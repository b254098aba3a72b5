"""The producer: sends settlement entries, and sends again what the broker has not confirmed."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPChannelError, AMQPConnectionError

from topology import QUEUE

MERCHANTS = ("bukchon-books", "dalgona-sweets", "hanok-tea", "jeju-citrus", "mapo-cycles", "namsan-florist")


@dataclass(frozen=True)
class Entry:
    """What is owed to a merchant, as the shops report it."""

    id: str
    merchant: str
    amount: str
    currency: str


def example_entries(count: int) -> Iterator[tuple[Entry, int]]:
    """The entries of the demo, each with what it is worth in cents; every time the same.

    One in a hundred is poison to today's worker: an amount with a comma, or a currency it has no rate for.
    """
    dice = random.Random(2023)
    for number in range(count):
        cents = dice.randrange(1, 2_000) * 9
        amount, currency = f"{cents // 100}.{cents % 100:02}", "EUR"
        if number % 200 == 77:
            amount = amount.replace(".", ",")
        elif number % 200 == 177:  # a dollar is 0.90 euro
            dollar_cents = cents * 10 // 9
            amount, currency = f"{dollar_cents // 100}.{dollar_cents % 100:02}", "USD"
        yield Entry(f"E{number:06}", dice.choice(MERCHANTS), amount, currency), cents


def open_channel(url: str) -> BlockingChannel:
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()  # from now on basic_publish returns when the broker has the message on its disk
    return channel


def send(url: str, entries: Iterable[Entry], pause_seconds: float) -> None:
    """Sends all entries, however often the broker goes away meanwhile."""
    channel: BlockingChannel | None = None
    confirmed = resent = 0
    due = time.monotonic()
    for entry in entries:
        properties = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, message_id=entry.id, content_type="application/json"
        )
        while True:
            try:
                channel = channel or open_channel(url)
                # mandatory: an entry that no queue takes is an error here (UnroutableError), not a silent loss.
                channel.basic_publish("", QUEUE, json.dumps(asdict(entry)), properties, mandatory=True)
                break
            except (AMQPConnectionError, AMQPChannelError):
                # Perhaps the broker stored the entry and died before it could say so. We cannot know, so we
                # send it again; the ledger sees to it that a duplicate does no harm.
                channel = None
                resent += 1
                time.sleep(0.2)
        confirmed += 1
        if confirmed % 20 == 0:
            print(confirmed, resent, flush=True)
        due += pause_seconds
        time.sleep(max(0.0, due - time.monotonic()))
    print(confirmed, resent, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="amqp://user:password@host:port/")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between two entries")
    options = parser.parse_args()
    send(options.url, (entry for entry, _ in example_entries(options.entries)), options.pause_ms / 1000)


if __name__ == "__main__":
    main()
