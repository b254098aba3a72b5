"""`pabal publish` and `pabal get`."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.completion import completes
from pabal.cli.errors import SAID_NO, WRONG_USAGE, Refused, die
from pabal.cli.options import ApiCommand, Asked, pass_asked
from pabal.cli.text import amount, machine, plain, size, visible
from pabal.cli.values import pairs

PROPERTIES = (
    "content_type",
    "content_encoding",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
"""Of basic.properties, those that --property sets; delivery_mode is --transient, headers are --header."""
_ACK_MODES = {
    "requeue": "ack_requeue_true",
    "ack": "ack_requeue_false",
    "reject": "reject_requeue_false",
}


@click.command("publish", cls=ApiCommand)
@click.argument("routing_key", shell_complete=completes("queues"))
@click.argument("body", required=False)
@click.option(
    "--exchange", "-x", default="", shell_complete=completes("exchanges"), help="[default: the default one]"
)
@click.option("--file", "-f", type=click.Path(dir_okay=False), help="Take the body from a file.")
@click.option("--lines", is_flag=True, help="Each line of stdin or of --file is a message.")
@click.option("--header", "headers", multiple=True, metavar="KEY=VALUE", help="A header; may be repeated.")
@click.option(
    "--property", "-p", "properties", multiple=True, metavar="KEY=VALUE", help="As content_type=text/plain."
)
@click.option("--transient", is_flag=True, help="Need not survive the broker's end.")
@click.option("--count", "-n", type=click.IntRange(1), default=1, help="Send it so many times.")
@pass_asked
def publish_command(
    asked: Asked,
    routing_key: str,
    body: str | None,
    exchange: str,
    file: str | None,
    lines: bool,
    headers: tuple[str, ...],
    properties: tuple[str, ...],
    transient: bool,
    count: int,
) -> None:
    """Send a message: to the queue named ROUTING_KEY, or by --exchange. Without BODY it is read from stdin.

    Messages are persistent unless told otherwise. Ends with 1 when one of them reached no queue.
    """
    wanted = _properties(headers, properties, transient)
    if body is not None and (file is not None or lines):
        raise click.UsageError("the body is given twice: on the line, and by --file or --lines")
    routed = 0
    unrouted = 0
    for content in _bodies(body, file, lines):
        text, encoding = _encoded(content)
        message = {
            "routing_key": routing_key,
            "properties": wanted,
            "payload": text,
            "payload_encoding": encoding,
        }
        for _ in range(count):
            answer = asked.api.post(path("exchanges", asked.vhost, exchange or "amq.default", "publish"), message)
            if answer.get("routed"):
                routed += 1
            else:
                unrouted += 1
    if asked.output.as_json:
        asked.output.json({"routed": unrouted == 0, "published": routed, "unroutable": unrouted})
    elif routed:
        asked.output.did(f"{amount(routed, 'message')} published")
    if unrouted:
        by = f"exchange '{exchange}'" if exchange else "the default exchange"
        hint = "`pabal bindings` shows what is bound" if exchange else "`pabal queues` shows what there is"
        die(f"{amount(unrouted, 'message')} went nowhere: {by} has no queue for '{routing_key}'; {hint}", SAID_NO)


def _properties(headers: tuple[str, ...], properties: tuple[str, ...], transient: bool) -> dict[str, Any]:
    wanted: dict[str, Any] = {"delivery_mode": 1 if transient else 2}
    for name, value in pairs(properties, "--property").items():
        if name not in PROPERTIES:
            raise click.UsageError(f"--property {name}: expected one of {', '.join(sorted(PROPERTIES))}")
        wanted[name] = value if name in ("priority", "timestamp") else plain(value)
    if headers:
        wanted["headers"] = pairs(headers, "--header")
    return wanted


def _bodies(body: str | None, file: str | None, lines: bool) -> Iterator[bytes]:
    if body is not None:
        yield body.encode("utf-8", "surrogateescape")
        return
    if file is not None and file != "-":
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            die(f"--file {file}: {error.strerror}", WRONG_USAGE)
        yield from content.splitlines() if lines else [content]
        return
    if sys.stdin.isatty():
        click.echo(click.style("the body, ended by Ctrl-D:", dim=True), err=True)
    if lines:
        for line in sys.stdin.buffer:
            yield line.rstrip(b"\r\n")
    else:
        yield sys.stdin.buffer.read()


def _encoded(content: bytes) -> tuple[str, str]:
    try:
        return content.decode("utf-8"), "string"
    except UnicodeDecodeError:
        return base64.b64encode(content).decode("ascii"), "base64"


@click.command("get", cls=ApiCommand)
@click.argument("queue", shell_complete=completes("queues"))
@click.option("--count", "-n", type=click.IntRange(1), default=1, show_default=True, help="At most so many.")
@click.option("--ack", "mode", flag_value="ack", help="Take them: they are gone from the queue.")
@click.option("--reject", "mode", flag_value="reject", help="Reject them: to the dead letters, if there are any.")
@click.option("--requeue", "mode", flag_value="requeue", default=True, help="Give them back.  [default]")
@click.option("--body", "only_body", is_flag=True, help="Only the bodies, byte for byte, each ended by a newline.")
@pass_asked
def get_command(asked: Asked, queue: str, count: int, mode: str, only_body: bool) -> None:
    """Get messages from QUEUE, and give them back unless --ack. What is given back counts as redelivered.

    `pabal peek` looks without touching. Ends with 1 when there is no message.
    """
    wanted = {"count": count, "ackmode": _ACK_MODES[mode], "encoding": "auto"}
    try:
        messages = asked.api.post(path("queues", asked.vhost, queue, "get"), wanted)
    except Refused as error:
        if error.status != 404:
            raise
        hint = "`pabal queues` lists them; another vhost: -V"
        raise Refused(404, f"there is no queue '{queue}' in vhost '{asked.vhost}'; {hint}") from None
    print_messages(asked, messages, only_body)
    if not messages:
        if asked.output.as_json or asked.output.quiet:
            raise SystemExit(SAID_NO)
        die(f"queue '{queue}' has no ready message; `pabal queues show {queue}` says more", SAID_NO)


def print_messages(asked: Asked, messages: list[dict[str, Any]], only_body: bool) -> None:
    """In the forms that `get` and `peek` share."""
    output = asked.output
    if only_body:
        # Printed at once, so that a broken pipe shows here.
        for message in messages:
            sys.stdout.buffer.write(content_of(message) + b"\n")
        sys.stdout.buffer.flush()
    elif output.as_json:
        output.json(messages)
    elif output.quiet:
        return
    elif not output.terminal:
        for message in messages:
            properties = message.get("properties") or {}
            cells = [message.get("routing_key"), message.get("redelivered"), properties.get("message_id")]
            content = content_of(message).decode("utf-8", "backslashreplace")
            output.line("\t".join(machine(cell) for cell in [*cells, properties.get("headers"), content]))
    else:
        for at, message in enumerate(messages):
            if at:
                click.echo()
            _show(message)


def content_of(message: dict[str, Any]) -> bytes:
    payload = message.get("payload") or ""
    if message.get("payload_encoding") == "base64":
        return base64.b64decode(payload)
    return str(payload).encode("utf-8", "surrogatepass")


def _show(message: dict[str, Any]) -> None:
    """A line on where it comes from, its properties, and the body."""
    properties = message.get("properties") or {}
    exchange = message.get("exchange") or "(default)"
    marks = [size(message.get("payload_bytes", 0))]
    if message.get("redelivered"):
        marks.append("redelivered")
    if "position" in message:
        marks.insert(0, f"#{message['position']}")
    head = click.style(visible(f"{exchange} → {message.get('routing_key', '')}"), bold=True)
    click.echo(f"{head}  {click.style(', '.join(marks), dim=True)}")
    for name, value in properties.items():
        if name == "headers":
            for header, content in value.items():
                click.echo(click.style(f"  {visible(header)}: ", dim=True) + visible(plain(content)))
        else:
            click.echo(click.style(f"  {visible(name)} ", dim=True) + visible(plain(value)))
    content = content_of(message)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = [f"{content[at : at + 16].hex(' '):<47}" for at in range(0, min(len(content), 512), 16)]
    for line in lines[:200]:
        click.echo(visible(line))
    if len(lines) > 200:
        click.echo(click.style(f"… {len(lines) - 200} lines more; --body or --json prints all", dim=True))
