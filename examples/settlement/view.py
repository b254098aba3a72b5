"""What the demo shows: the live display, the plain one, and the tables at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 14
STATES = {
    "working": "[green]● working[/]",
    "killed": "[red]✖ killed[/]",
    "hung": "[yellow]◌ hung[/]",
    "stopped": "[dim]○ stopped[/]",
}


@dataclass
class WorkerFigures:
    name: str
    state: str
    release: int
    settled: int = 0
    repeated: int = 0
    failed: int = 0
    redelivered: int = 0


@dataclass
class Figures:
    """Everything there is to see at one moment."""

    entries: int
    seconds: float = 0.0
    published: int = 0
    resent: int = 0
    settled: int = 0
    ready: int = 0
    dead: int = 0
    broker_up: bool = True
    workers: list[WorkerFigures] = field(default_factory=list)


@dataclass
class Row:
    """A line of the result. `expected` None: any number is right, it is only told."""

    text: str
    value: int
    expected: int | None = None
    remark: str = ""

    @property
    def is_right(self) -> bool:
        return self.expected is None or self.value == self.expected


class View:
    """Live on a terminal; with `plain`, a line for each event. Use as a context manager."""

    def __init__(self, console: Console, figures: Figures, plain: bool) -> None:
        self.console = console
        self.figures = figures
        self.plain = plain
        self.events: list[tuple[float, str]] = []
        self._live = Live(console=console, get_renderable=self._display, refresh_per_second=10)

    def __enter__(self) -> View:
        if not self.plain:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.plain:
            self._live.stop()

    def event(self, text: str) -> None:
        """Something happened now. `text` is rich markup."""
        self.events.append((self.figures.seconds, text))
        if self.plain:
            self.console.print(_event_line(self.figures.seconds, text))

    def _display(self) -> RenderableType:
        now = self.figures
        bars = Table.grid(padding=(0, 1))
        bars.add_row(
            "published", ProgressBar(now.entries, now.published, width=44), _of(now.published, now.entries)
        )
        bars.add_row(
            "settled", ProgressBar(now.entries, now.settled, width=44), _of(now.settled, now.entries)
        )
        broker = (
            STATES["working"].replace("working", "up")
            if now.broker_up
            else STATES["killed"].replace("killed", "down")
        )
        queues = Text.from_markup(
            f"broker {broker}    waiting [bold]{now.ready:,}[/]    dead letters [bold]{now.dead:,}[/]"
            f"    sent again [bold]{now.resent:,}[/]"
        )
        timeline = Text("\n").join(_event_line(*event) for event in self.events[-EVENTS_SHOWN:])
        body = Group(bars, "", queues, "", self._workers(), "", timeline)
        return Panel(
            body,
            title=f"[bold]settlement[/] {now.seconds:4.1f} s",
            box=box.ROUNDED,
            padding=(1, 2),
            width=100,
        )

    def _workers(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("worker", "", "release"):
            table.add_column(heading)
        for heading in ("settled", "had been settled", "could not settle", "of them redelivered"):
            table.add_column(heading, justify="right")
        for w in self.figures.workers:
            numbers = (w.settled, w.repeated, w.failed, w.redelivered)
            table.add_row(
                w.name,
                STATES[w.state],
                str(w.release),
                *(f"{number:,}" if number else "·" for number in numbers),
            )
        return table


def print_result(
    console: Console, rows: list[Row], balances: list[tuple[str, int, int, int]], seconds: float
) -> None:
    """The tables at the end. `balances`: merchant, entries, cents in the ledger, cents expected."""
    result = Table(
        box=box.SIMPLE_HEAD, title=f"Result, after {seconds:.1f} s", title_style="bold", title_justify="left"
    )
    result.add_column("")
    result.add_column("")
    result.add_column("", justify="right")
    result.add_column("", style="dim")
    for row in rows:
        mark = " " if row.expected is None else _mark(row.is_right)
        remark = row.remark if row.is_right else f"expected {row.expected:,}  {row.remark}"
        result.add_row(mark, row.text, f"[bold]{row.value:,}[/]", remark)
    table = Table(box=box.SIMPLE_HEAD, title="Balances", title_style="bold", title_justify="left")
    table.add_column("")
    table.add_column("merchant")
    for heading in ("entries", "ledger, EUR", "expected, EUR"):
        table.add_column(heading, justify="right")
    for merchant, entries, cents, expected in balances:
        table.add_row(_mark(cents == expected), merchant, f"{entries:,}", _euro(cents), _euro(expected))
    console.print()
    console.print(result)
    console.print(table)


def _event_line(seconds: float, text: str) -> Text:
    return Text.from_markup(f"[dim]{seconds:5.1f} s[/]  {text}")


def _mark(is_right: bool) -> str:
    return "[green]✔[/]" if is_right else "[bold red]✘[/]"


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _euro(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"
