"""How answers look: tables and panels on a terminal, tab-separated lines in a pipe, JSON where asked.

A pipe gets every value whole and no heading, so that `cut` and `awk -F'\\t'` see what they expect; a terminal
gets what fits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pabal.cli.layout import Column, fitted, style_of
from pabal.cli.text import machine, pick, plain, visible

if TYPE_CHECKING:
    from rich.console import Console

ALIASES = {
    "ready": "messages_ready",
    "leased": "messages_unacknowledged",
    "in": "message_stats.publish_details.rate",
    "out": "message_stats.deliver_get_details.rate",
    "kind": "type",
}
"""Words of the headings that --sort and --columns take beside the JSON's names."""


class Output:
    """Where a command's answer goes. `json`, `quiet`, `columns` and `sort` are the shared options."""

    def __init__(self, *, json: bool, columns: Sequence[str], sort: str | None, quiet: bool) -> None:
        self.as_json = json
        self.quiet = quiet
        self.columns = [ALIASES.get(name, name) for name in columns]
        self.sort = sort
        self.terminal = sys.stdout.isatty()
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(
                highlight=False, markup=False, emoji=False, no_color=bool(os.environ.get("NO_COLOR")) or None
            )
        return self._console

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[Column],
        *,
        noun: str,
        name: str | Callable[[Mapping[str, Any]], str] = "name",
        given_order: bool = False,
    ) -> None:
        """A list. `name` is what --quiet prints of each. A vhost column that says nothing is for pipes only."""
        rows = self._sorted(rows, columns, given_order)
        if self.as_json:
            self.json([{field: pick(row, field) for field in self.columns} for row in rows] if self.columns else rows)
            return
        if self.quiet and not self.columns:
            for row in rows:
                self.line(name(row) if callable(name) else plain(pick(row, name)))
            return
        if self.columns:
            columns = [self._asked_column(field, columns) for field in self.columns]
        if not self.terminal:
            for row in rows:
                self.line("\t".join(machine(pick(row, column.field)) for column in columns))
            return
        if not rows:
            click.echo(click.style(f"no {noun}", dim=True))
            return
        if not self.columns and all(row.get("vhost", "/") == "/" for row in rows):
            columns = [column for column in columns if column.field != "vhost"]
        self._print(rows, columns)

    def show(self, thing: Mapping[str, Any], fields: Sequence[Column], *, title: str = "") -> None:
        """One object: a field a line."""
        if self.columns:
            fields = [self._asked_column(field, fields) for field in self.columns]
        if self.as_json:
            self.json({field: pick(thing, field) for field in self.columns} if self.columns else thing)
            return
        if not self.terminal:
            for field in fields:
                self.line(f"{field.field}\t{machine(pick(thing, field.field))}")
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for field in fields:
            value = pick(thing, field.field)
            text = visible(field.form(value))
            if text:
                grid.add_row(field.title, Text(text, style=field.style))
        if title:
            self.console.print(Text(visible(title), style="bold"))
        self.console.print(grid)

    def did(self, sentence: str, **result: Any) -> None:
        """After a change: a sentence for people, `result` as JSON, nothing with --quiet."""
        if self.as_json:
            self.json(result)
        elif not self.quiet:
            click.echo(visible(sentence))

    def json(self, value: Any) -> None:
        """Half characters, which some broker might send, would not encode: only then all others are escaped too."""
        text = json.dumps(value, indent=2, ensure_ascii=False)
        try:
            click.echo(text)
        except UnicodeEncodeError:
            click.echo(json.dumps(value, indent=2))

    def line(self, text: str) -> None:
        click.echo(text)

    def note(self, text: str) -> None:
        """For people, beside the answer."""
        if not self.quiet and not self.as_json:
            click.echo(click.style(visible(text), dim=True), err=True, color=None if self.terminal else False)

    def _asked_column(self, field: str, known: Sequence[Column]) -> Column:
        for column in known:
            if column.field == field:
                return column
        return Column(field.rsplit(".", 1)[-1].upper() if self.terminal else field, field)

    def _sorted(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], given_order: bool
    ) -> list[Mapping[str, Any]]:
        sort = self.sort
        if sort is None:
            if given_order:
                return list(rows)
            return sorted(rows, key=lambda row: [_order(pick(row, c.field)) for c in columns if not c.number])
        descending = sort.startswith("-")
        sort = sort.removeprefix("-")
        field = ALIASES.get(sort, sort)
        for column in columns:
            if column.title.lower() == sort.lower():
                field = column.field
        if rows and not any(pick(row, field) is not None for row in rows) and field not in {c.field for c in columns}:
            from pabal.cli.errors import WRONG_USAGE, die

            die(f"--sort {sort}: no row has such a field; --json shows what there is", WRONG_USAGE)
        return sorted(rows, key=lambda row: _order(pick(row, field)), reverse=descending)

    def _print(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        from rich.table import Table
        from rich.text import Text

        cells = [[visible(column.form(pick(row, column.field))) for column in columns] for row in rows]
        shown, widths = fitted(columns, cells, self.console.width, keep_all=bool(self.columns))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for at in shown:
            justify: Any = "right" if columns[at].number else "left"
            table.add_column(columns[at].title, justify=justify, no_wrap=True, overflow="ellipsis", width=widths[at])
        for row in cells:
            table.add_row(*(Text(row[at], style_of(columns[at], at, row[at]), overflow="ellipsis") for at in shown))
        self.console.print(table)
        left_out = [
            columns[at].title for at in range(len(columns)) if at not in shown and any(row[at] for row in cells)
        ]
        if left_out:
            self.note(f"too narrow for {', '.join(left_out)}: --columns chooses, a pipe gets all")


def _order(value: Any) -> tuple[int, Any]:
    """Numbers by size, texts without regard to case, nothing first."""
    if value is None:
        return (0, 0)
    if isinstance(value, bool | int | float):
        return (1, value)
    return (2, plain(value).casefold())


def each(rows: Iterable[Mapping[str, Any]], change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Copies of rows, with something added for the table."""
    changed = []
    for row in rows:
        copy = dict(row)
        change(copy)
        changed.append(copy)
    return changed
