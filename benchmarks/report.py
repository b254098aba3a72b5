"""What the figures look like: tables for a terminal, medians over rounds, ratios round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from brokers import Broker
from load import Latency, Outcome
from machine import Machine
from scenarios import Scenario
from spec import Load

NOTHING = Text("–", style="dim")


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, once, on one broker. Rounds count from 1."""

    scenario: Scenario
    round: int
    broker: str
    load: Load
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a broker apart from its runs. Sizes in bytes; None where not known."""

    name: str
    version: str
    startup_s: float | None
    idle_bytes: int | None
    peak_bytes: int | None

    @classmethod
    def of(cls, broker: Broker) -> Facts:
        """Ask a broker that is still running."""
        usage = broker.usage()
        peak_bytes = usage.peak_bytes if usage else None
        return cls(broker.name, broker.version, broker.startup_s, broker.idle_bytes, peak_bytes)


def show(console: Console, machine: Machine, facts: list[Facts], runs: list[Run], size_bytes: int) -> None:
    """Print all tables.

    Args:
        console: where to.
        machine: where it ran.
        facts: of each broker; the first is the one that the others are compared to.
        runs: all of them.
        size_bytes: of the bodies.
    """
    names = [each.name for each in facts]
    console.print()
    if any(not run.scenario.is_latency for run in runs):
        rounds = max(run.round for run in runs)
        title = "Thousand messages a second · the broker's CPU µs a message"
        detail = f"bodies of {size_bytes} bytes, median of {rounds} {'rounds' if rounds > 1 else 'round'}"
        console.print(Text(title, style="bold"))
        console.print(Text(detail, style="dim"))
        console.print(_speed_table(names, runs))
    console.print(Text("Start, memory, latency", style="bold"))
    console.print(_other_table(facts, runs))
    console.print(_machine_line(machine))
    console.print(_cost_line(runs))


def _speed_table(names: list[str], runs: list[Run]) -> Table:
    table = _table()
    for name in names:
        table.add_column(name, justify="right", style="bold" if name == names[0] else "", no_wrap=True)
        table.add_column("µs", justify="right", style="dim", no_wrap=True)
    for name in names[1:]:
        table.add_column(f"vs {name}", justify="right", no_wrap=True)
    for scenario in _scenarios(runs):
        if scenario.is_latency:
            continue
        for phase, title in scenario.phases.items():
            speeds = {name: _values(runs, scenario, name, _speed(phase)) for name in names}
            costs = {name: _values(runs, scenario, name, _broker_cost(phase)) for name in names}
            cells: list[str | Text] = []
            for name in names:
                cells.append(_spread([each / 1000 for each in speeds[name]]))
                cells.append(_number(costs[name]))
            cells += [_ratio(speeds[names[0]], speeds[name]) for name in names[1:]]
            table.add_row(title, *cells)
    return table


def _other_table(facts: list[Facts], runs: list[Run]) -> Table:
    table = _table()
    for each in facts:
        table.add_column(each.name, justify="right", style="bold" if each is facts[0] else "")
    rows: list[tuple[str, Callable[[Facts], float | None]]] = [
        ("ready for a client after, s", lambda each: each.startup_s),
        ("memory when idle, MB", lambda each: _megabytes(each.idle_bytes)),
        ("memory at most, MB", lambda each: _megabytes(each.peak_bytes)),
    ]
    for title, value in rows:
        known = [value(each) for each in facts]
        table.add_row(title, *(_number([] if each is None else [each]) for each in known))
    for scenario in _scenarios(runs):
        if not scenario.is_latency:
            continue
        table.add_section()
        table.add_row(Text(f"{scenario.load.rate_per_s:,}/s, {scenario.phases['both']}", style="italic"))
        for what, kind in (("end to end", "end_to_end"), ("confirm", "confirm")):
            if kind == "end_to_end" or scenario.load.window:
                cells = [_latency(runs, scenario, each.name, kind) for each in facts]
                table.add_row(f"  {what}, ms: p50 · p99 · max", *cells)
        late = [_rate_missed(runs, scenario, each.name) for each in facts]
        if any(late):
            table.add_row("  rate reached", *(late))
    return table


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    return table


def _machine_line(machine: Machine) -> Text:
    return Text(
        f"{machine.cores} cores ({machine.processor}), {machine.system}, {machine.python}, "
        f"fdatasync of 4 KiB {machine.fsync_ms:.2f} ms on {machine.filesystem}, "
        f"load average before {machine.load_average:.1f}",
        style="dim",
    )


def _cost_line(runs: list[Run]) -> Text:
    outcomes = [run.outcome for run in runs if not run.scenario.is_latency]
    if not outcomes:
        return Text("")
    publisher = statistics.median(each.publisher_us for each in outcomes)
    consumer = statistics.median(each.consumer_us for each in outcomes)
    return Text(
        f"The generator took {publisher:.2f} µs CPU to publish a message and {consumer:.2f} to consume it.",
        style="dim",
    )


def _scenarios(runs: Iterable[Run]) -> list[Scenario]:
    return list({run.scenario.name: run.scenario for run in runs}.values())


def _values(
    runs: list[Run], scenario: Scenario, broker: str, value: Callable[[Outcome], float | None]
) -> list[float]:
    """A figure of each round, in the order of rounds; without those that are not known."""
    chosen = [run for run in runs if run.scenario is scenario and run.broker == broker]
    found = [value(run.outcome) for run in sorted(chosen, key=lambda run: run.round)]
    return [each for each in found if each is not None]


def _speed(phase: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: outcome.per_s.get(phase)


def _broker_cost(phase: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: outcome.broker_us.get(phase)


def _latency(runs: list[Run], scenario: Scenario, broker: str, kind: str) -> Text:
    def of(outcome: Outcome) -> Latency | None:
        return outcome.confirm if kind == "confirm" else outcome.end_to_end

    chosen = [run.outcome for run in runs if run.scenario is scenario and run.broker == broker]
    latencies = [latency for outcome in chosen if (latency := of(outcome))]
    if not latencies:
        return NOTHING
    p50_ms = statistics.median(each.p50_ms for each in latencies)
    p99_ms = statistics.median(each.p99_ms for each in latencies)
    max_ms = max(each.max_ms for each in latencies)
    return Text(f"{p50_ms:.2f} · {p99_ms:.2f} · {max_ms:.1f}")


def _rate_missed(runs: list[Run], scenario: Scenario, broker: str) -> str:
    """The rate when it fell short of what was asked by a twentieth or more; else empty."""
    rates = _values(runs, scenario, broker, _speed("both"))
    wanted = scenario.load.rate_per_s * scenario.load.queues
    slowest = min(rates, default=wanted)
    return f"only {slowest:,.0f}/s" if slowest < 0.95 * wanted else ""


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
    median = statistics.median(values)
    text = Text(f"{median:.1f}")
    if len(values) > 1:
        text.append(f" ±{f'{(max(values) - min(values)) / 2 / median:.0%}':<3}", style="not bold dim")
    return text


def _number(values: list[float]) -> Text:
    if not values:
        return NOTHING
    value = statistics.median(values)
    return Text(f"{value:.1f}" if value >= 10 else f"{value:.2f}")


def _megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6
