"""`pabal tap`: the frames of a living connection, as they pass."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import WRONG_USAGE, CannotReach, Refused, die
from pabal.cli.options import ApiCommand, Asked, needs_pabal, pass_asked
from pabal.cli.text import pick, visible

_MARKS = {"received": "<", "sent": ">", "state": "=", "error": "!", "end": "="}
_STYLES: dict[str, dict[str, Any]] = {
    "received": {"fg": "cyan"},
    "sent": {"fg": "green"},
    "error": {"fg": "red", "bold": True},
    "state": {"dim": True},
    "end": {"dim": True},
}


@click.command("tap", cls=ApiCommand)
@click.argument("connection", required=False, shell_complete=completes("connections"))
@click.option("--channel", "channels", multiple=True, type=click.IntRange(0, 65_535), help="Only its frames.")
@click.option("--only", metavar="A,B,…", help="Only these methods, with what belongs to them: publish,deliver,ack")
@click.option("--bodies", type=click.IntRange(0, 65_536), default=0, help="Show so many bytes of each body.")
@pass_asked
def tap_command(
    asked: Asked, connection: str | None, channels: tuple[int, ...], only: str | None, bodies: int
) -> None:
    """Show the frames of CONNECTION: < received by the broker, > sent, = states, ! errors.

    CONNECTION is its name, the beginning of it, or what the client calls itself; where there is only one it may be
    left out. Never shows passwords; bodies only with --bodies, which takes an administrator. Ends when the
    connection does.
    """
    name = _found(asked, connection)
    query = {
        "channel": ",".join(map(str, channels)) or None,
        "only": only,
        "bodies": bodies or None,
    }
    line: dict[str, Any] = {}
    try:
        for data in asked.api.lines(path("pabal", "connections", name, "tap"), **query):
            line = json.loads(data)
            if asked.output.as_json:
                click.echo(data)
            else:
                _show(line)
    except Refused as error:
        if error.status == 404:
            needs_pabal(asked, "pabal tap", Refused(404, f"there is no connection '{name}' any more"))
        raise
    if line.get("kind") != "end":
        raise CannotReach(f"{asked.api.address.shown}: the answer ended before the connection did")


def _show(line: dict[str, Any]) -> None:
    time = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    channel = f"{line['channel']} " if "channel" in line else ""
    text = f"{_MARKS[line['kind']]} {channel}{visible(line['text'])}"
    click.echo(f"{click.style(time, dim=True)} {click.style(text, **_STYLES[line['kind']])}")


def _found(asked: Asked, given: str | None) -> str:
    """The connection's full name. Which there are, and the end with 2, when it is not clear which one is meant."""
    rows = asked.api.get("connections")
    fitting = rows
    if given is not None:
        fitting = [row for row in rows if given in (row["name"], pick(row, "client_properties.connection_name"))]
        fitting = fitting or [row for row in rows if given and row["name"].startswith(given)]
        if not fitting:
            raise Refused(404, f"there is no connection '{given}'; `pabal connections` lists them")
    if not fitting:
        raise Refused(404, "there is no connection")
    if len(fitting) > 1:
        for row in fitting:
            own = pick(row, "client_properties.connection_name")
            words = [row["name"], f"user '{row.get('user')}'", f"vhost '{row.get('vhost')}'", *([own] if own else [])]
            click.echo("  " + visible("  ".join(words)), err=True)
        what = f"fit '{given}'" if given is not None else "are there"
        die(f"{len(fitting)} connections {what}: which one?", WRONG_USAGE)
    return str(fitting[0]["name"])
