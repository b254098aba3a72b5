"""`pabal vhosts` and `pabal limits`."""

from __future__ import annotations

from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import Refused
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked
from pabal.cli.text import amount, rate
from pabal.cli.values import confirm, pairs

COLUMNS = [
    Column("NAME", "name"),
    number("READY", "messages_ready", style="green"),
    number("LEASED", "messages_unacknowledged", style="yellow"),
    number("IN/S", "message_stats.publish_details.rate", rate),
    number("OUT/S", "message_stats.deliver_get_details.rate", rate),
    Column("TAGS", "tags"),
    Column("DESCRIPTION", "description"),
]
LIMITS = [Column("OF", "of"), Column("NAME", "name"), Column("LIMIT", "limit"), number("VALUE", "value")]


@click.group(cls=ApiGroup)
@click.pass_context
def vhosts_command(context: click.Context) -> None:
    """Vhosts. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_vhosts)


@vhosts_command.command("list", cls=ApiCommand)
@pass_asked
def list_vhosts(asked: Asked) -> None:
    """All vhosts."""
    asked.output.table(asked.api.get("vhosts"), COLUMNS, noun="vhosts")


@vhosts_command.command("show", cls=ApiCommand)
@click.argument("name", shell_complete=completes("vhosts"))
@pass_asked
def show_vhost(asked: Asked, name: str) -> None:
    """One vhost."""
    asked.output.show(_vhost(asked, name), [column._replace(title=column.title.lower()) for column in COLUMNS])


@vhosts_command.command("add", cls=ApiCommand)
@click.argument("name")
@click.option("--description", default="", help="For people.")
@click.option("--tags", default="", help="For people, with commas.")
@pass_asked
def add_vhost(asked: Asked, name: str, description: str, tags: str) -> None:
    """Add a vhost, in which nobody may do anything but who adds it."""
    asked.api.put(path("vhosts", name), {"description": description, "tags": tags})
    asked.output.did(f"vhost '{name}' is there", name=name, description=description, tags=tags)


@vhosts_command.command("delete", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True, shell_complete=completes("vhosts"))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@pass_asked
def delete_vhosts(asked: Asked, names: tuple[str, ...], yes: bool) -> None:
    """Delete vhosts with all that is in them."""
    for name in names:
        _vhost(asked, name)
        queues = asked.api.get(path("queues", name))
        messages = sum(queue.get("messages") or 0 for queue in queues)
        inside = f"{amount(len(queues), 'queue')} with {amount(messages, 'message')}"
        confirm(f"Delete vhost '{name}' and all in it: {inside}?", yes=yes)
        asked.api.delete(path("vhosts", name))
        asked.output.did(f"vhost '{name}' deleted", deleted=name)


@click.group(cls=ApiGroup)
@click.pass_context
def limits_command(context: click.Context) -> None:
    """How much a vhost or a user may have. Without a verb: list it."""
    if context.invoked_subcommand is None:
        context.invoke(list_limits)


@limits_command.command("list", cls=ApiCommand)
@pass_asked
def list_limits(asked: Asked) -> None:
    """All limits, of vhosts and of users."""
    of_vhosts = asked.api.get(path("vhost-limits", asked.only_vhost) if asked.only_vhost else "vhost-limits")
    of_users = [] if asked.only_vhost else asked.api.get("user-limits")
    if asked.output.as_json:
        asked.output.json([*of_vhosts, *of_users])
        return
    rows = [
        {"of": kind, "name": entry[kind], "limit": limit, "value": value}
        for kind, entries in (("vhost", of_vhosts), ("user", of_users))
        for entry in entries
        for limit, value in entry["value"].items()
    ]
    asked.output.table(rows, LIMITS, noun="limits")


_OF_USER = click.option(
    "--of-user", metavar="NAME", shell_complete=completes("users"), help="Of a user, not the vhost."
)


@limits_command.command("set", cls=ApiCommand)
@click.argument("limits", nargs=-1, required=True, metavar="NAME=NUMBER…")
@_OF_USER
@pass_asked
def set_limits(asked: Asked, limits: tuple[str, ...], of_user: str | None) -> None:
    """Set limits: max-connections and max-queues of a vhost (-V), max-connections and max-channels of a user."""
    for name, value in pairs(limits, "LIMITS").items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise click.UsageError(f"{name}={value}: expected a whole number")
        asked.api.put(_where(asked, of_user, name), {"value": value})
        whose, named = _whose(asked, of_user)
        asked.output.did(f"{whose} has {name} {value}", **named, limit=name, value=value)


@limits_command.command("clear", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True)
@_OF_USER
@pass_asked
def clear_limits(asked: Asked, names: tuple[str, ...], of_user: str | None) -> None:
    """Lift limits by their names."""
    for name in names:
        asked.api.delete(_where(asked, of_user, name))
        whose, named = _whose(asked, of_user)
        asked.output.did(f"{whose} has no {name} more", **named, cleared=name)


def _where(asked: Asked, of_user: str | None, name: str) -> str:
    return path("vhost-limits", asked.vhost, name) if of_user is None else path("user-limits", of_user, name)


def _whose(asked: Asked, of_user: str | None) -> tuple[str, dict[str, Any]]:
    if of_user is None:
        return f"vhost '{asked.vhost}'", {"vhost": asked.vhost}
    return f"user '{of_user}'", {"user": of_user}


def _vhost(asked: Asked, name: str) -> Any:
    try:
        return asked.api.get(path("vhosts", name))
    except Refused as error:
        if error.status != 404:
            raise
        raise Refused(404, f"there is no vhost '{name}'; `pabal vhosts` lists them") from None
