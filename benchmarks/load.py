"""A load generator for AMQP 0-9-1 brokers: publishers and consumers in processes of their own, one result.

    python benchmarks/load.py --port 5672 --durable --window 500

As a library: `run_load(Load(port=5672))`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import sys
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from client import Connection, LoadError
from consumer import consume
from publisher import publish
from spec import STAMP_BYTES, Gate, Load, Report

SLOWEST_PER_S = 1_500
"""A broker that does fewer messages a second than this runs into the deadline."""

Task = Callable[[Load, str, Gate], Report]
CpuClock = Callable[[], float | None]

_run_number = itertools.count(1)
_forking = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a latency in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(slots=True)
class Outcome:
    """What came of a load.

    Attributes:
        per_s: messages a second; of "both" at once, or of "publish" and "drain" for a backlog.
        broker_us: the broker's CPU time in µs per message, same keys; empty when not known.
        publisher_us, consumer_us: the generator's own CPU time in µs per message.
        end_to_end, confirm: latencies; None when not measured.
    """

    per_s: dict[str, float] = field(default_factory=dict)
    broker_us: dict[str, float] = field(default_factory=dict)
    publisher_us: float = 0.0
    consumer_us: float = 0.0
    end_to_end: Latency | None = None
    confirm: Latency | None = None


class Crew:
    """Workers of one kind, one for each queue, started, connected and waiting to begin."""

    def __init__(self, task: Task, load: Load, queues: list[str]) -> None:
        self.pipes: list[Pipe] = []
        self._processes: list[BaseProcess] = []
        for queue in queues:
            ours, theirs = _forking.Pipe()
            process = _forking.Process(target=_work, args=(task, load, queue, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self._processes.append(process)

    def go(self) -> None:
        """Let all of them begin."""
        for pipe in self.pipes:
            pipe.send("go")

    def stop(self) -> None:
        """End all of them, now if they have not ended."""
        for process, pipe in zip(self._processes, self.pipes, strict=True):
            pipe.close()
            process.join(0.3)
            if process.is_alive():
                process.kill()
                process.join()


def _work(task: Task, load: Load, queue: str, pipe: Pipe) -> None:
    """A worker process: reports "ready", then a `Report`, or else what went wrong as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent gets it too, and ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def gate() -> None:
        pipe.send("ready")
        pipe.recv()

    answer: Report | LoadError
    try:
        answer = task(load, queue, gate)
    except LoadError as error:
        answer = LoadError(f"{task.__name__} {queue}: {error}")
    except EOFError:
        return  # The parent has given up.
    except Exception:
        answer = LoadError(f"{task.__name__} {queue}:\n{traceback.format_exc()}")
    with contextlib.suppress(OSError):
        pipe.send(answer)


def _collect(pipes: list[Pipe], deadline: float) -> list[Any]:
    """Wait for one answer of each worker; the first error of any ends it.

    Args:
        pipes: to the workers.
        deadline: in seconds of the monotonic clock.
    """
    answers: dict[Pipe, Any] = {}
    while len(answers) < len(pipes):
        waiting = [pipe for pipe in pipes if pipe not in answers]
        for pipe in multiprocessing.connection.wait(waiting, max(0.0, deadline - time.monotonic())):
            assert isinstance(pipe, Pipe)
            try:
                answer = pipe.recv()
            except EOFError:
                raise LoadError("a worker process died") from None
            if isinstance(answer, LoadError):
                raise answer
            answers[pipe] = answer
        if time.monotonic() >= deadline:
            raise LoadError(f"deadline passed with {len(pipes) - len(answers)} workers at it still")
    return [answers[pipe] for pipe in pipes]


@contextlib.contextmanager
def _queues(load: Load) -> Iterator[list[str]]:
    """Fresh, empty queues; deleted at the end. A queue that is not empty after a good run is an error."""
    number = next(_run_number)
    names = [f"bench.{os.getpid()}.{number}.{each}" for each in range(load.queues)]
    control = Connection(load.port)
    try:
        for name in names:
            control.declare(name, durable=load.durable)
            control.purge(name)
        yield names
        for name in names:
            patience = time.monotonic() + 2.0
            while left := control.declare(name, passive=True):
                if time.monotonic() > patience:
                    raise LoadError(f"{left} messages are left in {name} after all were consumed")
                time.sleep(0.02)
        for name in names:
            control.delete(name)
        control.close()
    except BaseException:
        with contextlib.suppress(LoadError):
            for name in names:
                control.delete(name)
        control.sock.close()
        raise


