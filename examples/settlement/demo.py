"""`make demo`: a settlement system on a bad day. Workers die and hang, entries are poison, the broker is
killed; in the end every entry is settled exactly once.
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
from ledger import REPEATED, SETTLED, Ledger
from producer import example_entries
from redrive import dead_letters
from rich.console import Console
from stage import HERE, Broker, Child, stop_all
from topology import DEAD_QUEUE, LEASE_MS, QUEUE, declare
from view import Figures, Row, View, WorkerFigures, print_result

WORKERS = 4
ENTRIES_MIN = 500
PHASE_SECONDS_MAX = 60.0
"""What takes longer than this will not happen any more: go on, and let the result show what is missing."""


class Stalled(Exception):
    """Something that the story waits for has not happened."""


class Demo:
    """The processes, and what is known of them. `target_seconds`: how long the entries should take."""

    def __init__(self, directory: Path, lease_ms: int, target_seconds: float, view: View) -> None:
        self.directory = directory
        self.entries = entries = view.figures.entries
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
        program = [str(HERE / "producer.py"), self.broker.url]
        arguments = [f"--entries={self.entries}", f"--pause-ms={self.pause_ms}"]
        self.producer = Child("producer", program + arguments, self.directory)

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

    def figures_of(self, worker: Child) -> WorkerFigures:
        return next(figures for figures in self.look().workers if figures.name == worker.name)

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
        stop_all([*self.workers, *([self.producer] if self.producer else [])])
        self.broker.stop()


def bad_day(demo: Demo, poison: int) -> None:
    """Today's release of the worker, and all that can go wrong."""
    share = demo.entries / 100
    seconds = demo.broker.start()
    with pika.BlockingConnection(pika.URLParameters(demo.broker.url)) as connection:
        declare(connection.channel(), demo.lease_ms)
    demo.event(f"broker ready in {seconds:.2f} s, queues declared")
    demo.start_producer()
    victim, sleeper, *_ = [demo.start_worker() for _ in range(WORKERS)]
    lease = f"{demo.lease_ms / 1000:g} s"
    demo.event(f"producer sends, {WORKERS} workers compete (prefetch {demo.prefetch}, lease {lease})")

    demo.until(lambda now: now.settled >= 15 * share, "the first entries are settled")
    victim.kill()
    fresh = demo.start_worker()
    demo.event(f"[red]{victim.name} killed[/] with entries in hand; {fresh.name} takes its place")

    demo.until(lambda now: now.settled >= 30 * share, "a third is settled")
    sleeper.hang(demo.ledger)
    demo.event(f"[yellow]{sleeper.name} hangs[/] with entries in hand; its connection stays open")
    before = demo.figures_of(sleeper).repeated
    demo.pause(demo.lease_ms / 1000 + 0.7)
    sleeper.wake()
    demo.until(lambda _: demo.figures_of(sleeper).repeated > before, "the worker that hung goes on")
    demo.pause(0.3)
    late = demo.figures_of(sleeper).repeated - before
    demo.event(f"{sleeper.name} wakes: {late} late acks ignored, others had settled those entries")
    if sleeper.lines.count("connected") != 1:
        raise Stalled(f"{sleeper.name} should have kept its connection")

    demo.until(lambda now: now.published >= 60 * share, "most is published")
    demo.broker.kill()
    demo.event("[red]broker killed[/] with -9; producer and workers keep trying")
    demo.pause(0.5)
    seconds = demo.broker.start()
    now = demo.look()
    kept = f"{now.ready:,} entries wait, {now.dead} dead letters"
    demo.event(f"broker back in {seconds:.2f} s on the same data: {kept}")

    demo.until(lambda now: now.published == demo.entries, "all is published")
    demo.until(lambda now: now.settled >= demo.entries - poison, "all but the poison is settled")
    demo.until(lambda now: now.dead >= poison, "the poison is in the dead-letter queue")
    demo.event(f"all settled but the poison: {demo.view.figures.settled:,} entries")


def bug_fix(demo: Demo) -> tuple[dict[str, str], set[str]]:
    """The next release of the worker, and another chance for the dead letters. Returns the dead letters with
    their reasons, and which ones were redriven."""
    dead = dict(dead_letters(demo.broker.url, redrive=False))
    for reason, count in Counter(dead.values()).items():
        first = min(entry for entry in dead if dead[entry] == reason)
        demo.event(f"dead letters, [bold]{reason}[/]: {count}, the first is {first}")
    stop_all(demo.workers)
    for _ in range(WORKERS):
        demo.start_worker(release=2)
    demo.event("[green]bug fixed[/]: workers of release 2 start, the dead letters are redriven")
    redriven = {entry for entry, _ in dead_letters(demo.broker.url, redrive=True)}
    demo.until(lambda now: now.settled >= demo.entries, "the redriven entries are settled")
    stop_all(demo.workers)  # what they had not acknowledged would be back in the queue now, and be seen
    demo.event(f"all {demo.look().settled:,} entries settled")
    return dead, redriven


