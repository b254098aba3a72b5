"""`pabal exchanges` and `pabal bindings`."""

from __future__ import annotations

import re
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import Refused
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked
from pabal.cli.queues import found, matching, sought
from pabal.cli.text import rate
from pabal.cli.values import pairs

COLUMNS = [
    Column("NAME", "name", lambda name: name or "(default)"),
    Column("VHOST", "vhost"),
    Column("TYPE", "type"),
    Column("DURABLE", "durable"),
    Column("INTERNAL", "internal"),
    number("IN/S", "message_stats.publish_in_details.rate", rate),
    number("OUT/S", "message_stats.publish_out_details.rate", rate),
    Column("POLICY", "policy"),
]
DETAILS = [
    Column("name", "name"),
    Column("vhost", "vhost"),
    Column("type", "type"),
    Column("durable", "durable"),
    Column("auto delete", "auto_delete"),
    Column("internal", "internal"),
    Column("arguments", "arguments"),
    Column("policy", "policy"),
    number("in/s", "message_stats.publish_in_details.rate", rate),
    number("out/s", "message_stats.publish_out_details.rate", rate),
]
BINDINGS = [
    Column("FROM", "source", lambda name: name or "(default)"),
    Column("VHOST", "vhost"),
    Column("TO", "destination"),
    Column("KIND", "destination_type"),
    Column("ROUTING KEY", "routing_key"),
    Column("ARGUMENTS", "arguments"),
]


@click.group(cls=ApiGroup)
@click.pass_context
def exchanges_command(context: click.Context) -> None:
    """Exchanges. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_exchanges)


@exchanges_command.command("list", cls=ApiCommand)
@click.argument("pattern", required=False, callback=sought)
@pass_asked
def list_exchanges(asked: Asked, pattern: re.Pattern[str] | None = None) -> None:
    """All exchanges, or those whose name has PATTERN (a regular expression) in it."""
    rows = asked.api.get(path("exchanges", asked.only_vhost) if asked.only_vhost else "exchanges")
    asked.output.table(matching(rows, pattern), COLUMNS, noun="exchanges")


@exchanges_command.command("show", cls=ApiCommand)
@click.argument("name", shell_complete=completes("exchanges"))
@pass_asked
def show_exchange(asked: Asked, name: str) -> None:
    """One exchange and what is bound to it."""
    asked.output.show(found(asked, "exchange", "exchanges", name), DETAILS)
    if asked.output.terminal and not asked.output.as_json and not asked.output.columns:
        bindings = asked.api.get(path("exchanges", asked.vhost, name, "bindings", "source"))
        if bindings:
            click.echo(click.style("\nbindings", dim=True))
            asked.output.table(bindings, BINDINGS[2:], noun="bindings")


@exchanges_command.command("declare", cls=ApiCommand)
@click.argument("name")
@click.option("--type", "kind", default="direct", show_default=True, help="direct, fanout, topic, headers, …")
@click.option("--transient", is_flag=True, help="Gone at the broker's end.")
@click.option("--auto-delete", is_flag=True, help="Gone with its last binding.")
@click.option("--internal", is_flag=True, help="Fed by other exchanges only.")
@click.option(
    "--argument", "-a", "arguments", multiple=True, metavar="KEY=VALUE", help="As alternate-exchange=other."
)
@pass_asked
def declare_exchange(
    asked: Asked,
    name: str,
    kind: str,
    transient: bool,
    auto_delete: bool,
    internal: bool,
    arguments: tuple[str, ...],
) -> None:
    """Make an exchange, durable unless told otherwise. One that is there in the same form is left as it is."""
    wanted = {
        "type": kind,
        "durable": not transient,
        "auto_delete": auto_delete,
        "internal": internal,
        "arguments": pairs(arguments, "--argument"),
    }
    asked.api.put(path("exchanges", asked.vhost, name), wanted)
    asked.output.did(f"exchange '{name}' is there", name=name, vhost=asked.vhost, **wanted)


@exchanges_command.command("delete", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True, shell_complete=completes("exchanges"))
@click.option("--if-unused", is_flag=True, help="Only without bindings.")
@pass_asked
def delete_exchanges(asked: Asked, names: tuple[str, ...], if_unused: bool) -> None:
    """Delete exchanges and their bindings."""
    for name in names:
        found(asked, "exchange", "exchanges", name)
        if name.startswith("amq."):  # brokers only say "Access refused" of these
            raise Refused(403, f"exchange '{name}' is one of those that every vhost has: it cannot be deleted")
        asked.api.delete(path("exchanges", asked.vhost, name), query={"if-unused": "true"} if if_unused else {})
        asked.output.did(f"exchange '{name}' deleted", deleted=name, vhost=asked.vhost)


@click.group(cls=ApiGroup)
@click.pass_context
def bindings_command(context: click.Context) -> None:
    """Bindings of exchanges to queues and exchanges. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_bindings)


