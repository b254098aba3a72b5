"""A load on a broker: publishers and consumers in processes of their own, one result.

    python benchmarks/load.py --port 5672 --durable --window 500

As a library: `run_load(Load(port=5672), AMQP, Titles())`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from amqp import AMQP
from crew import Crew, collect
from outcome import Outcome, Speed
from spec import Load, LoadError, Protocol, Report, Task

SLOWEST_PER_S = 1_000
"""A broker that does fewer messages a second than this runs into the deadline."""

CpuClock = Callable[[], float | None]
"""The CPU seconds that the broker has used so far, or None when not known."""


@dataclass(frozen=True, slots=True)
class Titles:
    """What the rows of a load are called: a load in one phase has `both`, a backlog the other two."""

    both: str = "both"
    publish: str = "publish"
    drain: str = "drain"


def run_load(load: Load, protocol: Protocol, titles: Titles, cpu_clock: CpuClock = lambda: None) -> Outcome:
    """Put a load on a broker.

    Raises:
        LoadError: the broker refused, lost or multiplied something, or took too long.
    """
    outcome = Outcome()
    with protocol.fresh_queues(load) as queues:

        def phase(title: str, tasks: list[Task]) -> list[list[Report]]:
            return _run_phase(title, tasks, load, queues, outcome, cpu_clock)

        if load.backlog:
            (published,) = phase(titles.publish, [protocol.publish])
            (consumed,) = phase(titles.drain, [protocol.consume])
        else:
            consumed, published = phase(titles.both, [protocol.consume, protocol.publish])
    messages = load.messages_each * load.queues
    outcome.publisher_us = sum(each.cpu_ns for each in published) / messages / 1000
    outcome.consumer_us = sum(each.cpu_ns for each in consumed) / messages / 1000
    outcome.add_latency(f"{titles.both}: end to end", consumed)
    outcome.add_latency(f"{titles.both}: confirm", published)
    return outcome


def _run_phase(
    title: str, tasks: list[Task], load: Load, queues: list[str], outcome: Outcome, cpu_clock: CpuClock
) -> list[list[Report]]:
    """Run workers on all queues at once and note the speed in `outcome`.

    The time runs from when the last of `tasks` begins until the last of all workers is done.

    Returns:
        For each task, the reports of its workers.
    """
    messages = load.messages_each * load.queues
    seconds = 30 + messages / SLOWEST_PER_S + (load.messages_each / load.rate_per_s if load.rate_per_s else 0)
    deadline = time.monotonic() + seconds
    crews: list[Crew] = []
    try:
        crews.extend(Crew(task, load, queues) for task in tasks)
        pipes = [pipe for crew in crews for pipe in crew.pipes]
        collect(pipes, deadline)
        cpu_before_s = cpu_clock()
        for crew in crews[:-1]:
            crew.go()
            time.sleep(0.1)  # Consumers are to be subscribed before the first message comes.
        crews[-1].go()
        reports: list[Report] = collect(pipes, deadline)
        cpu_after_s = cpu_clock()
    finally:
        for crew in crews:
            crew.stop()
    by_task = [reports[at : at + len(queues)] for at in range(0, len(reports), len(queues))]
    began_ns = min(each.started_ns for each in by_task[-1])
    per_s = messages / (max(each.ended_ns for each in reports) - began_ns) * 1e9
    used_s = None if cpu_before_s is None or cpu_after_s is None else cpu_after_s - cpu_before_s
    outcome.speeds[title] = Speed(per_s, None if used_s is None else used_s / messages * 1e6)
    return by_task


def _parse() -> tuple[Load, bool]:
    parser = argparse.ArgumentParser(description="Put a load on an AMQP 0-9-1 broker.")
    parser.add_argument("--port", type=int, default=5672, help="TCP port on this machine")
    parser.add_argument("--messages", type=int, default=100_000, help="in total")
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--mixed", action="store_true", help="bodies of half to one and a half times that")
    parser.add_argument("--queues", type=int, default=1, help="each with a publisher and a consumer")
    parser.add_argument("--durable", action="store_true", help="durable queues, persistent messages")
    parser.add_argument("--window", type=int, default=0, help="unconfirmed messages at once; 0: no confirms")
    parser.add_argument("--prefetch", type=int, default=1000, help="0: automatic acknowledgement")
    parser.add_argument("--backlog", action="store_true", help="publish everything first, then consume it")
    parser.add_argument("--rate", type=int, default=0, help="messages a second and queue; measures latency")
    parser.add_argument("--single-acks", action="store_true", help="an ack for each message")
    parser.add_argument("--get", action="store_true", help="fetch messages instead of having them delivered")
    parser.add_argument("--own-properties", action="store_true", help="others in each message")
    parser.add_argument("--exchange", default="", choices=("topic", "headers"), help="with 100 bindings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    load = Load(
        port=options.port,
        messages=options.messages,
        size_bytes=options.size,
        queues=options.queues,
        durable=options.durable,
        window=options.window,
        prefetch=options.prefetch,
        backlog=options.backlog,
        rate_per_s=options.rate,
        mixed=options.mixed,
        single_acks=options.single_acks,
        get=options.get,
        own_properties=options.own_properties,
        exchange=options.exchange,
    )
    return load, options.json


def main() -> None:
    """Run one load as the command line says and print what came of it."""
    try:
        load, as_json = _parse()
        outcome = run_load(load, AMQP, Titles())
    except LoadError as error:
        sys.exit(f"load: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if as_json:
        print(json.dumps({"load": asdict(load), "outcome": asdict(outcome)}, indent=2))
        return
    for name, speed in outcome.speeds.items():
        print(f"{name:8} {speed.per_s:12,.0f} messages/s")
    publisher_us, consumer_us = outcome.publisher_us, outcome.consumer_us
    print(f"cost     publisher {publisher_us:.2f} µs, consumer {consumer_us:.2f} µs CPU a message")
    for name, each in outcome.latencies.items():
        parts = f"p50 {each.p50_ms:.2f}  p99 {each.p99_ms:.2f}  p99.9 {each.p999_ms:.2f}  max {each.max_ms:.2f}"
        print(f"{name.removeprefix('both: '):10} {parts} ms")


if __name__ == "__main__":
    main()
