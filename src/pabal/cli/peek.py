"""`pabal peek`: look at messages where they are."""

from __future__ import annotations

from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import SAID_NO, Refused, die
from pabal.cli.messages import print_messages
from pabal.cli.options import ApiCommand, Asked, needs_pabal, pass_asked
from pabal.cli.queues import found


@click.command("peek", cls=ApiCommand)
@click.argument("queue", shell_complete=completes("queues"))
@click.option("--count", "-n", type=click.IntRange(1), default=10, show_default=True, help="At most so many.")
@click.option(
    "--header", "headers", multiple=True, metavar="KEY=VALUE", help="Only with this header; all that are given."
)
@click.option("--property", "-p", "properties", multiple=True, metavar="KEY=VALUE", help="Only with this property.")
@click.option("--contains", metavar="TEXT", help="Only with this text in the body.")
@click.option("--body", "only_body", is_flag=True, help="Only the bodies, byte for byte, each ended by a newline.")
@pass_asked
def peek_command(
    asked: Asked,
    queue: str,
    count: int,
    headers: tuple[str, ...],
    properties: tuple[str, ...],
    contains: str | None,
    only_body: bool,
) -> None:
    """Look at messages of QUEUE, from its head on, without taking them: nothing is leased, redelivered or moved.

    Needs Pabal. Ends with 1 when no message fits.
    """
    query: dict[str, Any] = {
        "count": count,
        "header": list(_checked(headers, "--header")) or None,
        "property": list(_checked(properties, "--property")) or None,
        "contains": contains,
    }
    try:
        answer: Any = asked.api.get(path("pabal", "queues", asked.vhost, queue, "messages"), **query)
    except Refused as error:
        found(asked, "queue", "queues", queue)  # says so if the queue is what is not there
        needs_pabal(asked, "pabal peek", error)
    messages = answer["items"] if isinstance(answer, dict) else answer
    print_messages(asked, messages, only_body)
    if not messages:
        if asked.output.as_json or asked.output.quiet:
            raise SystemExit(SAID_NO)
        die(f"no message of '{queue}' fits; `pabal queues show {queue}` says how many there are", SAID_NO)


def _checked(given: tuple[str, ...], option: str) -> tuple[str, ...]:
    for text in given:
        if not text.partition("=")[1]:
            raise click.UsageError(f"{option} '{text}': expected KEY=VALUE")
    return given
