"""What the demo shows: the live display, the plain one, and the tables at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
        bars = Table.grid(padding=(0, 2))
        for name, part in (("published", now.published), ("settled", now.settled)):
            bars.add_row(name, ProgressBar(now.entries, part, width=60), f"{part:,} of {now.entries:,}")
        broker = "[green]● up[/]" if now.broker_up else "[red]✖ down[/]"
        queues = Text.from_markup(
            f"broker {broker}    waiting [bold]{now.ready:,}[/]    dead letters [bold]{now.dead:,}[/]"
        )
        latest = max((worker.release for worker in now.workers), default=1)
        workers = [worker for worker in now.workers if worker.release == latest]
        # On a low terminal rather drop the oldest events than have the newest cut off.
        room = max(3, self.console.height - len(workers) - 12)
        timeline = Text("\n").join(_event_line(*event) for event in self.events[-room:])
        return Panel(
            Group(bars, "", queues, "", _workers_table(workers), "", timeline),
            title=f"[bold]settlement[/]  {now.seconds:.1f} s",
            padding=(1, 2),
            width=min(100, self.console.width),
        )


def _workers_table(workers: list[WorkerFigures]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("worker", "state", "release"):
        table.add_column(heading)
    for heading in ("settled", "were settled", "not settled", "redelivered"):
        table.add_column(heading, justify="right")
    for w in workers:
        numbers = (f"{number:,}" if number else "·" for number in (w.settled, w.repeated, w.failed, w.redelivered))
        table.add_row(w.name, STATES[w.state], str(w.release), *numbers)
    return table


def print_result(
    console: Console, rows: list[Row], balances: list[tuple[str, int, int, int]], seconds: float
) -> None:
    """The tables at the end. `balances`: merchant, entries, cents in the ledger, cents expected."""
    result = Table(box=None, show_header=False, padding=(0, 1))
    result.add_column()
    result.add_column()
    result.add_column(justify="right", style="bold")
    result.add_column(style="dim")
    for row in rows:
        mark = " " if row.expected is None else _mark(row.is_right)
        remark = row.remark if row.is_right else f"[red]expected {row.expected:,}[/]"
        result.add_row(mark, row.text, f"{row.value:,}", remark)
    accounts = Table(box=None, padding=(0, 1), header_style="dim")
    accounts.add_column()
    accounts.add_column("merchant", min_width=31)
    for heading in ("entries", "in the ledger, EUR", "owed, EUR"):
        accounts.add_column(heading, justify="right", min_width=12)
    for merchant, entries, cents, owed in balances:
        accounts.add_row(_mark(cents == owed), merchant, f"{entries:,}", _euro(cents), _euro(owed))
    console.print(f"\n[bold]The result, after {seconds:.1f} s[/]\n")
    console.print(result)
    console.print()
    console.print(accounts)
    console.print()


def _event_line(seconds: float, text: str) -> Text:
    return Text.from_markup(f"[dim]{seconds:5.1f} s[/]  {text}")


def _mark(is_right: bool) -> str:
    return "[green]✔[/]" if is_right else "[bold red]✘[/]"


def _euro(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"