def result(demo: Demo, dead: dict[str, str], redriven: set[str]) -> bool:
    """Compares what is in the ledger with what was sent, and prints it. Returns whether all is right."""
    expected = {entry.id: (entry, cents) for entry, cents in example_entries(demo.entries)}
    settled, balances, attempts = demo.ledger.settled(), demo.ledger.balances(), demo.ledger.attempts()
    credits = sum(entries for _, entries in balances.values())
    redelivered = sum(count for (_, _, again), count in attempts.items() if again)
    repeated = sum(count for (_, outcome, _), count in attempts.items() if outcome == REPEATED)
    malformed = {id for id, (entry, _) in expected.items() if "," in entry.amount}
    no_rate = {id for id, (entry, _) in expected.items() if entry.currency != "EUR"}
    rejected = {id for id, reason in dead.items() if reason == "rejected"}
    # The last straw for one of them may have been the worker that hung: then its reason is lease_expired.
    worn = {id for id, reason in dead.items() if reason in ("delivery_limit", "lease_expired")}
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(dead[id] for id in worn).items())
    now = demo.look()
    rows = [
        Row("entries sent and confirmed", now.published, demo.entries, f"{now.resent} of them twice"),
        Row("entries settled", len(settled & expected.keys()), demo.entries),
        Row("settled twice", credits - len(settled), 0, "credits less entries"),
        Row("lost", len(expected.keys() - settled), 0),
        Row("redeliveries", redelivered, None, "after a death, a hang, a restart, a nack"),
        Row("duplicates absorbed", repeated, None, "deliveries of what the ledger had already"),
        Row("poison, rejected at once", len(rejected & malformed), len(malformed), 'an amount like "12,50"'),
        Row("poison, came back too often", len(worn & no_rate), len(no_rate), f"no rate for USD: {reasons}"),
        Row("dead letters that are no poison", len(dead.keys() - malformed - no_rate), 0),
        Row("redriven after the bug fix", len(redriven), len(malformed | no_rate)),
        Row("left in the queues", now.ready + now.dead, 0),
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
    """The whole demo. Returns whether all was right."""
    entries = options.entries or (1_500 if options.quick else 10_000)
    lease_ms, target_seconds = (1_000, 6.0) if options.quick else (LEASE_MS, 15.0)
    poison = sum("," in entry.amount or entry.currency != "EUR" for entry, _ in example_entries(entries))
    dead: dict[str, str] = {}
    redriven: set[str] = set()
    went_well = True
    view = View(console, Figures(entries), options.plain or not console.is_terminal)
    demo = Demo(directory, lease_ms, target_seconds, view)
    try:
        with view:
            try:
                bad_day(demo, poison)
                dead, redriven = bug_fix(demo)
            except Stalled as stalled:
                went_well = False
                demo.event(f"[bold red]in vain[/]: {stalled}")
        return result(demo, dead, redriven) and went_well
    finally:
        demo.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, help="how many  [default: 10,000; with --quick 1,500]")
    parser.add_argument("--quick", action="store_true", help="fewer entries, a shorter lease")
    parser.add_argument("--plain", action="store_true", help="no live display, one line for each event")
    parser.add_argument("--keep", action="store_true", help="keep the ledger, the broker's data and the logs")
    options = parser.parse_args()
    if options.entries is not None and options.entries < ENTRIES_MIN:
        parser.error(f"--entries: fewer than {ENTRIES_MIN} are done before anything can go wrong")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # the display tells when the broker is away
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: its children are ended too
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    directory = Path(tempfile.mkdtemp(prefix="settlement-"))
    keep = True
    try:
        is_right = run(options, directory, console)
        keep = options.keep or not is_right
    except KeyboardInterrupt:
        keep = options.keep
        raise SystemExit(130) from None
    finally:
        if keep:
            console.print(f"ledger, data and logs are in {directory}")
        else:
            shutil.rmtree(directory)
    if not is_right:
        console.print("[bold red]Something is off.[/]")
        raise SystemExit(1)
    console.print("[bold green]Every entry was settled exactly once.[/]")


if __name__ == "__main__":
    main()
