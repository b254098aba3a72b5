"""`pabal queues` and `pabal purge`."""

from __future__ import annotations

import re
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked
from pabal.cli.text import amount, count, plain, rate, size
from pabal.cli.values import confirm, pairs

COLUMNS = [
    Column("NAME", "name"),
    Column("VHOST", "vhost"),
    Column("TYPE", "type"),
    number("READY", "messages_ready", style="green"),
    number("LEASED", "messages_unacknowledged", style="yellow"),
    number("CONSUMERS", "consumers"),
    number("IN/S", "message_stats.publish_details.rate", rate),
    number("OUT/S", "message_stats.deliver_get_details.rate", rate),
    number("BYTES", "message_bytes", size),
    Column("POLICY", "policy"),
]
DETAILS = [
    Column("name", "name"),
    Column("vhost", "vhost"),
    Column("type", "type"),
    Column("state", "state"),
    Column("durable", "durable"),
    Column("exclusive", "exclusive"),
    Column("auto delete", "auto_delete"),
    Column("arguments", "arguments"),
    Column("policy", "policy"),
    Column("operator policy", "operator_policy"),
    Column("in effect", "effective_policy_definition"),
    number("ready", "messages_ready", style="green"),
    number("leased", "messages_unacknowledged", style="yellow"),
    number("messages", "messages"),
    number("bytes", "message_bytes", size),
    number("persistent", "messages_persistent"),
    number("memory", "memory", size),
    number("consumers", "consumers"),
    number("in/s", "message_stats.publish_details.rate", rate),
    number("out/s", "message_stats.deliver_get_details.rate", rate),
    number("acknowledged/s", "message_stats.ack_details.rate", rate),
    number("redelivered", "message_stats.redeliver"),
    Column("idle since", "idle_since"),
]
_NAME = completes("queues")


def sought(_: click.Context, __: click.Parameter, pattern: str | None) -> re.Pattern[str] | None:
    """Reads the argument PATTERN."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise click.UsageError(f"PATTERN '{pattern}' is no regular expression: {error}") from None


@click.group(cls=ApiGroup)
@click.pass_context
def queues_command(context: click.Context) -> None:
    """Queues. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_queues)


@queues_command.command("list", cls=ApiCommand)
@click.argument("pattern", required=False, callback=sought)
@pass_asked
def list_queues(asked: Asked, pattern: re.Pattern[str] | None = None) -> None:
    """All queues, or those whose name has PATTERN (a regular expression) in it."""
    rows = asked.api.get(path("queues", asked.only_vhost) if asked.only_vhost else "queues")
    asked.output.table(matching(rows, pattern), COLUMNS, noun="queues")


@queues_command.command("show", cls=ApiCommand)
@click.argument("name", shell_complete=_NAME)
@pass_asked
def show_queue(asked: Asked, name: str) -> None:
    """Everything of one queue, with its consumers and bindings."""
    queue = found(asked, "queue", "queues", name)
    asked.output.show(queue, DETAILS)
    if asked.output.as_json or asked.output.columns or not asked.output.terminal:
        return
    consumers = queue.get("consumer_details") or []
    bindings = [b for b in asked.api.get(path("queues", asked.vhost, name, "bindings")) if b.get("source")]
    for title, rows, columns in (
        ("consumers", consumers, CONSUMERS),
        ("bindings", bindings, BINDINGS),
    ):
        if rows:
            click.echo(click.style(f"\n{title}", dim=True))
            asked.output.table(rows, columns, noun=title)


CONSUMERS = [
    Column("TAG", "consumer_tag"),
    Column("CHANNEL", "channel_details.name"),
    number("PREFETCH", "prefetch_count"),
    Column("ACKNOWLEDGES", "ack_required"),
    Column("ACTIVE", "active"),
]
BINDINGS = [Column("FROM", "source"), Column("ROUTING KEY", "routing_key"), Column("ARGUMENTS", "arguments")]


@queues_command.command("declare", cls=ApiCommand)
@click.argument("name")
@click.option("--type", "kind", help="classic or quorum.  [default: the vhost's]")
@click.option("--transient", is_flag=True, help="Gone at the broker's end.")
@click.option("--auto-delete", is_flag=True, help="Gone with its last consumer.")
@click.option("--argument", "-a", "arguments", multiple=True, metavar="KEY=VALUE", help="As x-max-length=1000.")
@pass_asked
def declare_queue(
    asked: Asked, name: str, kind: str | None, transient: bool, auto_delete: bool, arguments: tuple[str, ...]
) -> None:
    """Make a queue, durable unless told otherwise. One that is there in the same form is left as it is."""
    given = pairs(arguments, "--argument")
    if kind:
        given["x-queue-type"] = kind
    wanted = {"durable": not transient, "auto_delete": auto_delete, "arguments": given}
    asked.api.put(path("queues", asked.vhost, name), wanted)
    asked.output.did(f"queue '{name}' is there", name=name, vhost=asked.vhost, **wanted)


@queues_command.command("delete", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True, shell_complete=_NAME)
@click.option("--if-empty", is_flag=True, help="Only without messages.")
@click.option("--if-unused", is_flag=True, help="Only without consumers.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@pass_asked
def delete_queues(asked: Asked, names: tuple[str, ...], if_empty: bool, if_unused: bool, yes: bool) -> None:
    """Delete queues and the messages in them."""
    for name in names:
        messages = found(asked, "queue", "queues", name).get("messages") or 0
        if messages and not if_empty:
            confirm(f"Delete queue '{name}' and the {amount(messages, 'message')} in it?", yes=yes)
        conditions = {"if-empty": if_empty, "if-unused": if_unused}
        query = {key: "true" for key, wanted in conditions.items() if wanted}
        asked.api.delete(path("queues", asked.vhost, name), query=query)
        asked.output.did(f"queue '{name}' deleted", deleted=name, vhost=asked.vhost, messages=messages)


@click.command("purge", cls=ApiCommand)
@click.argument("queue", shell_complete=_NAME)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@pass_asked
def purge_command(asked: Asked, queue: str, yes: bool) -> None:
    """Delete all ready messages of QUEUE. Leased ones stay with their consumers."""
    ready = found(asked, "queue", "queues", queue).get("messages_ready") or 0
    if ready:
        confirm(f"Delete {amount(ready, 'ready message')} of '{queue}'?", yes=yes)
    asked.api.delete(path("queues", asked.vhost, queue, "contents"))
    asked.output.did(f"queue '{queue}' purged, about {count(ready)} deleted", purged=queue, vhost=asked.vhost)


queues_command.add_command(purge_command)


def matching(rows: list[dict[str, Any]], pattern: re.Pattern[str] | None) -> list[dict[str, Any]]:
    return [row for row in rows if pattern is None or pattern.search(plain(row.get("name")))]


def found(asked: Asked, noun: str, nouns: str, name: str) -> Any:
    """One thing of a vhost, or an error that says which was not there and how to see what is."""
    from pabal.cli.errors import Refused

    try:
        return asked.api.get(path(nouns, asked.vhost, name))
    except Refused as error:
        if error.status != 404:
            raise
        hint = f"`pabal {nouns}` lists them; another vhost: -V"
        raise Refused(404, f"there is no {noun} '{name}' in vhost '{asked.vhost}'; {hint}") from None
