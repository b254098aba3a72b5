"""The timetable, windowed and on disk, against a sorted list; commits begin and end anywhere, and crashes come."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine import CONTAINERS, content, envelope, limits, name_of
from pabal.broker.timetable import Timetable
from pabal.model.errors import StoreError
from pabal.model.message import UNSTORED, Message
from pabal.store.batch import position_ms, waiting_id
from pabal.store.memory import Disk, MemoryStore

QUEUE = waiting_id(1)
SMALL = {"WINDOW_MESSAGES_STORED": 3, "LOAD_MESSAGES_MAX": 2}


class Held:
    """A timetable with its store, and what it must be like: (time, order of arrival, name) sorted."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.store = MemoryStore(CONTAINERS, self.disk)
        self.log = self.store.journal.queue_log(QUEUE, self.disk.states.get(QUEUE), timed=True)
        self.timetable = Timetable(self.store, self.log)
        self.twin: list[tuple[int, int, str]] = []
        self.added = 0

    def add(self, at_ms: int, size: int = 0) -> None:
        self.added += 1
        name = f"m{self.added}" + "x" * size
        self.timetable.add(Message(envelope(), content(name), 0, 0, UNSTORED), at_ms)
        self.twin.append((at_ms, self.added, name))
        self.twin.sort()

    def take(self, now_ms: int, most: int) -> None:
        taken = self.timetable.take(now_ms, most)
        expected = [each for each in self.twin if each[0] <= now_ms][:most]
        assert [(position_ms(m.position), name_of(m)) for m in taken] == [(at, name) for at, _, name in expected]
        del self.twin[: len(expected)]
        self.timetable.remove(taken)

    def begin(self) -> None:
        if not self.store._batches:
            self.store.begin()

    def on_disk(self) -> None:
        """The commit is made, and nobody was told yet."""
        if self.store._batches:
            self.store.finish()

    def end(self) -> None:
        if self.store._batches:
            self.store.finish()
            self.store.done()

    def commit(self) -> None:
        self.end()
        self.begin()
        self.end()

    def the_same(self) -> None:
        assert len(self.timetable) == len(self.twin)
        assert self.timetable.next_ms() == (self.twin[0][0] if self.twin else None)


class TimetableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.limits = limits(**SMALL)
        self.limits.__enter__()
        self.held = Held()
        self.now_ms = 1000
        self.finished = False  # a commit is on disk, and nobody was told

    def teardown(self) -> None:
        self.limits.__exit__(None, None, None)

    @rule(delays=st.lists(st.integers(1, 30), min_size=1, max_size=6))
    def add(self, delays: list[int]) -> None:
        for delay in delays:
            self.held.add(self.now_ms + delay)

    @rule(ms=st.integers(0, 12), most=st.integers(1, 9))
    def take(self, ms: int, most: int) -> None:
        self.now_ms += ms
        self.held.take(self.now_ms, most)

    @rule()
    def begin(self) -> None:
        self.held.begin()

    @rule()
    def on_disk(self) -> None:
        if not self.finished and self.held.store._batches:
            self.held.on_disk()
            self.finished = True

    @rule()
    def end(self) -> None:
        if self.finished:
            self.held.store.done()
            self.finished = False
        else:
            self.held.end()

    @rule()
    def restart(self) -> None:
        """After all is committed: nothing is lost and nothing is twice."""
        self.end()
        self.held.commit()
        twin, added = self.held.twin, self.held.added
        self.held = Held(self.held.disk)
        self.held.twin, self.held.added = twin, added

    @invariant()
    def the_same(self) -> None:
        self.held.the_same()


TimetableMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTimetableAgainstItsTwin = TimetableMachine.TestCase


def test_most_of_it_is_on_disk_only() -> None:
    with limits(**SMALL):
        held = Held()
        for number in range(200):
            held.add(1000 + (number * 37) % 100)
            if number % 10 == 9:
                held.commit()
        timetable = held.timetable
        assert len(timetable._soon) <= 3
        assert not timetable._unsaved
        assert timetable._disk_count >= 197
        for now_ms in range(1000, 1107, 7):
            held.take(now_ms, 1000)
            held.the_same()
            held.commit()
        assert not held.twin
        assert not held.disk.messages[QUEUE]


def test_large_messages_count_by_their_bytes() -> None:
    with limits(WINDOW_BYTES_STORED=5000):
        held = Held()
        for number in range(20):
            held.add(1000 + number, size=1000)
        held.commit()
        assert held.timetable._soon_bytes <= 5000
        held.take(2000, 100)


def test_a_store_that_lost_messages_is_an_error() -> None:
    held = Held()
    held.add(1000)
    held.commit()
    again = Held(held.disk)
    held.disk.messages[QUEUE].clear()
    with pytest.raises(StoreError, match="damaged"):
        again.timetable.take(1000, 1)
