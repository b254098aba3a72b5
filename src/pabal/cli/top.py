"""`pabal top`: what moves, live."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import click

from pabal.cli.api import path
from pabal.cli.errors import WRONG_USAGE, CannotReach, Refused, die
from pabal.cli.layout import Column, fitted, number, style_of
from pabal.cli.options import ApiCommand, Asked, pass_asked
from pabal.cli.output import ALIASES
from pabal.cli.status import alarms_of, product_of
from pabal.cli.text import count, duration, pick, rate, size, visible

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS = [
    Column("QUEUE", "name"),
    Column("VHOST", "vhost"),
    number("READY", "messages_ready", style="green"),
    number("LEASED", "messages_unacknowledged", style="yellow"),
    number("IN/S", "message_stats.publish_details.rate", rate),
    number("OUT/S", "message_stats.deliver_get_details.rate", rate),
    number("ACK/S", "message_stats.ack_details.rate", rate),
    number("CONSUMERS", "consumers"),
    number("MEMORY", "memory", size),
]
_KEYS = {
    "n": ("name", False),
    "r": ("messages_ready", True),
    "l": ("messages_unacknowledged", True),
    "i": ("message_stats.publish_details.rate", True),
    "o": ("message_stats.deliver_get_details.rate", True),
    "a": ("message_stats.ack_details.rate", True),
    "c": ("consumers", True),
    "m": ("memory", True),
}
"""Key: the field that it sorts by, and whether the largest come first."""
_HELP = (
    "q quit   sort: n name  r ready  l leased  i in  o out  a ack  c consumers  m memory   again: reverse   ↑↓ scroll"
)
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY_MAX = 40


@click.command("top", cls=ApiCommand)
@click.option("--interval", "-i", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print it once and end: for scripts, and wherever stdout is no terminal.")
@pass_asked
def top_command(asked: Asked, interval: float, once: bool) -> None:
    """Rates, ready, leased and memory by queue, live. Keys: q quits; n r l i o a c m sort; arrows scroll."""
    view = View(asked)
    if asked.output.sort:
        view.sort_by(asked.output.sort)
    if once or asked.output.as_json or asked.output.columns or asked.output.quiet:
        _once(asked, view)
        return
    if not asked.output.terminal or not sys.stdin.isatty():
        die("`pabal top` is for a terminal; --once prints it once", WRONG_USAGE)
    _live(asked, view, interval)


def _once(asked: Asked, view: View) -> None:
    view.refresh()
    output = asked.output
    if output.as_json and not output.columns:
        output.json({"overview": view.overview, "node": view.node, "queues": view.sorted_rows()})
    elif output.terminal and not output.columns and not output.quiet:
        output.console.print(view.screen(output.console.width, len(view.rows) + 10, keys=False))
    else:
        output.sort = None
        output.table(view.sorted_rows(), COLUMNS, noun="queues", given_order=True)


class View:
    """What is shown, and what was asked last."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.overview: dict[str, Any] = {}
        self.node: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.trouble = ""
        self.field, self.descending = "messages_ready", True
        self.first = 0
        self.incoming: deque[float] = deque(maxlen=_HISTORY_MAX)
        self.outgoing: deque[float] = deque(maxlen=_HISTORY_MAX)

    def refresh(self) -> None:
        api = self._asked.api
        only = self._asked.only_vhost
        fields = ",".join(column.field for column in COLUMNS)
        self.overview = api.get("overview")
        self.rows = api.get(path("queues", only) if only else "queues", columns=fields)
        try:
            self.node = api.get(path("nodes", self.overview["node"]))
        except Refused as error:  # who does not monitor sees no node
            if error.status not in (401, 403):
                raise
        self.incoming.append(pick(self.overview, "message_stats.publish_details.rate") or 0)
        self.outgoing.append(pick(self.overview, "message_stats.deliver_get_details.rate") or 0)

    def sort_by(self, given: str) -> None:
        """A field, heading or alias, with - for the largest first."""
        name = given.removeprefix("-")
        fields = {column.title.lower(): column.field for column in COLUMNS} | ALIASES
        self.field = fields.get(name.lower(), name)
        self.descending = given.startswith("-")
        if self.field not in {column.field for column in COLUMNS}:
            die(f"--sort {name}: expected one of {', '.join(sorted(fields))}", WRONG_USAGE)

    def key(self, key: str) -> bool:
        """Does what a key stands for; False: end."""
        if key in ("q", "Q", "\x03", "\x04"):
            return False
        if key in _KEYS:
            field, descending = _KEYS[key]
            self.descending = not self.descending if field == self.field else descending
            self.field = field
            self.first = 0
        elif key in ("\x1b[A", "\x1bOA", "k"):
            self.first = max(0, self.first - 1)
        elif key in ("\x1b[B", "\x1bOB", "j"):
            self.first = min(max(0, len(self.rows) - 1), self.first + 1)
        return True

    def sorted_rows(self) -> list[dict[str, Any]]:
        def order(row: dict[str, Any]) -> Any:
            value = pick(row, self.field)
            return str(value or "") if self.field in ("name", "vhost") else value or 0

        by_name = sorted(self.rows, key=lambda row: (row.get("name", ""), row.get("vhost", "")))
        return sorted(by_name, key=order, reverse=self.descending)

    def screen(self, width: int, height: int, *, keys: bool = True) -> Group:
        from rich.console import Group
        from rich.text import Text

        head = self._head(width)
        room = max(1, height - len(head) - 2 - (1 if keys else 0))
        self.first = min(self.first, max(0, len(self.rows) - room))
        shown = self.sorted_rows()[self.first : self.first + room]
        parts: list[Any] = [*head, self._table(shown, width)]
        if keys:
            parts += [Text()] * max(0, room - len(shown))
            parts.append(Text(_HELP, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _head(self, width: int) -> list[Any]:
        from rich.text import Text

        overview, node = self.overview, self.node

        def line(*pieces: tuple[str, str] | str) -> Text:
            return Text.assemble(*pieces, no_wrap=True, overflow="ellipsis")

        def now(field: str, form: Any = count) -> str:
            return form(pick(overview, field) or 0)  # type: ignore[no-any-return]

        version = overview.get("product_version") or ""
        up = f"  up {duration(node['uptime'])}" if "uptime" in node else ""
        lines = [
            line(
                (f"{product_of(overview)} {version}", "bold"),
                (f"  {visible(str(overview.get('node', '')))}{up}", "dim"),
            ),
            line(
                ("ready  ", "dim"),
                (f"{now('queue_totals.messages_ready'):<12}", "green"),
                ("in/s  ", "dim"),
                (f"{now('message_stats.publish_details.rate', rate):>10} ", "cyan"),
                (spark(self.incoming, width - 43), "cyan"),
            ),
            line(
                ("leased ", "dim"),
                (f"{now('queue_totals.messages_unacknowledged'):<12}", "yellow"),
                ("out/s ", "dim"),
                (f"{now('message_stats.deliver_get_details.rate', rate):>10} ", "magenta"),
                (spark(self.outgoing, width - 43), "magenta"),
            ),
        ]
        clients = f"{now('object_totals.connections')} connections, {now('object_totals.consumers')} consumers"
        memory = f"memory {size(node['mem_used'])}  disk free {size(node.get('disk_free'))}  " if node else ""
        lines.append(line((memory + clients, "dim")))
        alarms = alarms_of(node)
        if self.trouble:
            lines.append(line((visible(self.trouble), "bold red")))
        elif alarms:
            lines.append(line((f"ALARM: {' and '.join(alarms)}; publishers are blocked", "bold red")))
        else:
            lines.append(Text())
        return lines

    def _table(self, rows: list[dict[str, Any]], width: int) -> Any:
        from rich.table import Table
        from rich.text import Text

        columns = COLUMNS
        if all(row.get("vhost", "/") == "/" for row in self.rows):
            columns = [column for column in COLUMNS if column.field != "vhost"]
        cells = [[visible(column.form(pick(row, column.field))) for column in columns] for row in rows]
        shown, widths = fitted(columns, cells, width, keep_all=True)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for at in shown:
            column = columns[at]
            sorted_by = column.field == self.field
            title = Text(column.title, style="bold underline" if sorted_by else "dim")
            justify: Any = "right" if column.number else "left"
            # Rates come and go: a column that keeps its width does not make the others jump.
            least = max(widths[at], 10) if column.number and sum(widths) + 40 < width else widths[at]
            table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=least)
        for row in cells:
            table.add_row(*(Text(row[at], style_of(columns[at], at, row[at]), overflow="ellipsis") for at in shown))
        return table


def spark(values: deque[float], width: int) -> str:
    """A chart of the last values, as high as the largest."""
    shown = list(values)[-max(0, width) :] if width > 0 else []
    top = max(shown, default=0)
    if top <= 0:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in shown)


def _live(asked: Asked, view: View, interval: float) -> None:
    """The screen follows the terminal's size at once, and the broker each interval."""
    from rich.live import Live

    from pabal.cli.keys import Keys

    view.refresh()  # what is wrong from the start ends it with a line and a code
    console = asked.output.console
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + interval
        while True:
            live.update(view.screen(console.width, console.height), refresh=True)
            seen = console.size
            key = keys.read(min(0.25, max(0.0, due - time.monotonic())))
            while key is None and time.monotonic() < due and console.size == seen:
                key = keys.read(min(0.25, max(0.0, due - time.monotonic())))
            if key is not None and not view.key(key):
                return
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                try:
                    view.refresh()
                    view.trouble = ""
                except (CannotReach, Refused) as error:
                    view.trouble = f"{error}; trying again"
