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

_PAGE_MAX = 1000
"""What one answer holds at most."""


@click.command("peek", cls=ApiCommand)
@click.argument("queue", shell_complete=completes("queues"))
@click.option("--count", "-n", type=click.IntRange(1), default=10, show_default=True, help="At most so many.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Leave out so many of those that fit.")
@click.option("--header", "headers", multiple=True, metavar="KEY=VALUE", help="Only with this header.")
@click.option("--property", "-p", "properties", multiple=True, metavar="KEY=VALUE", help="As message_id=7.")
@click.option("--contains", metavar="TEXT", help="Only with this text in the body.")
@click.option("--key", "-k", help="Only with this routing key.")
@click.option("--exchange", "-x", help="Only those that came by this exchange.")
@click.option("--body", "only_body", is_flag=True, help="Only the bodies, byte for byte, each ended by a newline.")
@pass_asked
def peek_command(
    asked: Asked,
    queue: str,
    count: int,
    skip: int,
    headers: tuple[str, ...],
    properties: tuple[str, ...],
    contains: str | None,
    key: str | None,
    exchange: str | None,
    only_body: bool,
) -> None:
    """Look at ready messages of QUEUE, from its head on, without taking them: nothing is leased or marked.

    All conditions must hold; values are compared as texts. Needs Pabal. Ends with 1 when no message fits.
    """
    query = _filters(headers, "header") | _filters(properties, "property")
    query |= {"body": contains, "routing_key": key, "exchange": exchange}
    messages = _found(asked, queue, query, count, skip)
    print_messages(asked, messages, only_body)
    if not messages:
        if asked.output.as_json or asked.output.quiet:
            raise SystemExit(SAID_NO)
        die(f"no ready message of '{queue}' fits; `pabal queues show {queue}` says how many there are", SAID_NO)


def _found(asked: Asked, queue: str, query: dict[str, Any], count: int, skip: int) -> list[dict[str, Any]]:
    """One answer looks at a bounded number of messages and says where to go on."""
    where = path("pabal", "queues", asked.vhost, queue, "messages")
    messages: list[dict[str, Any]] = []
    after: int | None = None
    while len(messages) - skip < count:
        wanted = min(_PAGE_MAX, count + skip - len(messages))
        try:
            answer = asked.api.get(where, count=wanted, after=after, **query)
        except Refused as error:
            found(asked, "queue", "queues", queue)  # says so if the queue is what is not there
            needs_pabal(asked, "pabal peek", error)
        messages += answer["messages"]
        after = answer["next"]
        if after is None:
            break
    return messages[skip:]


def _filters(given: tuple[str, ...], kind: str) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise click.UsageError(f"--{kind} '{text}': expected KEY=VALUE")
        filters[f"{kind}.{name}"] = value
    return filters
