"""One suite for every store: what is committed is there after opening it again, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stores import ALL, Opened, plain_envelope, state_of

from pabal.model.definitions import (
    QueueDefinition,
)
from pabal.model.message import PENDING, STORED, UNSTORED
from pabal.store import lmdb_store
from pabal.store.batch import QueueState

Open = Callable[[], Opened]


@pytest.fixture
def few_drops(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many messages of a dropped range one commit removes: few, so that tests need few."""
    monkeypatch.setattr(lmdb_store, "DROPS_PER_COMMIT_MAX", 10)
    return 10


def numbered(first: int, last: int) -> list[bytes]:
    return [b"m%d" % number for number in range(first, last + 1)]


# --- Messages -----------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(open_store: Open) -> None:
    opened = open_store()
    assert (opened.loaded.definitions, opened.loaded.queues, opened.loaded.next_queue_id) == ([], {}, 1)
    assert opened.read(1) == []
    assert not opened.store.begin(), "nothing to commit"


def test_what_is_committed_can_be_read_and_is_there_after_reopening(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    messages = opened.append(1, numbered(1, 5))
    assert opened.commit()
    assert [message.state for message in messages] == [STORED] * 5
    for _ in range(2):
        found = opened.read(1)
        assert [(m.position, m.content, m.state) for m in found] == [(n, b"m%d" % n, STORED) for n in range(1, 6)]
        assert [m.attempts for m in found] == [0] * 5
        opened = open_store()
    assert state_of(opened, 1) == QueueState(6, 5, 0)


def test_reading_sees_only_what_a_finished_commit_wrote(open_store: Open) -> None:
    opened = open_store()
    opened.append(1, [b"a"])
    assert opened.read(1) == []
    assert opened.store.begin()
    assert opened.read(1) == []
    opened.append(1, [b"b"])
    opened.store.finish()
    opened.store.done()
    assert opened.contents(1) == [b"a"]
    opened.commit()
    assert opened.contents(1) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("after", "before", "most", "expected"),
    [
        (0, None, ALL, [1, 2, 3, 4, 5, 6]),
        (2, None, ALL, [3, 4, 5, 6]),
        (2, 5, ALL, [3, 4]),
        (0, 1, ALL, []),
        (6, None, ALL, []),
        (5, 6, ALL, []),
        (0, None, 2, [1, 2]),
        (3, 100, 1, [4]),
        (0, 2**63, ALL, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_ranges_are_read_as_asked_for(
    open_store: Open, after: int, before: int | None, most: int, expected: list[int]
) -> None:
    opened = open_store()
    opened.append(7, numbered(1, 6))
    opened.append(6, [b"neighbour"])
    opened.append(8, [b"neighbour"])
    opened.commit()
    assert [m.position for m in opened.read(7, after, before, most)] == expected


def test_reading_stops_at_a_size_but_gives_one_message_at_least(open_store: Open) -> None:
    opened = open_store()
    opened.append(1, [bytes(1000)] * 10)
    opened.commit()
    assert len(opened.store.read(1, 0, None, ALL, 1)) == 1
    some = len(opened.store.read(1, 0, None, ALL, 3500))
    assert 3 <= some <= 5, "about 3500 bytes of messages of 1000"


def test_what_a_message_carries_survives(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    odd = "kö\udcff\x00y" * 20
    envelope = plain_envelope("ex.\udc80", odd)
    [first, second, _] = opened.append(1, [b"", b"\x00" * 70_000, b"x"], envelope)
    first.expires_at_ms = 2**62
    second.attempts = 2**32 - 1
    transient = plain_envelope()
    transient.persistent = False
    opened.append(1, [b"t"], transient)
    opened.commit()
    found = open_store().read(1)
    assert [(m.content, m.expires_at_ms, m.attempts) for m in found] == [
        (b"", 2**62, 0),
        (b"\x00" * 70_000, 0, 2**32 - 1),
        (b"x", 0, 0),
        (b"t", 0, 0),
    ]
    assert [(m.envelope.exchange, m.envelope.routing_key, m.envelope.persistent) for m in found] == [
        ("ex.\udc80", odd, True)
    ] * 3 + [("", "q", False)]
    assert found[0].envelope is found[1].envelope, "published alike, so they share an envelope"


def test_attempts_are_written_again(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    first, second = opened.append(1, [b"a", b"b"])
    opened.commit()
    for _ in range(3):
        first.attempts += 1
        opened.log(1).update(first)
    opened.commit()
    second.attempts = 9  # nobody said so to the log
    reopened = open_store()
    assert [m.attempts for m in reopened.read(1)] == [3, 0]
    assert state_of(reopened, 1) == QueueState(3, 2, 0)


def test_attempts_of_a_message_not_yet_written_are_written_with_it(open_store: Open) -> None:
    opened = open_store()
    [message] = opened.append(1, [b"a"])
    message.attempts = 4
    opened.log(1).update(message)
    opened.commit()
    assert [m.attempts for m in opened.read(1)] == [4]


def test_an_update_during_a_commit_goes_with_the_next(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    [message] = opened.append(1, [b"a"])
    opened.store.begin()
    message.attempts = 1
    opened.log(1).update(message)
    opened.store.finish()
    opened.store.done()
    assert [m.attempts for m in opened.read(1)] == [0]
    opened.commit()
    assert [m.attempts for m in open_store().read(1)] == [1]


# --- Removal ------------------------------------------------------------------------------------------------


def test_what_is_settled_before_its_commit_is_never_written(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    opened.commit()
    messages = opened.append(1, numbered(1, 3))
    opened.log(1).remove(messages)
    assert [m.state for m in messages] == [UNSTORED] * 3
    batch, logs = opened.store.journal.take()
    assert (batch.puts, batch.deletes) == ([], [])
    assert batch.states == [(1, QueueState(4, 0, 0))], "positions are not used twice"
    assert [log.queue_id for log in logs] == [1]


def test_what_is_settled_later_is_deleted(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    messages = opened.append(1, numbered(1, 5))
    opened.commit()
    opened.log(1).remove([messages[1], messages[3]])
    opened.log(1).remove([messages[1]])  # a second time makes no difference
    assert opened.positions(1) == [1, 2, 3, 4, 5]
    opened.commit()
    assert opened.positions(1) == [1, 3, 5]
    reopened = open_store()
    assert reopened.positions(1) == [1, 3, 5]
    assert state_of(reopened, 1) == QueueState(6, 3, 0)


def test_rows_and_single_messages_settled_in_any_order_are_deleted(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    opened.define(2)
    messages = opened.append(1, numbered(1, 100))
    others = opened.append(2, numbered(1, 3))
    opened.commit()
    for numbers in ([70, 71], [1], [40, 39, 41, 38], [42], [99, 100], [20]):
        opened.log(1).remove([messages[number - 1] for number in numbers])
    opened.log(2).remove(others)
    opened.commit()
    left = [n for n in range(1, 101) if n not in {1, 20, 38, 39, 40, 41, 42, 70, 71, 99, 100}]
    assert opened.positions(1) == left
    reopened = open_store()
    assert (reopened.positions(1), reopened.positions(2)) == (left, [])


def test_what_is_settled_during_its_commit_is_deleted_by_the_next(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    messages = opened.append(1, numbered(1, 2))
    opened.store.begin()
    opened.log(1).remove([messages[0]])
    opened.store.finish()
    opened.store.done()
    assert opened.positions(1) == [1, 2]
    opened.commit()
    reopened = open_store()
    assert reopened.positions(1) == [2]
    assert state_of(reopened, 1) == QueueState(3, 1, 0)


def test_an_update_of_what_is_removed_does_not_bring_it_back(open_store: Open) -> None:
    opened = open_store()
    [message] = opened.append(1, [b"a"])
    opened.commit()
    opened.log(1).update(message)
    opened.log(1).remove([message])
    opened.log(1).update(message)
    opened.commit()
    assert opened.positions(1) == []


def test_a_range_is_dropped(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    opened.append(1, numbered(1, 9))
    opened.append(2, numbered(1, 9))
    opened.commit()
    opened.store.journal.drop_range(1, 3, 7)
    opened.log(1).forget(5)
    opened.commit()
    assert opened.positions(1) == [1, 2, 8, 9]
    assert opened.positions(2) == list(range(1, 10))
    reopened = open_store()
    assert reopened.positions(1) == [1, 2, 8, 9]
    assert state_of(reopened, 1) == QueueState(10, 4, 0)


def test_what_follows_a_dropped_range_stays(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    opened.append(1, numbered(1, 4))
    opened.commit()
    opened.store.journal.drop_range(1, 1, 4)
    opened.log(1).forget(4)
    opened.append(1, numbered(5, 6))
    opened.commit()
    assert opened.positions(1) == [5, 6]
    reopened = open_store()
    assert reopened.positions(1) == [5, 6]
    assert state_of(reopened, 1) == QueueState(7, 2, 0)


@pytest.mark.parametrize("commits_before", [1, 2, 3, 4])
def test_a_large_range_goes_bit_by_bit_and_is_never_seen_meanwhile(
    open_store: Open, few_drops: int, commits_before: int
) -> None:
    """Larger than one commit removes; reopened in the middle."""
    opened = open_store()
    opened.define(1)
    opened.define(2)
    opened.append(1, numbered(1, 60))
    opened.append(2, numbered(1, 5))
    opened.commit()
    opened.store.journal.drop_range(1, 11, 11 + 3 * few_drops + 4)
    opened.log(1).forget(3 * few_drops + 5)
    kept = [*range(1, 11), *range(11 + 3 * few_drops + 5, 61)]
    for number in range(commits_before):
        if number:
            opened.append(2, [b"more"])
        opened.commit()
        assert opened.positions(1) == kept
        assert [m.position for m in opened.read(1, 9, None, 3)] == [10, *kept[10:12]]
        assert [m.position for m in opened.read(1, 12, 50)] == [p for p in kept if 12 < p < 50]
    reopened = open_store()
    assert reopened.positions(1) == kept
    reopened.settle_down()
    assert reopened.positions(1) == kept
    again = open_store()
    assert again.positions(1) == kept
    assert again.positions(2) == list(range(1, 5 + commits_before))
    state = state_of(again, 1)
    assert state is not None
    assert state.messages == len(kept)


def test_ranges_that_begin_alike_do_not_end_each_other(open_store: Open, few_drops: int) -> None:
    """A purge after a restart begins at position 1 again, maybe before an earlier one is through."""
    opened = open_store()
    opened.define(1)
    opened.append(1, numbered(1, 25))
    opened.commit()
    opened.store.journal.drop_range(1, 1, 25)
    opened.log(1).forget(25)
    opened.append(1, numbered(26, 60))
    opened.commit()
    opened = open_store()
    opened.store.journal.drop_range(1, 1, 55)
    opened.log(1).forget(30)
    opened.commit()  # goes on with the first range
    opened.append(1, [b"m61"])
    opened.commit()  # ends the first range
    opened = open_store()
    assert opened.positions(1) == [56, 57, 58, 59, 60, 61]
    opened.settle_down()
    assert opened.positions(1) == [56, 57, 58, 59, 60, 61]


def test_a_queue_is_dropped_with_its_state(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    opened.define(2)
    opened.append(1, numbered(1, 4))
    opened.append(2, numbered(1, 3))
    opened.commit()
    messages = opened.append(1, numbered(5, 6))
    opened.log(1).remove(messages[:1])
    opened.store.journal.undefine(QueueDefinition("/", "q1", 1))
    opened.store.journal.drop_queue(opened.log(1))
    opened.commit()
    assert opened.positions(1) == []
    reopened = open_store()
    assert reopened.positions(1) == []
    assert reopened.positions(2) == [1, 2, 3]
    assert list(reopened.loaded.queues) == [2]


def test_a_queue_dropped_while_its_messages_are_being_committed(open_store: Open) -> None:
    opened = open_store()
    opened.define(2)
    opened.append(1, numbered(1, 4))
    opened.store.begin()
    opened.store.journal.drop_queue(opened.log(1))
    opened.store.finish()
    opened.store.done()
    opened.settle_down()
    assert opened.positions(1) == []
    assert open_store().loaded.queues == {}


@pytest.mark.parametrize("commits_before", [1, 2, 3, 6])
def test_a_large_queue_is_dropped_bit_by_bit(open_store: Open, few_drops: int, commits_before: int) -> None:
    opened = open_store()
    opened.define(1)
    opened.define(2)
    opened.append(1, numbered(1, 4 * few_drops + 3))
    opened.append(2, numbered(1, 3))
    opened.commit()
    opened.store.journal.undefine(QueueDefinition("/", "q1", 1))
    opened.store.journal.drop_queue(opened.log(1))
    for _ in range(commits_before):
        opened.commit()
    reopened = open_store()
    assert 1 not in reopened.loaded.queues
    assert reopened.loaded.next_queue_id >= 3
    reopened.settle_down()
    reopened = open_store()
    assert not reopened.store.begin(), "nothing is left to remove"
    assert reopened.store.read(1, 0, None, ALL, ALL) == []
    assert reopened.positions(2) == [1, 2, 3]


def test_messages_of_a_queue_that_had_no_definition_go(open_store: Open) -> None:
    """A queue that was not durable and paged to disk died with its process."""
    opened = open_store()
    opened.define(1)
    opened.append(1, [b"kept"])
    opened.append(2, numbered(1, 30))
    opened.commit()
    reopened = open_store()
    assert list(reopened.loaded.queues) == [1]
    assert reopened.loaded.next_queue_id >= 3
    reopened.settle_down()
    reopened = open_store()
    assert reopened.read(2) == []
    assert reopened.contents(1) == [b"kept"]


# --- Commits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [False, True])
def test_a_commit_counts_from_the_moment_it_is_finished(open_store: Open, finished: bool) -> None:
    opened = open_store()
    opened.define(1)
    first, second = opened.append(1, [b"a", b"b"])
    opened.commit()
    second.attempts = 1
    opened.log(1).update(second)
    opened.log(1).remove([first])
    opened.log(1).delivered(2)
    opened.append(1, [b"c"])
    opened.define(2)
    opened.store.begin()
    if finished:
        opened.store.finish()
    reopened = open_store()
    found = [(m.position, m.content, m.attempts) for m in reopened.read(1)]
    names = [d.name for d in reopened.loaded.definitions if isinstance(d, QueueDefinition)]
    if finished:
        assert found == [(2, b"b", 1), (3, b"c", 0)]
        assert state_of(reopened, 1) == QueueState(4, 2, 2)
        assert sorted(names) == ["q1", "q2"]
    else:
        assert found == [(1, b"a", 0), (2, b"b", 0)]
        assert state_of(reopened, 1) == QueueState(3, 2, 0)
        assert names == ["q1"]


def test_what_was_gathered_and_not_begun_leaves_no_trace(open_store: Open) -> None:
    opened = open_store()
    opened.append(1, [b"a"])
    opened.define(1)
    reopened = open_store()
    assert (reopened.loaded.definitions, reopened.loaded.queues) == ([], {})
    assert reopened.read(1) == []


def test_queues_are_told_when_they_are_durable(open_store: Open) -> None:
    opened = open_store()
    log = opened.log(1)
    told: list[int] = []
    log.on_durable = lambda: told.append(log.durable_position)
    opened.append(1, numbered(1, 3))
    opened.store.begin()
    opened.append(1, numbered(4, 5))
    opened.store.finish()
    assert (told, log.durable_position) == ([], 0)
    opened.store.done()
    assert told == [3]
    opened.commit()
    assert told == [3, 5]
    assert not opened.commit()


def test_a_commit_without_changes_is_none(open_store: Open) -> None:
    opened = open_store()
    [message] = opened.append(1, [b"a"])
    assert opened.store.journal.unsaved_bytes == 1
    assert opened.commit()
    assert opened.store.journal.unsaved_bytes == 0
    assert not opened.commit()
    opened.log(1).delivered(1)
    assert opened.commit()
    opened.log(1).delivered(1)
    assert not opened.commit(), "already known"
    opened.log(1).remove([message])
    assert opened.commit()
    assert not opened.commit()


def test_positions_go_on_after_reopening(open_store: Open) -> None:
    opened = open_store()
    opened.define(1)
    messages = opened.append(1, numbered(1, 3))
    opened.commit()
    opened.log(1).remove(messages)
    opened.commit()
    reopened = open_store()
    [message] = reopened.append(1, [b"next"])
    assert message.position == 4
    assert message.state == PENDING


def test_a_queue_id_is_never_given_twice(open_store: Open) -> None:
    """Of a queue that was defined and never took a message, too."""
    opened = open_store()
    opened.define(opened.loaded.next_queue_id)
    opened.commit()
    assert open_store().loaded.next_queue_id == 2


def test_the_id_of_a_queue_whose_messages_are_still_being_removed_is_not_given(
    open_store: Open, few_drops: int
) -> None:
    opened = open_store()
    opened.append(5, numbered(1, 5 * few_drops))
    opened.commit()
    opened.store.journal.drop_queue(opened.log(5))
    opened.commit()
    reopened = open_store()
    assert reopened.loaded.next_queue_id == 6 or reopened.read(5) == []
