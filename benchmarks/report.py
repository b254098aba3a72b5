"""What the figures look like: tables for a terminal, medians over rounds, ratios round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from brokers import Broker
from machine import Machine
from outcome import Outcome, median

NOTHING = Text("–", style="dim")
Value = Callable[[Outcome], float | None]


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, once, on one broker. Rounds count from 1."""

    scenario: str
    round: int
    broker: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a broker apart from its runs. Sizes in bytes; None where not known."""

    name: str
    version: str
    form: str
    startup_s: float | None
    idle_bytes: int | None
    peak_bytes: int | None

    @classmethod
    def of(cls, broker: Broker) -> Facts:
        """Ask a broker that is still running."""
        usage = broker.usage()
        peak_bytes = max(broker.peak_bytes, usage.peak_bytes) if usage else None
        return cls(broker.name, broker.version, broker.form, broker.startup_s, broker.idle_bytes, peak_bytes)


class Report:
    """Prints all tables.

    Args:
        console: where to.
        facts: of each broker; the first is the one that the others are compared to.
        runs: all of them.

    Attributes:
        markdown: the same once more, for a page.
    """

    def __init__(self, console: Console, facts: list[Facts], runs: list[Run]) -> None:
        self._console = console
        self._facts = facts
        self._names = [each.name for each in facts]
        self._runs = runs
        self.markdown = ""

    def show(self, machine: Machine, size_bytes: int) -> None:
        """Print what there is.

        Args:
            machine: where it ran.
            size_bytes: of the bodies, where a scenario does not say otherwise.
        """
        rounds = max((run.round for run in self._runs), default=1)
        self._console.print()
        if speeds := self._titles(lambda outcome: outcome.speeds):
            self._print(
                "Thousand messages a second · the broker's CPU µs a message · its memory at most, MB",
                f"bodies of {size_bytes} bytes, median of {rounds} {'rounds' if rounds > 1 else 'round'}",
                self._speed_table(speeds),
            )
        if latencies := self._titles(lambda outcome: outcome.latencies):
            detail = "median of the rounds; of the maximum, the highest"
            self._print("Latency in ms: p50 · p99 · p99.9 · max", detail, self._latency_table(latencies))
        others = self._titles(lambda outcome: outcome.figures)
        self._print("Other figures", "median of the rounds", self._other_table(others))
        for line in (_machine_line(machine), self._cost_line(), ", ".join(map(_version_line, self._facts))):
            self._console.print(Text(line, style="dim"))
            self.markdown += f"{line}\n"

    def _print(self, title: str, detail: str, table: Table) -> None:
        self._console.print(Text(title, style="bold"))
        self._console.print(Text(detail, style="dim"))
        self._console.print(table)
        self.markdown += f"{title} ({detail}):\n\n{_markdown(table)}\n"

    def _titles(self, rows: Callable[[Outcome], Mapping[str, object]]) -> list[str]:
        """Titles of rows in the order in which they first came."""
        return list(dict.fromkeys(title for run in self._runs for title in rows(run.outcome)))

    def _values(self, broker: str, value: Value) -> list[float]:
        """A figure of each round that has it, in the order of rounds."""
        found = [value(run.outcome) for run in self._runs if run.broker == broker]
        return [each for each in found if each is not None]

    def _speed_table(self, titles: list[str]) -> Table:
        table = _table()
        for name in self._names:
            table.add_column(name, justify="right", style="bold" if name == self._names[0] else "", no_wrap=True)
            table.add_column("µs", justify="right", style="dim", no_wrap=True)
            table.add_column("MB", justify="right", style="dim", no_wrap=True)
        for name in self._names[1:]:
            table.add_column(f"vs {name}", justify="right", no_wrap=True)
        for title in titles:
            speeds = {name: self._values(name, _speed(title)) for name in self._names}
            cells: list[str | Text] = []
            for name in self._names:
                cells.append(_spread([each / 1000 for each in speeds[name]]))
                cells.append(_number(self._values(name, _broker_cost(title))))
                cells.append(_number(self._values(name, _peak_of(title))))
            cells += [_ratio(speeds[self._names[0]], speeds[name]) for name in self._names[1:]]
            table.add_row(title, *cells)
        return table

    def _latency_table(self, titles: list[str]) -> Table:
        table = _table()
        for each in self._facts:
            table.add_column(each.name, justify="right", style="bold" if each is self._facts[0] else "", no_wrap=True)
        section = ""
        for title in titles:
            before, _, _ = title.partition(":")
            if section and before != section:
                table.add_section()
            section = before
            table.add_row(title, *(self._latency(name, title) for name in self._names))
        return table

    def _latency(self, broker: str, title: str) -> Text:
        runs = [run.outcome.latencies for run in self._runs if run.broker == broker]
        found = [each[title] for each in runs if title in each]
        if not found:
            return NOTHING
        parts = [
            statistics.median(each.p50_ms for each in found),
            statistics.median(each.p99_ms for each in found),
            statistics.median(each.p999_ms for each in found),
            max(each.max_ms for each in found),
        ]
        return Text(" · ".join(f"{each:.2f}" if each < 100 else f"{each:,.0f}" for each in parts))

    def _other_table(self, titles: list[str]) -> Table:
        table = _table()
        for each in self._facts:
            table.add_column(each.name, justify="right", style="bold" if each is self._facts[0] else "", no_wrap=True)
        rows: list[tuple[str, Callable[[Facts], float | None]]] = [
            ("ready for a client after, s", lambda each: each.startup_s),
            ("memory when idle, MB", lambda each: _megabytes(each.idle_bytes)),
            ("memory at most, MB", lambda each: _megabytes(each.peak_bytes)),
        ]
        for title, value in rows:
            known = [value(each) for each in self._facts]
            table.add_row(title, *(_number([] if each is None else [each]) for each in known))
        section = ""
        for title in titles:
            before, _, _ = title.partition(":")
            if before != section:
                table.add_section()
            section = before
            table.add_row(title, *(_number(self._values(name, _figure(title))) for name in self._names))
        return table

    def _cost_line(self) -> str:
        publisher = median(run.outcome.publisher_us for run in self._runs)
        consumer = median(run.outcome.consumer_us for run in self._runs)
        if publisher is None or consumer is None:
            return ""
        return f"The generator took {publisher:.2f} µs CPU to publish a message and {consumer:.2f} to consume it."


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    return table


def _markdown(table: Table) -> str:
    rows = [[str(column.header) for column in table.columns]]
    rows += [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]
    rows.insert(1, ["---"] * len(table.columns))
    return "".join(f"| {' | '.join(cell.strip() for cell in row)} |\n" for row in rows)


def _machine_line(machine: Machine) -> str:
    return (
        f"{machine.cores} cores ({machine.processor}), {machine.system}, {machine.python}, "
        f"fdatasync of 4 KiB {machine.fsync_ms:.2f} ms on {machine.filesystem}, "
        f"load average before {machine.load_average:.1f}"
    )


def _version_line(facts: Facts) -> str:
    return f"{facts.name} {facts.form or facts.version}"


def _speed(title: str) -> Value:
    return lambda outcome: outcome.speeds[title].per_s if title in outcome.speeds else None


def _broker_cost(title: str) -> Value:
    return lambda outcome: outcome.speeds[title].broker_us if title in outcome.speeds else None


def _peak_of(title: str) -> Value:
    return lambda outcome: _megabytes(outcome.peak_bytes) if title in outcome.speeds else None


def _figure(title: str) -> Value:
    return lambda outcome: outcome.figures.get(title)


def _ratio(ours: list[float], theirs: list[float]) -> Text:
    """Median of the rounds' ratios."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=False)]
    if not ratios:
        return NOTHING
    ratio = statistics.median(ratios)
    style = "bold green" if ratio >= 1.02 else "bold red" if ratio < 0.98 else "bold"
    return Text(f"{ratio:.2f}×", style=style)


def _spread(values: list[float]) -> Text:
    """The median, and how far the rounds lie apart in per cent of it."""
    if not values:
        return NOTHING
    middle = statistics.median(values)
    text = Text(f"{middle:.1f}" if middle >= 10 else f"{middle:.2f}")
    if len(values) > 1:
        text.append(f" ±{f'{(max(values) - min(values)) / 2 / middle:.0%}':<3}", style="not bold dim")
    return text


def _number(values: list[float]) -> Text:
    if not values:
        return NOTHING
    value = statistics.median(values)
    return Text(f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}")


def _megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6
