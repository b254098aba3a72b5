"""`make demo`: a settlement system on a bad day. Workers die and hang, the broker is killed, entries are poison;
in the end every entry is settled exactly once.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pika
from rich.console import Console

from ledger import REPEATED, SETTLED, Ledger
from producer import example_entries
from redrive import dead_letters
from stage import HERE, Broker, Child
from topology import DEAD_QUEUE, DELIVERY_LIMIT, LEASE_MS, QUEUE, declare
from view import Figures, Row, View, WorkerFigures, print_result

WORKERS = 4
PHASE_SECONDS_MAX = 90.0
"""What takes longer than this will not happen any more: go on, and let the result show what is missing."""


class Stalled(Exception):
    """Something that the story waits for has not happened."""


class Demo:
    """The processes and what is known of them. `target_seconds` sets the pace: how long the entries should take."""

    def __init__(self, directory: Path, entries: int, lease_ms: int, target_seconds: float, view: View) -> None:
        self.directory = directory
        self.entries = entries
        self.lease_ms = lease_ms
        self.view = view
        self.broker = Broker(directory)
        self.ledger = Ledger(directory / "ledger.db")
        self.producer: Child | None = None
        self.workers: dict[Child, int] = {}  # → its release
        self.started = time.monotonic()
        # The producer is a little faster than the workers, so that there is always something in the queue.
        self.pause_ms = 1000 * target_seconds / entries * 0.85
        self.work_ms = 1000 * target_seconds / entries * WORKERS
        # What a worker holds must be done well within the lease, however few and long the entries are.
        self.prefetch = max(1, min(50, int(lease_ms / self.work_ms / 10)))

    def start_producer(self) -> None:
        arguments = ["--entries", str(self.entries), "--pause-ms", str(self.pause_ms)]
        self.producer = Child(
            "producer", [str(HERE / "producer.py"), self.broker.url, *arguments], self.directory
        )

    def start_worker(self, release: int = 1) -> Child:
        name = f"worker-{len(self.workers) + 1}"
        options = {"name": name, "release": release, "prefetch": self.prefetch, "work-ms": self.work_ms}
        arguments = [f"--{option}={value}" for option, value in options.items()]
        program = [str(HERE / "worker.py"), self.broker.url, str(self.directory / "ledger.db")]
        worker = Child(name, program + arguments, self.directory)
        self.workers[worker] = release
        return worker

    def event(self, text: str) -> None:
        self.look()
        self.view.event(text)

    def look(self) -> Figures:
        """Brings the figures up to date. Nothing here but what any client could find out."""
        now = self.view.figures
        now.seconds = time.monotonic() - self.started
        if self.producer is not None and self.producer.lines:
            now.published, now.resent = map(int, self.producer.lines[-1].split())
        workers = {w.name: WorkerFigures(w.name, w.state, release) for w, release in self.workers.items()}
        for (name, outcome, redelivered), count in self.ledger.attempts().items():
            worker = workers[name]
            worker.settled += count if outcome == SETTLED else 0
            worker.repeated += count if outcome == REPEATED else 0
            worker.failed += count if outcome not in (SETTLED, REPEATED) else 0
            worker.redelivered += count if redelivered else 0
        now.workers = list(workers.values())
        now.settled = sum(worker.settled for worker in now.workers)
        waiting = self.broker.waiting()
        now.broker_up = waiting is not None
        if waiting is not None:
            now.ready, now.dead = waiting[QUEUE], waiting[DEAD_QUEUE]
        return now

    def repeated_by(self, worker: Child) -> int:
        return next(w.repeated for w in self.look().workers if w.name == worker.name)

    def until(self, happened: Callable[[Figures], bool], what: str) -> None:
        """Waits, watching, until it has happened."""
        deadline = time.monotonic() + PHASE_SECONDS_MAX
        while not happened(self.look()):
            if time.monotonic() > deadline:
                raise Stalled(what)
            assert self.producer is not None
            for child in (self.producer, *self.workers):
                if child.state == "working" and child.process.poll() not in (None, 0):
                    raise Stalled(f"{child.name} ended by itself: see its log in {self.directory}")
            time.sleep(0.1)

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.1)

    def close(self) -> None:
        for child in (*self.workers, self.producer):
            if child is not None:
                child.stop()
        self.broker.stop()


def bad_day(demo: Demo, poison: int) -> None:
    """Today's release of the worker, and all that can go wrong."""
    lease = f"{demo.lease_ms / 1000:g} s"
    share = demo.entries / 100
    seconds = demo.broker.start()
    with pika.BlockingConnection(pika.URLParameters(demo.broker.url)) as connection:
        declare(connection.channel(), demo.lease_ms)
    demo.event(f"broker ready in {seconds:.2f} s, queues declared")
    demo.start_producer()
    victim, sleeper, *_ = [demo.start_worker() for _ in range(WORKERS)]
    demo.event(f"producer sends, {WORKERS} workers compete (prefetch {demo.prefetch}, lease {lease})")

    demo.until(lambda now: now.settled >= 15 * share, "the first entries are settled")
    victim.kill()
    fresh = demo.start_worker()
    demo.event(f"[red]{victim.name} killed[/] with entries in hand; {fresh.name} takes its place")

    demo.until(lambda now: now.settled >= 30 * share, "a third is settled")
    sleeper.hang(demo.ledger)
    demo.event(f"[yellow]{sleeper.name} hangs[/] with entries in hand; its connection stays open")
    demo.pause(demo.lease_ms / 1000 + 0.7)
    before = demo.repeated_by(sleeper)
    sleeper.wake()
    demo.until(lambda now: demo.repeated_by(sleeper) > before, "the worker that hung goes on")
    demo.pause(0.3)
    late, connections = demo.repeated_by(sleeper) - before, sleeper.lines.count("connected")
    kept = (
        "its channel lives on" if connections == 1 else f"[bold red]it had to connect {connections} times[/]"
    )
    demo.event(
        f"{sleeper.name} wakes: {late} entries were settled by others meanwhile, late acks ignored, {kept}"
    )

    demo.until(lambda now: now.published >= 60 * share, "most is published")
    demo.broker.kill()
    demo.event("[red]broker killed[/] with -9; producer and workers keep trying")
    demo.pause(0.5)
    seconds = demo.broker.start()
    now = demo.look()
    demo.event(
        f"broker is back after {seconds:.2f} s on the same data: {now.ready:,} entries wait, {now.dead:,} are dead"
    )

    demo.until(
        lambda now: (
            now.published == demo.entries and now.settled >= demo.entries - poison and now.dead >= poison
        ),
        "all is settled but the poison",
    )
    demo.event(f"all settled but the poison: {demo.view.figures.dead:,} dead letters")


