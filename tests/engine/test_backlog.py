"""The backlog, windowed and paged, against a plain list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import CONTAINERS, content, envelope, name_of, small_windows
from pabal.broker.backlog import Backlog
from pabal.model.errors import StoreError
from pabal.model.message import PENDING, UNSTORED, Message
from pabal.store.journal import QueueLog
from pabal.store.memory import Disk, MemoryStore

MANY = 10**6


class Held:
    """A backlog with its log and store, and the list it must be like."""

    def __init__(self, messages_max: int = 3, bytes_max: int = 10**6, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.store = MemoryStore(CONTAINERS, self.disk)
        self.log: QueueLog = self.store.journal.queue_log(1, self.disk.states.get(1))
        self.backlog = Backlog(self.store, self.log, messages_max, bytes_max, self.log.count)
        self.log.on_durable = self.backlog.trim
        self.twin: list[str] = []
        self.out: list[Message] = []

    def append(self, count: int, stored: bool = True) -> None:
        stored = stored or self.backlog.paging
        first = self.log.next_position
        messages = [
            Message(envelope(), content(f"m{place}"), place, 0, PENDING if stored else UNSTORED)
            for place in range(first, first + count)
        ]
        size = sum(len(message.content) for message in messages)
        self.log.next_position += count
        self.backlog.append(messages, size)
        if stored:
            self.log.append(messages, size)
        self.twin += [name_of(message) for message in messages]

    def take(self, most: int) -> None:
        taken = self.backlog.take(most)
        assert bool(taken) == bool(self.twin)
        assert len(taken) <= most
        assert [name_of(message) for message in taken] == self.twin[: len(taken)]
        del self.twin[: len(taken)]
        self.out += taken

    def push_back(self, index: int) -> None:
        message = self.out.pop(index)
        self.backlog.push_back(message)
        self.twin.append(name_of(message))
        self.twin.sort(key=lambda name: int(name[1:]))

    def settle(self, index: int) -> None:
        self.log.remove([self.out.pop(index)])

    def begin(self) -> None:
        self.store.begin()

    def end(self) -> None:
        if self.store._batches:
            self.store.finish()
            self.store.done()

    def clear(self) -> None:
        messages, on_disk = self.backlog.clear()
        self.log.remove(messages)
        count = len(messages)
        for stored, first, last in on_disk:
            count += stored
            self.store.journal.drop_range(1, first, last)
            self.log.forget(stored)
        assert count == len(self.twin)
        self.twin.clear()

    def check(self) -> None:
        assert len(self.backlog) == len(self.twin)
        first = self.backlog.first()
        assert (name_of(first) if first is not None else None) == (self.twin[0] if self.twin else None)
        assert self.backlog.content_bytes >= 0
        self.browse(2)

    def browse(self, step: int) -> None:
        """Looks at all of it, so many at once, and leaves it as it is."""
        seen: list[str] = []
        after, before = -1, len(self.backlog)
        while found := self.backlog.browse(after, step):
            assert len(found) <= step
            seen += [name_of(message) for message in found]
            after = found[-1].position
        assert seen == self.twin
        assert len(self.backlog) == before

    def drain(self) -> None:
        while self.twin:
            self.take(MANY)
        assert not self.backlog.take(1)
        assert len(self.backlog) == 0
        assert self.backlog.content_bytes == 0
        assert not self.backlog.paging


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6), st.booleans()),
        st.tuples(st.sampled_from(["take", "browse"]), st.integers(1, 5)),
        st.tuples(st.sampled_from(["push_back", "settle"]), st.integers(0, 100)),
        st.tuples(st.sampled_from(["begin", "end", "end", "check", "clear", "drain"])),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 400, 10**6]))
def test_like_a_list(steps: list[tuple[Any, ...]], window: int, load: int, bytes_max: int) -> None:
    with small_windows(load=load):
        held = Held(window, bytes_max)
        for name, *arguments in steps:
            if name in ("push_back", "settle"):
                if held.out:
                    getattr(held, name)(arguments[0] % len(held.out))
            elif name == "begin":
                held.end()
                held.begin()
            else:
                getattr(held, name)(*arguments)
            assert len(held.backlog) == len(held.twin)
        while held.out:
            held.push_back(0)
        held.check()
        held.drain()


def test_only_a_window_is_in_memory() -> None:
    with small_windows(load=2):
        held = Held(messages_max=3)
        for _ in range(20):
            held.append(5)
            held.begin()
            held.end()
        size = len(content("m100"))
        assert held.backlog.content_bytes <= 12 * size, "the first that went over, and nothing after"
        assert len(held.backlog) == 100
        held.take(MANY)
        held.check()
        assert held.backlog.content_bytes <= 12 * size
        held.drain()


def test_large_messages_that_were_taken_are_let_go_soon() -> None:
    """A queue that is never empty: what came and went must not pile up behind those that are there."""
    held = Held(messages_max=1000, bytes_max=10**9)
    body = bytes(100_000)
    for place in range(1, 200):
        message = Message(envelope(), body, place, 0, UNSTORED)
        held.backlog.append([message], len(body))
        if place > 10:
            held.backlog.take(1)
        assert len(held.backlog._front) <= 10 + 2 * 1024 * 1024 // len(body) + 1
    assert (len(held.backlog), held.backlog.content_bytes) == (10, 10 * len(body))


def test_what_is_not_durable_stays_in_memory() -> None:
    with small_windows():
        held = Held(messages_max=1)
        held.append(2)
        held.append(3)
        held.begin()
        held.append(4)
        before = held.backlog.content_bytes
        held.store.finish()
        assert held.backlog.content_bytes == before, "on disk, and nobody has said so yet"
        held.store.done()
        assert held.backlog.content_bytes < before
        held.check()
        held.drain()


def test_a_restart_reads_on_disk_what_there_is() -> None:
    with small_windows(load=3):
        held = Held(messages_max=2)
        held.append(10)
        held.begin()
        held.end()
        held.take(2)
        held.out[0].attempts += 1
        held.log.update(held.out[0])
        held.log.delivered(held.out[1].position)
        held.settle(1)
        held.begin()
        held.end()
        again = Held(messages_max=2, disk=held.disk)
        again.twin = ["m1", *(f"m{n}" for n in range(3, 11))]
        again.check()
        again.append(2)
        again.drain()
        assert [(name_of(m), m.attempts, m.redelivered) for m in again.out[:3]] == [
            ("m1", 1, True),
            ("m3", 0, False),
            ("m4", 0, False),
        ]


@pytest.mark.parametrize("lost", [[2], [1, 2, 3, 4, 5, 6]])
def test_messages_missing_on_disk_are_an_error_and_no_silence(lost: list[int]) -> None:
    with small_windows():
        held = Held(messages_max=1)
        held.append(1)
        held.append(6)
        held.begin()
        held.end()
        held.take(1)
        for place in lost:
            held.disk.messages[1].pop(place, None)
        again = Held(disk=held.disk)
        with pytest.raises(StoreError, match="damaged"):
            for _ in range(10):
                again.backlog.take(1)


def test_more_on_disk_than_the_state_tells_is_an_error() -> None:
    with small_windows(load=10):
        held = Held(messages_max=1)
        held.append(4)
        held.begin()
        held.end()
        held.disk.states[1] = held.disk.states[1]._replace(messages=2)
        with pytest.raises(StoreError, match="damaged"):
            Held(disk=held.disk).backlog.take(10)
