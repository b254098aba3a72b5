"""`pabal status`: the broker on one screen."""

from __future__ import annotations

from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.errors import Refused
from pabal.cli.layout import Column, number
from pabal.cli.options import ApiCommand, Asked, pass_asked
from pabal.cli.text import amount, count, duration, pick, rate, size

FIELDS = [
    Column("node", "node"),
    Column("product", "product_name"),
    Column("version", "product_version"),
    Column("form", "form"),
    Column("stands for", "rabbitmq_version"),
    number("uptime", "uptime", duration),
    Column("alarms", "alarms"),
    number("ready", "queue_totals.messages_ready"),
    number("leased", "queue_totals.messages_unacknowledged"),
    number("in/s", "message_stats.publish_details.rate", rate),
    number("out/s", "message_stats.deliver_get_details.rate", rate),
    number("acknowledged/s", "message_stats.ack_details.rate", rate),
    number("queues", "object_totals.queues"),
    number("connections", "object_totals.connections"),
    number("channels", "object_totals.channels"),
    number("consumers", "object_totals.consumers"),
    number("memory", "mem_used", size),
    number("memory limit", "mem_limit", size),
    number("disk free", "disk_free", size),
    number("disk limit", "disk_free_limit", size),
    Column("listeners", "listening"),
]
_PROTOCOLS = {
    "amqp": "AMQP 0-9-1",
    "amqp/ssl": "AMQP TLS",
    "http": "HTTP API",
    "https": "HTTPS API",
    "http/prometheus": "metrics",
}


@click.command("status", cls=ApiCommand)
@click.option("--check", is_flag=True, help="End with 1 while an alarm blocks publishers.")
@pass_asked
def status_command(asked: Asked, check: bool) -> None:
    """The broker on one screen: version, rates, messages, memory, disk, alarms, listeners."""
    overview = asked.api.get("overview")
    node = _node(asked, overview)
    alarms = alarms_of(node)
    if asked.output.as_json and not asked.output.columns:
        asked.output.json({"overview": overview, "node": node, "alarms": alarms})
    elif asked.output.as_json or asked.output.columns or not asked.output.terminal:
        listening = [f"{where['protocol']}://{_place(where)}" for where in overview.get("listeners", [])]
        asked.output.show(
            {**node, **overview, "alarms": alarms, "listening": listening, "form": form_of(node)}, FIELDS
        )
    elif not asked.output.quiet:
        _screen(overview, node, alarms)
    if check and alarms:
        raise SystemExit(1)


def _node(asked: Asked, overview: dict[str, Any]) -> dict[str, Any]:
    """Its facts; who does not monitor sees none of them, and the rest all the same."""
    try:
        node: dict[str, Any] = asked.api.get(path("nodes", overview["node"]))
    except Refused as error:
        if error.status not in (401, 403):
            raise
        return {}
    return node


def alarms_of(node: dict[str, Any]) -> list[str]:
    return [name for name, field in (("memory", "mem_alarm"), ("disk", "disk_free_alarm")) if node.get(field) is True]


def form_of(node: dict[str, Any]) -> str:
    """Compiled or plain Python, which only a Pabal says."""
    compiled = node.get("compiled")
    return "" if compiled is None else "compiled" if compiled else "plain Python"


def product_of(overview: dict[str, Any]) -> str:
    return str(overview.get("product_name") or "RabbitMQ").lower()


def _screen(overview: dict[str, Any], node: dict[str, Any], alarms: list[str]) -> None:
    def dim(text: str) -> str:
        return click.style(text, dim=True)

    def row(name: str, *parts: str) -> None:
        click.echo(f"  {dim(f'{name:<12}')} " + dim("  ·  ").join(part for part in parts if part))

    def now(field: str, word: str, colour: str | None = None, form: Any = count) -> str:
        value = pick(overview, field) or 0
        return f"{click.style(form(value), fg=colour, bold=True) if value else dim('0')} {dim(word)}"

    version = overview.get("product_version") or overview.get("rabbitmq_version") or ""
    about = [form_of(node), f"up {duration(node['uptime'])}" if "uptime" in node else ""]
    if product_of(overview) == "pabal":
        about.insert(1, f"stands for RabbitMQ {overview.get('rabbitmq_version')}")
    click.echo(
        f"\n  {click.style(f'{product_of(overview)} {version}', bold=True)}  "
        + dim("  ·  ".join(part for part in about if part))
    )
    click.echo(f"  {dim(str(overview.get('node', '')))}\n")
    if alarms:
        which = " and ".join(alarms)
        text = f"ALARM: {which}; publishers are blocked until there is more room, consumers are not"
        click.echo(f"  {click.style(text, fg='red', bold=True)}\n")
    row(
        "messages",
        now("queue_totals.messages_ready", "ready", "green"),
        now("queue_totals.messages_unacknowledged", "leased", "yellow"),
    )
    row(
        "per second",
        now("message_stats.publish_details.rate", "in", "cyan", rate),
        now("message_stats.deliver_get_details.rate", "out", "cyan", rate),
        now("message_stats.ack_details.rate", "acknowledged", "cyan", rate),
    )
    totals = overview.get("object_totals") or {}
    row("there are", *(amount(totals.get(f"{noun}s") or 0, noun) for noun in ("queue", "exchange")))
    row("clients", *(amount(totals.get(f"{noun}s") or 0, noun) for noun in ("connection", "channel", "consumer")))
    if node:
        row("memory", size(node.get("mem_used")), _limit(node, "mem_limit", "publishers are blocked at"))
        row("disk free", size(node.get("disk_free")), _limit(node, "disk_free_limit", "publishers are blocked below"))
        row("files", f"{count(node.get('fd_used'))} of {count(node.get('fd_total'))}")
    for at, where in enumerate(overview.get("listeners") or []):
        name = _PROTOCOLS.get(where["protocol"], where["protocol"])
        row("listens" if at == 0 else "", f"{_place(where):<22}{dim(name)}")
    click.echo()


def _limit(node: dict[str, Any], field: str, words: str) -> str:
    limit = node.get(field)
    if not isinstance(limit, int | float) or limit <= 0:
        return click.style("no limit", dim=True)
    return click.style(f"{words} {size(limit)}", dim=True)


def _place(where: dict[str, Any]) -> str:
    address = str(where.get("ip_address") or "")
    return f"[{address}]:{where['port']}" if ":" in address else f"{address}:{where['port']}"
