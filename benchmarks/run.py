"""Pabal beside RabbitMQ, or beside an older Pabal: each scenario on each broker in turn, in rounds.

python benchmarks/run.py --quick
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

import machine
from brokers import Broker, pabal, rabbitmq
from client import LoadError
from load import Outcome, run_load
from report import Facts, Run, show
from scenarios import SCENARIOS, messages_of
from spec import Load

OUR_SOURCE = Path(__file__).resolve().parent.parent / "src"
QUIET_SECONDS_MAX = 3.0
QUIET_CPU_SHARE = 0.15
WARM_UP_MESSAGES = 30_000
NOT_A_DISK = {"tmpfs", "ramfs"}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Pabal beside RabbitMQ, or beside another Pabal.")
    add = parser.add_argument
    names = [each.name for each in SCENARIOS]
    add("--scenario", action="append", choices=names, help="only this one; repeatable")
    add("--rounds", type=int, help="of each scenario and broker (3; 1 with --quick)")
    add("--messages", type=int, help="in each run, instead of each scenario's own number")
    add("--size", type=int, default=100, help="bytes of a body (100)")
    add("--quick", action="store_true", help="a quarter of the messages, one round")
    add("--against", type=Path, metavar="DIR", help='another Pabal, as "base": its src, or its checkout')
    add("--no-pabal", action="store_true", help="leave Pabal out")
    add("--no-rabbitmq", action="store_true", help="leave RabbitMQ out")
    add("--rabbitmq-port", type=int, metavar="PORT", help="use the RabbitMQ that listens there")
    add("--serve-option", action="append", default=[], metavar="TEXT", help="for `pabal serve`; repeatable")
    add("--data", type=Path, default=Path.cwd(), metavar="DIR", help="for the brokers' data: on a real disk")
    add("--json", type=Path, metavar="FILE", help="save all figures")
    return parser.parse_args()


@contextlib.contextmanager
def _brokers(options: argparse.Namespace, console: Console) -> Iterator[list[Broker]]:
    """Start all brokers that are to be had, ours first; say which are missing. They end with the context."""
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=options.data))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        candidates: list[Broker] = []
        if not options.no_pabal:
            candidates.append(pabal("Pabal", OUR_SOURCE, directory / "pabal", options.serve_option))
        if options.against:
            source = options.against / "src" if (options.against / "src").is_dir() else options.against
            candidates.append(pabal("base", source, directory / "base", options.serve_option))
        if not options.no_rabbitmq:
            found = rabbitmq(options.rabbitmq_port, directory / "rabbitmq")
            if found:
                candidates.append(found)
            else:
                console.print("RabbitMQ is not installed here: left out.", style="yellow")
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


def _try(load: Load, broker: Broker, label: str) -> Outcome:
    """Put a load on a broker.

    Raises:
        LoadError: with the broker's name and the end of its log.
    """
    try:
        return run_load(load, broker.cpu_s)
    except LoadError as error:
        raise LoadError(f"{label} on {broker.name}: {error}\n{broker.last_words()}".rstrip()) from None


def _measure(brokers: list[Broker], options: argparse.Namespace, console: Console) -> list[Run]:
    """All scenarios asked for, all rounds, the brokers in turn, after a warm-up of each."""
    scenarios = [each for each in SCENARIOS if not options.scenario or each.name in options.scenario]
    runs: list[Run] = []
    with console.status("warm-up") as status:
        for broker in brokers:
            for load in (Load(broker.port), Load(broker.port, durable=True, window=500)):
                _try(replace(load, messages=WARM_UP_MESSAGES), broker, "warm-up")
        for scenario in scenarios:
            messages = options.messages or messages_of(scenario, options.size, quick=options.quick)
            for number in range(1, options.rounds + 1):
                for broker in brokers:
                    label = f"{scenario.name}, round {number} of {options.rounds}"
                    status.update(f"{label}: {broker.name}")
                    _wait_quiet(brokers)
                    load = replace(scenario.load, port=broker.port, messages=messages, size_bytes=options.size)
                    runs.append(Run(scenario, number, broker.name, load, _try(load, broker, label)))
    return runs


def _save(file: Path, here: machine.Machine, facts: list[Facts], runs: list[Run]) -> None:
    """Write all figures as JSON."""
    content = {
        "machine": asdict(here),
        "brokers": [asdict(each) for each in facts],
        "runs": [
            {
                "scenario": each.scenario.name,
                "round": each.round,
                "broker": each.broker,
                "load": asdict(each.load),
                "outcome": asdict(each.outcome),
            }
            for each in runs
        ],
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Run what the command line asks for and print the tables."""
    options = _parse()
    options.rounds = options.rounds or (1 if options.quick else 3)
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the brokers are stopped on the way out.
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
    show(console, here, facts, runs, options.size)
    console.print(f"Took {time.monotonic() - began:.0f} s.", style="dim")
    if options.json:
        _save(options.json, here, facts, runs)


if __name__ == "__main__":
    main()
