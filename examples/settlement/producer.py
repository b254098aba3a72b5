"""The producer: sends settlement entries, and sends again what the broker has not confirmed."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
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
    dice = random.Random(909)
    for number in range(count):
        cents = dice.randrange(1, 2_000) * 9
        amount, currency = f"{cents // 100}.{cents % 100:02}", "EUR"
        if number % 200 == 77:
            amount = amount.replace(".", ",")
        elif number % 200 == 177:  # a dollar is 0.90 euro
            dollar_cents = cents * 10 // 9
            amount, currency = f"{dollar_cents // 100}.{dollar_cents % 100:02}", "USD"
        yield Entry(f"E{number:06}", dice.choice(MERCHANTS), amount, currency), cents


class Sender:
    """Sends entries over a connection of its own, however often the broker goes away meanwhile.

    `confirmed`: entries the broker has on its disk. `resent`: those of them that were sent more than once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.confirmed = 0
        self.resent = 0
        self._channel: BlockingChannel | None = None

    def send_all(self, entries: Iterable[Entry], pause_seconds: float) -> None:
        due = time.monotonic()
        for entry in entries:
            self.send(entry)
            due += pause_seconds
            time.sleep(max(0.0, due - time.monotonic()))
        if self._channel is not None:
            with suppress(AMQPConnectionError):  # all is confirmed: if the broker is gone now, let it be
                self._channel.connection.close()

    def send(self, entry: Entry) -> None:
        """Returns when the entry is confirmed."""
        properties = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, message_id=entry.id, content_type="application/json"
        )
        attempts = 0
        while True:
            attempts += 1
            try:
                channel = self._open_channel()
                # mandatory: an entry that no queue takes is an UnroutableError here, not a silent loss.
                channel.basic_publish("", QUEUE, json.dumps(asdict(entry)), properties, mandatory=True)
                break
            except (AMQPConnectionError, AMQPChannelError):
                # Perhaps the broker stored the entry and died before it could say so. We cannot know, so we
                # send it again; the ledger sees to it that a duplicate does no harm.
                self._channel = None
                time.sleep(0.2)
        self.confirmed += 1
        self.resent += attempts > 1

    def _open_channel(self) -> BlockingChannel:
        if self._channel is None:
            self._channel = pika.BlockingConnection(pika.URLParameters(self.url)).channel()
            self._channel.confirm_delivery()  # now basic_publish waits until the message is on disk
        return self._channel


def send_for_all_merchants(url: str, entries: Iterable[Entry], pause_seconds: float) -> None:
    """A connection for each merchant. The broker writes to disk for all connections at once, so six that wait
    for their confirms get six times as much done as one. Prints how many are confirmed, how many sent again."""
    by_merchant: dict[str, list[Entry]] = {}
    for entry in entries:
        by_merchant.setdefault(entry.merchant, []).append(entry)
    senders = [Sender(url) for _ in by_merchant]
    with ThreadPoolExecutor(len(senders)) as pool:
        running = [
            pool.submit(sender.send_all, theirs, pause_seconds * len(senders))
            for sender, theirs in zip(senders, by_merchant.values(), strict=True)
        ]
        while True:
            is_last = wait(running, timeout=0.1).not_done == set()
            print(sum(s.confirmed for s in senders), sum(s.resent for s in senders), flush=True)
            if is_last:
                break
    for sent in running:
        sent.result()  # raises what its thread raised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="amqp://user:password@host:port/")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between two entries")
    options = parser.parse_args()
    entries = (entry for entry, _ in example_entries(options.entries))
    send_for_all_merchants(options.url, entries, options.pause_ms / 1000)


if __name__ == "__main__":
    main()
