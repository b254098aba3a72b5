"""`pabal users`."""

from __future__ import annotations

from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import Refused
from pabal.cli.layout import Column
from pabal.cli.options import ApiCommand, ApiGroup, Asked, ask_password, pass_asked
from pabal.cli.values import confirm

COLUMNS = [Column("NAME", "name"), Column("TAGS", "tags"), Column("LIMITS", "limits")]
DETAILS = [
    Column("name", "name"),
    Column("tags", "tags"),
    Column("hash", "hashing_algorithm"),
    Column("limits", "limits"),
]
_NAME = click.argument("name", shell_complete=completes("users"))
_STDIN = click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")


@click.group(cls=ApiGroup)
@click.pass_context
def users_command(context: click.Context) -> None:
    """Users. Without a verb: list them. Passwords are asked for or read from stdin, never taken from the line."""
    if context.invoked_subcommand is None:
        context.invoke(list_users)


@users_command.command("list", cls=ApiCommand)
@pass_asked
def list_users(asked: Asked) -> None:
    """All users."""
    asked.output.table([_public(row) for row in asked.api.get("users")], COLUMNS, noun="users")


@users_command.command("show", cls=ApiCommand)
@_NAME
@pass_asked
def show_user(asked: Asked, name: str) -> None:
    """One user and the permissions of it."""
    asked.output.show(_public(_user(asked, name)), DETAILS)
    if asked.output.terminal and not asked.output.as_json and not asked.output.columns:
        from pabal.cli.permissions import COLUMNS as PERMISSIONS

        rows = asked.api.get(path("users", name, "permissions"))
        click.echo(click.style("\npermissions", dim=True))
        asked.output.table(rows, PERMISSIONS[1:], noun="permissions")


@users_command.command("add", cls=ApiCommand)
@click.argument("name")
@click.option("--tags", default="", help="As administrator or monitoring,policymaker.")
@click.option("--no-password", is_flag=True, help="A user who comes by certificate or token only.")
@_STDIN
@pass_asked
def add_user(asked: Asked, name: str, tags: str, no_password: bool, password_stdin: bool) -> None:
    """Add a user, who then may do nothing: see `pabal permissions set`."""
    if any(row["name"] == name for row in asked.api.get("users")):
        raise Refused(400, f"there is a user '{name}' already; `pabal users password {name}` sets another password")
    wanted: dict[str, Any] = {"tags": tags}
    if no_password:
        wanted["password_hash"] = ""
    else:
        wanted["password"] = ask_password(f"Password of {name}", from_stdin=password_stdin)
    asked.api.put(path("users", name), wanted)
    asked.output.did(f"user '{name}' added", name=name, tags=_tags(tags))
    asked.output.note(f"it may do nothing yet: pabal permissions set {name} '.*' '.*' '.*'")


@users_command.command("password", cls=ApiCommand)
@_NAME
@_STDIN
@pass_asked
def set_password(asked: Asked, name: str, password_stdin: bool) -> None:
    """Set another password; tags stay."""
    user = _user(asked, name)
    password = ask_password(f"New password of {name}", from_stdin=password_stdin)
    asked.api.put(path("users", name), {"password": password, "tags": ",".join(_tags(user["tags"]))})
    asked.output.did(f"password of '{name}' set", name=name)


@users_command.command("tags", cls=ApiCommand)
@_NAME
@click.argument("tags", nargs=-1)
@pass_asked
def set_tags(asked: Asked, name: str, tags: tuple[str, ...]) -> None:
    """Set the TAGS of a user, none at all without; the password stays."""
    user = _user(asked, name)
    all_tags = [tag for given in tags for tag in _tags(given)]
    wanted = {"password_hash": user.get("password_hash") or "", "tags": ",".join(all_tags)}
    if user.get("hashing_algorithm"):
        wanted["hashing_algorithm"] = user["hashing_algorithm"]
    asked.api.put(path("users", name), wanted)
    asked.output.did(f"tags of '{name}': {', '.join(all_tags) or 'none'}", name=name, tags=all_tags)


@users_command.command("delete", cls=ApiCommand)
@click.argument("names", nargs=-1, required=True, shell_complete=completes("users"))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@pass_asked
def delete_users(asked: Asked, names: tuple[str, ...], yes: bool) -> None:
    """Delete users, with their permissions."""
    for name in names:
        _user(asked, name)
        confirm(f"Delete user '{name}'?", yes=yes)
        asked.api.delete(path("users", name))
        asked.output.did(f"user '{name}' deleted", deleted=name)


@users_command.command("whoami", cls=ApiCommand)
@pass_asked
def whoami(asked: Asked) -> None:
    """Who asks."""
    asked.output.show(asked.api.get("whoami"), [Column("name", "name"), Column("tags", "tags")])


def _user(asked: Asked, name: str) -> Any:
    try:
        return asked.api.get(path("users", name))
    except Refused as error:
        if error.status != 404:
            raise
        raise Refused(404, f"there is no user '{name}'; `pabal users` lists them") from None


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """Hashes of passwords are for `pabal export` only."""
    return {key: value for key, value in row.items() if key != "password_hash"}


def _tags(given: Any) -> list[str]:
    """Newer releases give a list, older ones a text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    return [str(part).strip() for part in parts if str(part).strip()]