@bindings_command.command("list", cls=ApiCommand)
@click.option("--from", "source", shell_complete=completes("exchanges"), help="Only those of this exchange.")
@click.option("--to", "destination", shell_complete=completes("queues"), help="Only those to this queue or exchange.")
@click.option("--all", "everything", is_flag=True, help="The default exchange's too: one for each queue.")
@pass_asked
def list_bindings(
    asked: Asked, source: str | None = None, destination: str | None = None, everything: bool = False
) -> None:
    """All bindings but those of the default exchange."""
    rows = asked.api.get(path("bindings", asked.only_vhost) if asked.only_vhost else "bindings")
    if not everything and source != "":
        rows = [row for row in rows if row["source"]]
    if source is not None:
        rows = [row for row in rows if row["source"] == source]
    if destination is not None:
        rows = [row for row in rows if row["destination"] == destination]
    asked.output.table(rows, BINDINGS, noun="bindings", name="properties_key")


def _binding(asked: Asked, source: str, destination: str, to_exchange: bool) -> str:
    return path("bindings", asked.vhost, "e", source, "e" if to_exchange else "q", destination)


_TO_EXCHANGE = click.option("--to-exchange", is_flag=True, help="DESTINATION is an exchange.")
_KEY = click.option("--key", "-k", help="The routing key.")
_SOURCE = click.argument("source", shell_complete=completes("exchanges"))
_DESTINATION = click.argument("destination", shell_complete=completes("queues"))


@bindings_command.command("declare", cls=ApiCommand)
@_SOURCE
@_DESTINATION
@_KEY
@_TO_EXCHANGE
@click.option("--argument", "-a", "arguments", multiple=True, metavar="KEY=VALUE", help="As x-match=all.")
@pass_asked
def declare_binding(
    asked: Asked, source: str, destination: str, key: str | None, to_exchange: bool, arguments: tuple[str, ...]
) -> None:
    """Bind exchange SOURCE to queue DESTINATION."""
    wanted = {"routing_key": key or "", "arguments": pairs(arguments, "--argument")}
    asked.api.post(_binding(asked, source, destination, to_exchange), wanted)
    asked.output.did(
        f"'{source}' goes to '{destination}' by '{key or ''}'",
        source=source,
        vhost=asked.vhost,
        destination=destination,
        destination_type="exchange" if to_exchange else "queue",
        **wanted,
    )


@bindings_command.command("delete", cls=ApiCommand)
@_SOURCE
@_DESTINATION
@_KEY
@_TO_EXCHANGE
@click.option("--properties-key", help="Which one, as --json shows it: needed among those with arguments.")
@pass_asked
def delete_binding(
    asked: Asked, source: str, destination: str, key: str | None, to_exchange: bool, properties_key: str | None
) -> None:
    """Delete a binding of SOURCE to DESTINATION: the one with that key, or the only one."""
    where = _binding(asked, source, destination, to_exchange)
    there: list[dict[str, Any]] = asked.api.get(where)
    fitting = [
        row
        for row in there
        if (key is None or row["routing_key"] == key)
        and (properties_key is None or row["properties_key"] == properties_key)
    ]
    if not fitting:
        raise Refused(404, f"there is no such binding of '{source}' to '{destination}'; `pabal bindings` lists them")
    if len(fitting) > 1:
        raise Refused(
            400,
            f"{len(fitting)} bindings of '{source}' to '{destination}' fit; say which by --key or --properties-key",
        )
    (binding,) = fitting
    asked.api.delete(f"{where}/{path(binding['properties_key'])}")
    asked.output.did(f"'{source}' no longer goes to '{destination}' by '{binding['routing_key']}'", deleted=binding)