def bug_fix(demo: Demo) -> tuple[dict[str, str], int]:
    """The next release of the worker, and another chance for the dead letters. Returns entry → reason, and
    how many were redriven."""
    dead = dict(dead_letters(demo.broker.url, redrive=False))
    for reason, count in Counter(dead.values()).items():
        demo.event(
            f"dead letters, reason [bold]{reason}[/]: {count}, the first is {min(e for e in dead if dead[e] == reason)}"
        )
    for worker in demo.workers:
        if worker.is_running:
            worker.stop()
    for _ in range(WORKERS):
        demo.start_worker(release=2)
    demo.event("[green]bug fixed[/]: release 2 of the worker is out, dead letters are redriven")
    redriven = sum(1 for _ in dead_letters(demo.broker.url, redrive=True))
    demo.until(lambda now: now.settled >= demo.entries, "the redriven entries are settled")
    demo.until(lambda now: now.ready == 0, "the queue is empty")
    demo.pause(0.2)
    demo.event(f"all {demo.view.figures.settled:,} entries settled")
    return dead, redriven


def result(demo: Demo, dead: dict[str, str], redriven: int) -> bool:
    """Compares what is in the ledger with what was sent, and prints it. Returns whether all is right."""
    expected = {entry.id: (entry, cents) for entry, cents in example_entries(demo.entries)}
    settled, balances, attempts = demo.ledger.settled(), demo.ledger.balances(), demo.ledger.attempts()
    credited = sum(entries for _, entries in balances.values())
    now = demo.look()
    malformed = {e for e, (entry, _) in expected.items() if "," in entry.amount}
    no_rate = {e for e, (entry, _) in expected.items() if entry.currency != "EUR"}
    limit = {e for e, reason in dead.items() if reason != "rejected"}
    rows = [
        Row(
            "entries sent and confirmed",
            now.published,
            demo.entries,
            f"{now.resent} sent again, not having been confirmed",
        ),
        Row("entries settled", len(settled & expected.keys()), demo.entries),
        Row("settled twice", credited - len(settled), 0, "credits to a merchant, less entries in the ledger"),
        Row("lost", len(expected.keys() - settled), 0),
        Row("left in the queues", now.ready + now.dead, 0),
        Row(
            "redeliveries",
            sum(n for (*_, redelivered), n in attempts.items() if redelivered),
            None,
            "by death, by lease, by the broker's restart, by nack",
        ),
        Row(
            "duplicates absorbed",
            sum(n for (_, outcome, _), n in attempts.items() if outcome == REPEATED),
            None,
            "an entry came again, the ledger had it",
        ),
        Row(
            "poison: rejected", len(dead.keys() & malformed - limit), len(malformed), 'an amount like "12,50"'
        ),
        Row(
            "poison: delivery_limit",
            len(limit & no_rate),
            len(no_rate),
            f"no rate for USD, came back more than {DELIVERY_LIMIT} times",
        ),
        Row("dead without being poison", len(dead.keys() - malformed - no_rate), 0),
        Row("redriven after the bug fix", redriven, None, "and settled"),
    ]
    owed: Counter[str] = Counter()
    for entry, cents in expected.values():
        owed[entry.merchant] += cents
    accounts = []
    for merchant in sorted(owed.keys() | balances.keys()):
        cents, entries = balances.get(merchant, (0, 0))
        accounts.append((merchant, entries, cents, owed[merchant]))
    print_result(demo.view.console, rows, accounts, now.seconds)
    return all(row.is_right for row in rows) and all(cents == due for *_, cents, due in accounts)


