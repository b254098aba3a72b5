"""`pabal permissions`, those of topics among them."""

from __future__ import annotations

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.layout import Column
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked

COLUMNS = [
    Column("USER", "user"),
    Column("VHOST", "vhost"),
    Column("CONFIGURE", "configure"),
    Column("WRITE", "write"),
    Column("READ", "read"),
]
TOPIC_COLUMNS = [
    Column("USER", "user"),
    Column("VHOST", "vhost"),
    Column("EXCHANGE", "exchange"),
    Column("WRITE", "write"),
    Column("READ", "read"),
]
_USER = click.argument("user", shell_complete=completes("users"))
_ANY_USER = click.argument("user", required=False, shell_complete=completes("users"))


@click.group(cls=ApiGroup)
@click.pass_context
def permissions_command(context: click.Context) -> None:
    """What users may do in a vhost. Without a verb: list it."""
    if context.invoked_subcommand is None:
        context.invoke(list_permissions)


def _listed(asked: Asked, nouns: str, user: str | None, columns: list[Column]) -> None:
    rows = asked.api.get(nouns)
    if asked.only_vhost:
        rows = [row for row in rows if row["vhost"] == asked.only_vhost]
    if user is not None:
        rows = [row for row in rows if row["user"] == user]
    asked.output.table(rows, columns, noun="permissions", name="user")


@permissions_command.command("list", cls=ApiCommand)
@_ANY_USER
@pass_asked
def list_permissions(asked: Asked, user: str | None = None) -> None:
    """All permissions, or those of USER."""
    _listed(asked, "permissions", user, COLUMNS)


@permissions_command.command("set", cls=ApiCommand)
@_USER
@click.argument("configure")
@click.argument("write")
@click.argument("read")
@pass_asked
def set_permissions(asked: Asked, user: str, configure: str, write: str, read: str) -> None:
    """Let USER act on what the regular expressions match: '.*' for all, '^$' for nothing."""
    wanted = {"configure": configure, "write": write, "read": read}
    asked.api.put(path("permissions", asked.vhost, user), wanted)
    asked.output.did(
        f"'{user}' may configure '{configure}', write '{write}', read '{read}' in '{asked.vhost}'",
        user=user,
        vhost=asked.vhost,
        **wanted,
    )


@permissions_command.command("clear", cls=ApiCommand)
@_USER
@pass_asked
def clear_permissions(asked: Asked, user: str) -> None:
    """Let USER do nothing more in the vhost."""
    asked.api.delete(path("permissions", asked.vhost, user))
    asked.output.did(f"'{user}' may do nothing in '{asked.vhost}'", user=user, vhost=asked.vhost)


@permissions_command.group("topics", cls=ApiGroup)
@click.pass_context
def topics(context: click.Context) -> None:
    """Which routing keys of topic exchanges. Without a verb: list it."""
    if context.invoked_subcommand is None:
        context.invoke(list_topics)


@topics.command("list", cls=ApiCommand)
@_ANY_USER
@pass_asked
def list_topics(asked: Asked, user: str | None = None) -> None:
    """All permissions of topics, or those of USER."""
    _listed(asked, "topic-permissions", user, TOPIC_COLUMNS)


@topics.command("set", cls=ApiCommand)
@_USER
@click.argument("exchange", shell_complete=completes("exchanges"))
@click.argument("write")
@click.argument("read")
@pass_asked
def set_topics(asked: Asked, user: str, exchange: str, write: str, read: str) -> None:
    """Let USER publish and bind on EXCHANGE only with routing keys that the regular expressions match."""
    wanted = {"exchange": exchange, "write": write, "read": read}
    asked.api.put(path("topic-permissions", asked.vhost, user), wanted)
    asked.output.did(
        f"'{user}' may write '{write}', read '{read}' by '{exchange}'", user=user, vhost=asked.vhost, **wanted
    )


@topics.command("clear", cls=ApiCommand)
@_USER
@click.argument("exchange", required=False, shell_complete=completes("exchanges"))
@pass_asked
def clear_topics(asked: Asked, user: str, exchange: str | None) -> None:
    """Lift this restriction of USER, on EXCHANGE or on all."""
    parts = [asked.vhost, user] + ([exchange] if exchange is not None else [])
    asked.api.delete(path("topic-permissions", *parts))
    asked.output.did(f"'{user}' is not restricted to topics in '{asked.vhost}'", user=user, vhost=asked.vhost)
