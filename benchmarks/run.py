"""Pabal beside its peers, or beside an older Pabal: each scenario on each broker in turn, in rounds.

python benchmarks/run.py --quick
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.console import Console

import machine
import peers
from brokers import Broker
from load import Titles, run_load
from outcome import Outcome
from report import Facts, Report, Run
from scenarios import SCENARIOS, Kept, Scale, Scenario
from spec import Load, LoadError

OUR_SOURCE = Path(__file__).resolve().parent.parent / "src"
QUIET_SECONDS_MAX = 3.0
QUIET_CPU_SHARE = 0.15
WARM_UP_MESSAGES = 30_000
NOT_A_DISK = {"tmpfs", "ramfs"}
WIDTH_MIN = 150


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Pabal beside its peers, or beside another Pabal.")
    add = parser.add_argument
    names = [each.name for each in SCENARIOS]
    add("--scenario", action="append", choices=names, metavar="NAME", help=f"only: {', '.join(names)}; repeatable")
    add("--full", action="store_true", help="also the scenarios that take long")
    add("--rounds", type=int, help="of each scenario and broker (3; 1 with --quick)")
    add("--messages", type=int, help="in each run, instead of each scenario's own number")
    add("--size", type=int, default=100, help="bytes of a body (100)")
    add("--quick", action="store_true", help="a quarter of the messages, one round")
    add("--pabal", type=Path, default=OUR_SOURCE, metavar="DIR", help="where the package pabal is (src)")
    add("--against", type=Path, metavar="DIR", help='another Pabal, as "base": where the package is, or its checkout')
    add("--no-pabal", action="store_true", help="leave Pabal out")
    add("--no-rabbitmq", action="store_true", help="leave RabbitMQ out")
    add("--no-nats", action="store_true", help="leave NATS out")
    add("--amqp", action="append", default=[], metavar="NAME=PORT", help="a broker that runs already; repeatable")
    add("--serve-option", action="append", default=[], metavar="TEXT", help="for `pabal serve`; repeatable")
    add("--data", type=Path, default=Path.cwd(), metavar="DIR", help="for the brokers' data: on a real disk")
    add("--markdown", type=Path, metavar="FILE", help="save the tables for a page")
    add("--json", type=Path, metavar="FILE", help="save all figures")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


@contextlib.contextmanager
def _brokers(options: argparse.Namespace, console: Console) -> Iterator[list[Broker]]:
    """Start all brokers that are to be had, ours first; say which are missing. They end with the context."""
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=options.data))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        candidates: list[Broker] = []
        if not options.no_pabal:
            candidates.append(peers.pabal("Pabal", options.pabal, directory / "pabal", options.serve_option))
        if options.against:
            source = options.against / "src" if (options.against / "src").is_dir() else options.against
            candidates.append(peers.pabal("base", source, directory / "base", options.serve_option))
        others: list[tuple[str, bool, Callable[[Path], Broker | None]]] = [
            ("RabbitMQ", options.no_rabbitmq, peers.rabbitmq),
            ("NATS", options.no_nats, peers.nats),
        ]
        for name, unwanted, find in others:
            found = None if unwanted else find(directory / name.lower())
            if found:
                candidates.append(found)
            elif not unwanted:
                console.print(f"{name} is not installed here: left out.", style="yellow")
        candidates += map(peers.running, options.amqp)
        for each in candidates:
            console.print(f"starting {each.name} …", style="dim")
            stack.enter_context(each)
        yield candidates


def _wait_quiet(brokers: list[Broker]) -> None:
    """Wait until no broker is busy with what the run before has left to do; not for ever."""
    patience = time.monotonic() + QUIET_SECONDS_MAX
    window_s = 0.2
    while time.monotonic() < patience:
        before = [each.cpu_s() for each in brokers]
        time.sleep(window_s)
        after = [each.cpu_s() for each in brokers]
        used = [(end or 0.0) - (begin or 0.0) for begin, end in zip(before, after, strict=True)]
        if max(used) <= QUIET_CPU_SHARE * window_s:
            return


def _try(broker: Broker, label: str, action: Callable[[], Outcome]) -> Outcome:
    """Run something on a broker, and note its memory at most meanwhile.

    Raises:
        LoadError: with the broker's name and the end of its log.
    """
    broker.forget_peak()
    try:
        outcome = action()
    except LoadError as error:
        raise LoadError(f"{label} on {broker.name}: {error}\n{broker.last_words()}".rstrip()) from None
    usage = broker.usage()
    outcome.peak_bytes = usage.peak_bytes if usage else None
    return outcome


def _warm_up(broker: Broker) -> None:
    load = Load(broker.port, WARM_UP_MESSAGES, durable=True, window=500)
    durable = replace(load, messages=int(WARM_UP_MESSAGES * broker.durable_share))
    for each in (replace(load, durable=False, window=0, prefetch=0), durable):
        _try(broker, "warm-up", partial(run_load, each, broker.protocol, Titles()))


def _chosen(options: argparse.Namespace) -> list[Scenario]:
    if options.scenario:
        return [each for each in SCENARIOS if each.name in options.scenario]
    wanted = {Kept.ALWAYS, Kept.FULL} if options.full else {Kept.ALWAYS}
    return [each for each in SCENARIOS if each.kept in wanted]


def _measure(brokers: list[Broker], options: argparse.Namespace, console: Console) -> list[Run]:
    """All scenarios asked for, all rounds, the brokers in turn, after a warm-up of each."""
    scale = Scale(options.messages, options.size, options.quick, options.data)
    runs: list[Run] = []
    with console.status("warm-up") as status:
        for broker in brokers:
            _warm_up(broker)
        for scenario in _chosen(options):
            rounds = min(options.rounds, scenario.rounds_max)
            for number in range(1, rounds + 1):
                for broker in filter(scenario.can, brokers):
                    label = f"{scenario.name}, round {number} of {rounds}"
                    status.update(f"{label}: {broker.name}")
                    _wait_quiet(brokers)
                    outcome = _try(broker, label, partial(scenario.run, broker, scale))
                    runs.append(Run(scenario.name, number, broker.name, outcome))
    return runs


def _save(file: Path, here: machine.Machine, facts: list[Facts], runs: list[Run]) -> None:
    """Write all figures as JSON."""
    content = {
        "machine": asdict(here),
        "brokers": [asdict(each) for each in facts],
        "runs": [asdict(each) for each in runs],
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Run what the command line asks for and print the tables."""
    options = _parse()
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDTH_MIN))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the brokers are stopped on the way out.
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    began = time.monotonic()
    here = machine.describe(options.data)
    if here.filesystem in NOT_A_DISK:
        console.print(f"{options.data} is in memory: durable figures mean nothing there.", style="bold red")
    try:
        with _brokers(options, console) as brokers:
            if not brokers:
                sys.exit("run: no broker to measure")
            runs = _measure(brokers, options, console)
            facts = [Facts.of(each) for each in brokers]
    except LoadError as error:
        sys.exit(f"run: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    report = Report(console, facts, runs)
    report.show(here, options.size)
    console.print(f"Took {time.monotonic() - began:.0f} s.", style="dim")
    if options.markdown:
        options.markdown.write_text(report.markdown)
    if options.json:
        _save(options.json, here, facts, runs)


if __name__ == "__main__":
    main()
