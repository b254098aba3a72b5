"""Shows what is in the dead-letter queue and why, and sends it back to the queue it came from."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

import pika
from topology import DEAD_QUEUE


def dead_letters(url: str, redrive: bool) -> Iterator[tuple[str, str]]:
    """Each dead letter's entry id and reason, oldest first. With `redrive`, it has gone back by then."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        # Only those that are there now: what dies again meanwhile must not go round for ever.
        count = channel.queue_declare(DEAD_QUEUE, passive=True).method.message_count
        for _ in range(count):
            method, properties, body = channel.basic_get(DEAD_QUEUE)
            if method is None:
                return
            death = properties.headers["x-death"][0]  # the latest one comes first
            if redrive:
                # Acknowledged only after the confirmation: to die in between makes a duplicate, never a loss.
                channel.basic_publish("", death["queue"], body, properties, mandatory=True)
                channel.basic_ack(method.delivery_tag)
            yield properties.message_id, death["reason"]
        # What was only looked at is not acknowledged, and goes back to its place when the connection closes.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="amqp://user:password@host:port/")
    parser.add_argument("--dry-run", action="store_true", help="only show them")
    options = parser.parse_args()
    reasons: Counter[str] = Counter()
    for entry, reason in dead_letters(options.url, redrive=not options.dry_run):
        reasons[reason] += 1
        print(f"{entry}  {reason}")
    print("would go back:" if options.dry_run else "went back:", dict(reasons))


if __name__ == "__main__":
    main()
