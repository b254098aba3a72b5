"""`pabal policies`, of both kinds."""

from __future__ import annotations

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import Refused
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, ApiGroup, Asked, pass_asked
from pabal.cli.values import pairs

COLUMNS = [
    Column("NAME", "name"),
    Column("VHOST", "vhost"),
    Column("PATTERN", "pattern"),
    Column("APPLIES TO", "apply-to"),
    number("PRIORITY", "priority"),
    Column("DEFINITION", "definition"),
]
_OPERATOR = click.option(
    "--operator", is_flag=True, help="An operator policy: bounds what policies and arguments say."
)
_NAME = click.argument("name", shell_complete=completes("policies"))


def _nouns(operator: bool) -> str:
    return "operator-policies" if operator else "policies"


@click.group(cls=ApiGroup)
@click.pass_context
def policies_command(context: click.Context) -> None:
    """Arguments for many queues at once. Without a verb: list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_policies)


@policies_command.command("list", cls=ApiCommand)
@_OPERATOR
@pass_asked
def list_policies(asked: Asked, operator: bool = False) -> None:
    """All policies."""
    nouns = _nouns(operator)
    rows = asked.api.get(path(nouns, asked.only_vhost) if asked.only_vhost else nouns)
    asked.output.table(rows, COLUMNS, noun="operator policies" if operator else "policies")


@policies_command.command("show", cls=ApiCommand)
@_NAME
@_OPERATOR
@pass_asked
def show_policy(asked: Asked, name: str, operator: bool) -> None:
    """One policy."""
    policy = _policy(asked, name, operator)
    asked.output.show(policy, [column._replace(title=column.title.lower()) for column in COLUMNS])


@policies_command.command("set", cls=ApiCommand)
@click.argument("name", shell_complete=completes("policies"))
@click.argument("pattern")
@click.argument("definition", nargs=-1, required=True, metavar="KEY=VALUE…")
@click.option("--priority", type=int, default=0, show_default=True, help="Of those that match, the highest counts.")
@click.option("--apply-to", default=None, help="queues, exchanges or all.  [default: all; queues with --operator]")
@_OPERATOR
@pass_asked
def set_policy(
    asked: Asked,
    name: str,
    pattern: str,
    definition: tuple[str, ...],
    priority: int,
    apply_to: str | None,
    operator: bool,
) -> None:
    """Set a policy on what PATTERN (a regular expression) matches.

    \b
    pabal policies set retries '^work' delivery-limit=5 dead-letter-exchange=dead
    """
    wanted = {
        "pattern": pattern,
        "definition": pairs(definition, "DEFINITION"),
        "priority": priority,
        "apply-to": apply_to or ("queues" if operator else "all"),
    }
    asked.api.put(path(_nouns(operator), asked.vhost, name), wanted)
    asked.output.did(f"policy '{name}' set", name=name, vhost=asked.vhost, **wanted)


@policies_command.command("clear", cls=ApiCommand)
@_NAME
@_OPERATOR
@pass_asked
def clear_policy(asked: Asked, name: str, operator: bool) -> None:
    """Delete a policy."""
    _policy(asked, name, operator)
    asked.api.delete(path(_nouns(operator), asked.vhost, name))
    asked.output.did(f"policy '{name}' deleted", deleted=name, vhost=asked.vhost)


def _policy(asked: Asked, name: str, operator: bool) -> dict[str, object]:
    try:
        policy: dict[str, object] = asked.api.get(path(_nouns(operator), asked.vhost, name))
    except Refused as error:
        if error.status != 404:
            raise
        kind, flag = ("operator policy", " --operator") if operator else ("policy", "")
        where = f"in vhost '{asked.vhost}'; `pabal policies list{flag}` lists them"
        raise Refused(404, f"there is no {kind} '{name}' {where}") from None
    return policy