def run_load(load: Load, cpu_clock: CpuClock = lambda: None) -> Outcome:
    """Put a load on a broker.

    Args:
        load: what to send.
        cpu_clock: the CPU seconds that the broker has used so far, or None when not known.

    Raises:
        LoadError: the broker refused, lost or multiplied something, or took too long.
    """
    if load.rate_per_s and load.size_bytes < STAMP_BYTES:
        raise LoadError(f"latency needs bodies of {STAMP_BYTES} bytes or more, for their time stamp")
    if load.rate_per_s and load.mixed:
        raise LoadError("latency needs bodies of one size")
    if load.messages_each < 1 or load.size_bytes < 1:
        raise LoadError("a load needs at least one message for each queue and one byte in it")
    outcome = Outcome()
    with _queues(load) as queues:
        if load.backlog:
            (published,) = _run_phase("publish", [publish], load, queues, outcome, cpu_clock)
            (consumed,) = _run_phase("drain", [consume], load, queues, outcome, cpu_clock)
        else:
            consumed, published = _run_phase("both", [consume, publish], load, queues, outcome, cpu_clock)
    messages = load.messages_each * load.queues
    outcome.publisher_us = sum(each.cpu_ns for each in published) / messages / 1000
    outcome.consumer_us = sum(each.cpu_ns for each in consumed) / messages / 1000
    outcome.confirm = _latency(published)
    outcome.end_to_end = _latency(consumed)
    return outcome


def _run_phase(
    name: str, tasks: list[Task], load: Load, queues: list[str], outcome: Outcome, cpu_clock: CpuClock
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
        _collect(pipes, deadline)
        cpu_before_s = cpu_clock()
        for crew in crews[:-1]:
            crew.go()
            time.sleep(0.1)  # Consumers are to be subscribed before the first message comes.
        crews[-1].go()
        reports: list[Report] = _collect(pipes, deadline)
        cpu_after_s = cpu_clock()
    finally:
        for crew in crews:
            crew.stop()
    by_task = [reports[at : at + len(queues)] for at in range(0, len(reports), len(queues))]
    began_ns = min(each.started_ns for each in by_task[-1])
    outcome.per_s[name] = messages / (max(each.ended_ns for each in reports) - began_ns) * 1e9
    if cpu_before_s is not None and cpu_after_s is not None:
        outcome.broker_us[name] = (cpu_after_s - cpu_before_s) / messages * 1e6
    return by_task


def _latency(reports: list[Report]) -> Latency | None:
    """Percentiles over all messages of all workers."""
    latencies_ns: array[int] = array("q")
    for each in reports:
        latencies_ns.extend(each.latencies_ns)
    if len(latencies_ns) < 2:
        return None
    percentiles = statistics.quantiles(latencies_ns, n=100)
    return Latency(percentiles[49] / 1e6, percentiles[98] / 1e6, max(latencies_ns) / 1e6)


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
    )
    return load, options.json


def main() -> None:
    """Run one load as the command line says and print what came of it."""
    load, as_json = _parse()
    try:
        outcome = run_load(load)
    except LoadError as error:
        sys.exit(f"load: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if as_json:
        print(json.dumps({"load": asdict(load), "outcome": asdict(outcome)}, indent=2))
        return
    for name, per_s in outcome.per_s.items():
        print(f"{name:8} {per_s:12,.0f} messages/s")
    publisher_us, consumer_us = outcome.publisher_us, outcome.consumer_us
    print(f"cost     publisher {publisher_us:.2f} µs, consumer {consumer_us:.2f} µs CPU a message")
    for name, latency in (("latency", outcome.end_to_end), ("confirm", outcome.confirm)):
        if latency:
            print(f"{name:8} p50 {latency.p50_ms:.2f}  p99 {latency.p99_ms:.2f}  max {latency.max_ms:.2f} ms")


if __name__ == "__main__":
    main()
