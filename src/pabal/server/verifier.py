"""The thread on which passwords and tokens are checked: that takes tens of milliseconds on purpose, or the network.

Who waits is served in turn: by address, and of those from one address by the name they come with. So somebody who
tries a thousand passwords waits for himself, and whoever else logs in waits for one or two of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final, NamedTuple

from pabal.broker.access import Answer, Refused
from pabal.model.limits import (
    HANDSHAKE_SECONDS_MAX,
    LOGINS_OF_ADDRESS_WAITING_MAX,
    LOGINS_OF_ONE_WAITING_MAX,
    LOGINS_WAITING_MAX,
)

_NICE: Final = 10


class Job(NamedTuple):
    """`begun_s`: when it was put into the queue, on the monotonic clock."""

    check: Callable[[], Answer]
    done: Callable[[Answer], None]
    begun_s: float


class FairQueue:
    """Jobs by address and name. The next is of the address, and of its name, that has waited longest for a turn."""

    def __init__(self) -> None:
        self._peers: OrderedDict[str, OrderedDict[str, deque[Job]]] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, peer: str, name: str, job: Job) -> bool:
        """False: as many wait already as may, of these or of all."""
        names = self._peers.get(peer)
        jobs = names.get(name) if names else None
        if self._count >= LOGINS_WAITING_MAX or self._counts[peer] >= LOGINS_OF_ADDRESS_WAITING_MAX:
            return False
        if jobs and len(jobs) >= LOGINS_OF_ONE_WAITING_MAX:
            return False
        if names is None:
            names = self._peers[peer] = OrderedDict()
        names.setdefault(name, deque()).append(job)
        self._counts[peer] += 1
        self._count += 1
        return True

    def take(self) -> Job:
        """Of one that is not empty."""
        peer, names = self._peers.popitem(last=False)
        name, jobs = names.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            names[name] = jobs
        if names:
            self._peers[peer] = names
            self._counts[peer] -= 1
        else:
            del self._counts[peer]
        self._count -= 1
        return job


class VerifierThread:
    """See broker.access.Verifier. `call`: has the event loop call something in a turn, from any thread."""

    def __init__(self, name: str, call: Callable[[Callable[[], None]], None]) -> None:
        self._name = name
        self._call = call
        self._queue = FairQueue()
        self._changed = Condition()
        self._stopped = False
        self._thread: Thread | None = None

    def run(self, peer: str, name: str, check: Callable[[], Answer], done: Callable[[Answer], None]) -> bool:
        if self._thread is None:
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        with self._changed:
            taken = self._queue.put(peer, name, Job(check, done, time.monotonic()))
            self._changed.notify()
        return taken

    def stop(self) -> None:
        """Nobody is answered any more. The thread ends after what it is at; it is not waited for."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _work(self) -> None:
        _yield_to_others()
        while True:
            with self._changed:
                while not (len(self._queue) or self._stopped):
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._queue.take()
            answer = _answer(job)
            with self._changed:
                if not self._stopped:
                    self._answer_in_a_turn(job.done, answer)

    def _answer_in_a_turn(self, done: Callable[[Answer], None], answer: Answer) -> None:
        self._call(lambda: done(answer))


def _yield_to_others() -> None:
    """Where threads have a priority of their own (Linux), messages go before passwords. A sandbox may refuse even to
    lower it (systemd's SystemCallFilter=~@resources): then they are checked all the same."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _answer(job: Job) -> Answer:
    """An error of ours, or a password hash that cannot be used, is no reason to let somebody in, or to stop."""
    if time.monotonic() - job.begun_s > HANDSHAKE_SECONDS_MAX:
        return Refused("waited too long: nobody is there for it any more")
    try:
        return job.check()
    except Exception as error:
        logging.getLogger("pabal").error("somebody could not be authenticated", exc_info=error)
        return Refused(f"the check failed: {error!r}")