def run(options: argparse.Namespace, directory: Path, console: Console) -> bool:
    entries = options.entries or (1_500 if options.quick else 10_000)
    lease_ms, target_seconds = (1_000, 6.0) if options.quick else (LEASE_MS, 15.0)
    figures = Figures(entries)
    dead: dict[str, str] = {}
    redriven = 0
    is_right = True
    view = View(console, figures, options.plain or not console.is_terminal)
    demo = Demo(directory, entries, lease_ms, target_seconds, view)
    poison = sum("," in entry.amount or entry.currency != "EUR" for entry, _ in example_entries(entries))
    try:
        with view:
            try:
                bad_day(demo, poison)
                dead, redriven = bug_fix(demo)
            except Stalled as stalled:
                is_right = False
                demo.event(f"[bold red]waited in vain[/] until {stalled}")
        return result(demo, dead, redriven) and is_right
    finally:
        demo.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, help="how many; 10,000 if not said otherwise")
    parser.add_argument("--quick", action="store_true", help="fewer entries, a shorter lease")
    parser.add_argument("--plain", action="store_true", help="no live display, one line for each event")
    parser.add_argument("--keep", action="store_true", help="keep the ledger, the broker's data and the logs")
    options = parser.parse_args()
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # that the broker is away is told by the display
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended too
    console = Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="settlement-"))
    is_right = False
    try:
        is_right = run(options, directory, console)
    except KeyboardInterrupt:
        console.print("stopped")
        raise SystemExit(130) from None
    finally:
        if options.keep or not is_right:
            console.print(f"ledger, data and logs: {directory}")
        else:
            shutil.rmtree(directory)
    if is_right:
        console.print("[bold green]Every entry was settled exactly once.[/]")
    else:
        console.print("[bold red]Something is off.[/]")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
