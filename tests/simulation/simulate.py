"""Seeded simulation of the whole broker below its sockets: random clients, random crashes, the same promises.

    python tests/simulation/simulate.py --cycles 10000 --seed 1

A run is one disk that lives through some crashes, made of one seed; a failure prints that seed and what happened
in its run, step by step. `--run SEED` repeats one run and prints its steps.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from typing import NamedTuple
from unittest.mock import patch

from simulated_copies import Violation
from simulated_run import Run
from simulated_world import limits

import pabal.broker.waiting
from pabal.store.memory import MemoryStore

CYCLES_A_RUN = 10
STEPS = (10, 25, 50, 120)


class Failure(Exception):
    """A run that broke a promise. `seed` repeats it; `steps` is what happened."""

    def __init__(self, seed: int, steps: list[str], reason: str) -> None:
        super().__init__(f"run {seed}: {reason}")
        self.seed = seed
        self.steps = steps


def run(
    seed: int, cycles: int = CYCLES_A_RUN, store_class: type[MemoryStore] = MemoryStore, trace: bool = False
) -> Run:
    """One run. Failure when a promise is broken or the broker raises."""
    chance = random.Random(~seed)
    settings = {
        "WINDOW_MESSAGES_STORED": chance.choice((1, 2, 3, 5, 1000)),
        "WINDOW_MESSAGES_TRANSIENT": chance.choice((1, 3, 1000)),
        "LOAD_MESSAGES_MAX": chance.choice((1, 2, 4)),
        "DISPATCH_MESSAGES_MAX": chance.choice((1, 2, 4, 1000)),
        "TIMER_MESSAGES_MAX": chance.choice((1, 2, 1000)),
        "DEAD_LETTER_RETRY_MS": 30,
        "_FIRST_LOAD_SHARE": 1,
        "DISPATCH_BYTES_MAX": chance.choice((1, 2000, 10**6)),
        "TURN_DISPATCH_BYTES_MAX": chance.choice((1, 2000, 10**6)),
        "RETURN_MESSAGES_MAX": random.Random(seed + 2).choice((1, 2, 1000)),
    }
    current: Run | None = None
    with limits(**settings), patch.object(pabal.broker.waiting, "WINDOW_MESSAGES_STORED", 1000):
        try:
            current = Run(seed, store_class, trace)
            current.set_up(everything=True)
            for _ in range(cycles):
                current.live(chance.choice(STEPS))
                if chance.random() < 0.2:
                    current.rest()
                current.crash()
            current.live(chance.choice(STEPS))
            current.rest()
            current.drain()
        except Exception as error:
            if not trace:
                run(seed, cycles, store_class, trace=True)
                raise AssertionError(f"run {seed} failed once and not again: {error!r}") from error
            steps = current.steps if current is not None else None
            reason = str(error) if isinstance(error, Violation) else traceback.format_exc()
            raise Failure(seed, [*(steps or []), str(settings)], reason) from error
    return current


class Counts(NamedTuple):
    """What happened in some runs. `committed`: transactions, each with tx.commit-ok."""

    crashes: int
    confirmed: int
    delivered: int
    committed: int


def run_many(seed: int, cycles: int, store_class: type[MemoryStore] = MemoryStore) -> Counts:
    """Runs with seeds from `seed` on until there were `cycles` crashes."""
    crashes = confirmed = delivered = committed = 0
    while crashes < cycles:
        done = run(seed, min(CYCLES_A_RUN, cycles - crashes), store_class)
        crashes += min(CYCLES_A_RUN, cycles - crashes)
        confirmed += done.ledger.confirmed_count
        delivered += done.ledger.delivered_count
        committed += done.ledger.transactions.answered_count
        seed += 1
    return Counts(crashes, confirmed, delivered, committed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=10_000, help="crashes in all")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; chosen when not given")
    parser.add_argument("--run", type=int, default=None, help="repeat this run and print its steps")
    options = parser.parse_args()
    if options.run is not None:
        try:
            print("\n".join(run(options.run, trace=True).steps or []))
        except Failure as failure:
            return report(failure)
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    print(f"seed {seed}, {options.cycles} cycles", flush=True)
    started = time.monotonic()
    try:
        crashes, confirmed, delivered, committed = run_many(seed, options.cycles)
    except Failure as failure:
        return report(failure)
    seconds = time.monotonic() - started
    what = f"{crashes} crashes, {confirmed} confirms, {committed} transactions, {delivered} deliveries"
    print(f"{what} in {seconds:.1f} s: no promise broken")
    return 0


def report(failure: Failure) -> int:
    print("\n".join(failure.steps))
    print(failure)
    print(f"again: {sys.argv[0]} --run {failure.seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
