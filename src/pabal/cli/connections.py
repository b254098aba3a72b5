"""`pabal connections`, `pabal channels` and `pabal consumers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.errors import Refused
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked
from pabal.cli.output import each
from pabal.cli.text import moment, pick, rate

COLUMNS = [
    Column("NAME", "name"),
    Column("VHOST", "vhost"),
    Column("USER", "user"),
    Column("CLIENT", "client"),
    Column("STATE", "state"),
    number("CHANNELS", "channels"),
    number("IN B/S", "recv_oct_details.rate", rate),
    number("OUT B/S", "send_oct_details.rate", rate),
    Column("PROTOCOL", "protocol"),
    Column("TLS", "ssl"),
]
DETAILS = [
    Column("name", "name"),
    Column("given name", "user_provided_name"),
    Column("user", "user"),
    Column("vhost", "vhost"),
    Column("state", "state"),
    Column("protocol", "protocol"),
    Column("since", "connected_at", moment),
    Column("TLS", "ssl"),
    Column("TLS version", "ssl_protocol"),
    Column("mechanism", "auth_mechanism"),
    number("channels", "channels"),
    number("channels at most", "channel_max"),
    number("frame bytes at most", "frame_max"),
    number("heartbeat s", "timeout"),
    number("bytes in", "recv_oct"),
    number("bytes out", "send_oct"),
    Column("client", "client_properties"),
]
CHANNELS = [
    Column("NAME", "name"),
    Column("VHOST", "vhost"),
    Column("USER", "user"),
    Column("MODE", "mode"),
    Column("STATE", "state"),
    number("CONSUMERS", "consumer_count"),
    number("PREFETCH", "prefetch_count"),
    number("LEASED", "messages_unacknowledged", style="yellow"),
    number("UNCONFIRMED", "messages_unconfirmed"),
    number("IN/S", "message_stats.publish_details.rate", rate),
    number("OUT/S", "message_stats.deliver_get_details.rate", rate),
]
CHANNEL_DETAILS = [
    Column("name", "name"),
    Column("user", "user"),
    Column("vhost", "vhost"),
    Column("state", "state"),
    Column("confirms", "confirm"),
    Column("transactional", "transactional"),
    number("consumers", "consumer_count"),
    number("prefetch", "prefetch_count"),
    number("shared prefetch", "global_prefetch_count"),
    number("leased", "messages_unacknowledged"),
    number("unconfirmed", "messages_unconfirmed"),
    number("uncommitted", "messages_uncommitted"),
    number("in/s", "message_stats.publish_details.rate", rate),
    number("out/s", "message_stats.deliver_get_details.rate", rate),
]
CONSUMERS = [
    Column("QUEUE", "queue.name"),
    Column("VHOST", "queue.vhost"),
    Column("TAG", "consumer_tag"),
    Column("CHANNEL", "channel_details.name"),
    Column("USER", "channel_details.user"),
    number("PREFETCH", "prefetch_count"),
    Column("ACTIVE", "active"),
    Column("ACKNOWLEDGES", "ack_required"),
    Column("EXCLUSIVE", "exclusive"),
]


@click.group(cls=ApiGroup)
@click.pass_context
def connections_command(context: click.Context) -> None:
    """Connections of clients. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_connections)


@connections_command.command("list", cls=ApiCommand)
@pass_asked
def list_connections(asked: Asked) -> None:
    """All connections."""
    rows = asked.api.get(path("vhosts", asked.only_vhost, "connections") if asked.only_vhost else "connections")
    if not asked.output.as_json:
        rows = each(rows, lambda row: row.update(client=_client(row)))
    asked.output.table(rows, COLUMNS, noun="connections")


@connections_command.command("show", cls=ApiCommand)
@click.argument("name")
@pass_asked
def show_connection(asked: Asked, name: str) -> None:
    """One connection. NAME is its name, the beginning of it (127.0.0.1:5555), or what the client calls itself."""
    row = _one(asked, name, "connections", lambda row: [pick(row, "client_properties.connection_name")])
    asked.output.show(row, DETAILS)


@connections_command.command("close", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True)
@click.option("--reason", default="closed by pabal", show_default=True, help="What the client is told.")
@pass_asked
def close_connections(asked: Asked, names: tuple[str, ...], reason: str) -> None:
    """Close connections: what their consumers had leased goes back to its queues."""
    for name in names:
        row = _one(asked, name, "connections", lambda row: [pick(row, "client_properties.connection_name")])
        asked.api.delete(path("connections", row["name"]), headers={"X-Reason": _header(reason)})
        asked.output.did(
            f"connection '{row['name']}' of '{row.get('user')}' closed", closed=row["name"], reason=reason
        )


@click.group(cls=ApiGroup)
@click.pass_context
def channels_command(context: click.Context) -> None:
    """Channels. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_channels)


@channels_command.command("list", cls=ApiCommand)
@pass_asked
def list_channels(asked: Asked) -> None:
    """All channels."""
    rows = asked.api.get(path("vhosts", asked.only_vhost, "channels") if asked.only_vhost else "channels")
    if not asked.output.as_json:
        rows = each(rows, lambda row: row.update(mode=_mode(row)))
    asked.output.table(rows, CHANNELS, noun="channels")


@channels_command.command("show", cls=ApiCommand)
@click.argument("name")
@pass_asked
def show_channel(asked: Asked, name: str) -> None:
    """One channel. NAME is its name or the beginning of it."""
    row = _one(asked, name, "channels", lambda _: [])
    asked.output.show(asked.api.get(path("channels", row["name"])), CHANNEL_DETAILS)


@click.group(cls=ApiGroup)
@click.pass_context
def consumers_command(context: click.Context) -> None:
    """Consumers. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_consumers)


@consumers_command.command("list", cls=ApiCommand)
@click.argument("queue", required=False)
@pass_asked
def list_consumers(asked: Asked, queue: str | None = None) -> None:
    """All consumers, or those of QUEUE."""
    rows = asked.api.get(path("consumers", asked.only_vhost) if asked.only_vhost else "consumers")
    if queue is not None:
        rows = [row for row in rows if pick(row, "queue.name") == queue]
    columns = CONSUMERS
    if asked.output.terminal and all(pick(row, "queue.vhost") == "/" for row in rows):
        columns = [column for column in CONSUMERS if column.field != "queue.vhost"]
    asked.output.table(rows, columns, noun="consumers", name="consumer_tag")


def _one(asked: Asked, name: str, nouns: str, others: Callable[[Any], list[Any]]) -> Any:
    """The thing with that name, or the only one whose name begins so."""
    rows = asked.api.get(nouns)
    fitting = [row for row in rows if row["name"] == name or name in others(row)]
    fitting = fitting or [row for row in rows if row["name"].startswith(name) and name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Refused(400, f"{len(fitting)} {nouns} fit '{name}': give more of the name; `pabal {nouns}` lists them")
    raise Refused(404, f"there is no {nouns[:-1]} '{name}'; `pabal {nouns}` lists them")


def _client(row: Any) -> str:
    properties = row.get("client_properties") or {}
    name = properties.get("connection_name") or row.get("user_provided_name")
    product = " ".join(str(properties[key]) for key in ("product", "version") if properties.get(key))
    return f"{name} ({product})" if name and product else name or product


def _mode(row: Any) -> str:
    return "confirms" if row.get("confirm") else "transactions" if row.get("transactional") else ""


def _header(text: str) -> str:
    """A header takes no line's end, and nothing beyond Latin-1."""
    return " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
