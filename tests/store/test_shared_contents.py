"""Contents that are kept by themselves, in every store: once for all messages that refer to them, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stores import CONTAINERS, Opened, plain_envelope

from pabal.model.limits import PARTED_BYTES_MIN, SHARED_BYTES_MIN
from pabal.model.message import SHARED, STORED, Message
from pabal.store import lmdb_store
from pabal.store.durable_store import open_durable_store
from pabal.store.lmdb_store import LmdbStore
from pabal.store.logged_store import LoggedStore
from pabal.store.memory import MemoryStore

Open = Callable[[], Opened]

LARGE = b"l" * (SHARED_BYTES_MIN + 1)


def kept(opened: Opened) -> dict[int, int]:
    """Ids of contents that are kept by themselves, and how many messages refer to each."""
    store = opened.store
    if isinstance(store, MemoryStore):
        assert store.disk.contents.keys() == store.disk.references.keys()
        return dict(store.disk.references)
    assert isinstance(store, LmdbStore)
    with store._env.begin() as transaction:
        contents = {int.from_bytes(key, "big"): 1 for key, _ in transaction.cursor(db=store._contents)}
        more = {
            int.from_bytes(key, "big"): int.from_bytes(value, "big")
            for key, value in transaction.cursor(db=store._references)
        }
    assert more.keys() <= contents.keys()
    return contents | more


def fan_out(opened: Opened, content: bytes, queues: int = 3) -> list[Message]:
    for queue_id in range(1, queues + 1):
        opened.define(queue_id)
    messages = [opened.append(queue_id, [content])[0] for queue_id in range(1, queues + 1)]
    opened.commit()
    return messages


def test_a_large_content_of_several_queues_is_kept_once(open_store: Open) -> None:
    opened = open_store()
    messages = fan_out(opened, LARGE)
    assert [message.state for message in messages] == [SHARED] * 3
    assert kept(opened) == {1: 3}
    for _ in range(2):
        for queue_id in (1, 2, 3):
            [found] = opened.read(queue_id)
            assert (found.content, found.state, found.envelope.routing_key) == (LARGE, SHARED, "q")
        opened = open_store()


@pytest.mark.parametrize(
    ("content", "queues"),
    [(LARGE[:-1], 3), (LARGE, 1), (b"x" * (PARTED_BYTES_MIN - 1), 1)],
    ids=["small", "one queue", "large, one queue"],
)
def test_others_are_in_their_records(open_store: Open, content: bytes, queues: int) -> None:
    opened = open_store()
    messages = fan_out(opened, content, queues)
    assert {message.state for message in messages} == {STORED}
    assert kept(opened) == {}
    assert opened.contents(1) == [content]


def test_a_very_large_one_of_a_single_queue_is_kept_by_itself(open_store: Open) -> None:
    opened = open_store()
    [message] = fan_out(opened, b"x" * PARTED_BYTES_MIN, 1)
    assert kept(opened) == {1: 1}
    message.attempts = 3
    opened.log(1).update(message)
    batch, _ = opened.store.journal.take()
    assert sum(len(record) for _, record in batch.puts) < 100, "attempts are written without the content"
    reopened = open_store()
    [found] = reopened.read(1)
    reopened.log(1).remove([found])
    reopened.commit()
    assert kept(reopened) == {}


def test_it_goes_with_its_last_message(open_store: Open) -> None:
    opened = open_store()
    messages = fan_out(opened, LARGE)
    opened.log(1).remove(messages[:1])
    opened.log(1).remove(messages[:1])  # a second time makes no difference
    opened.commit()
    assert kept(opened) == {1: 2}
    opened = open_store()
    for queue_id in (2, 3):
        assert opened.contents(queue_id) == [LARGE]
        opened.log(queue_id).remove(opened.read(queue_id))
    opened.commit()
    assert kept(opened) == {}
    assert kept(open_store()) == {}


def test_attempts_and_copies_survive(open_store: Open) -> None:
    opened = open_store()
    envelope = plain_envelope("ex", "key")
    envelope.copies = ("cc", "kö")
    for queue_id in (1, 2):
        opened.define(queue_id)
    messages = [opened.append(queue_id, [LARGE], envelope)[0] for queue_id in (1, 2)]
    messages[1].expires_at_ms = 2**50
    opened.commit()
    messages[0].attempts = 5
    opened.log(1).update(messages[0])
    opened.commit()
    assert kept(opened) == {1: 2}
    reopened = open_store()
    found = [reopened.read(queue_id)[0] for queue_id in (1, 2)]
    assert [(m.attempts, m.expires_at_ms) for m in found] == [(5, 0), (0, 2**50)]
    assert [(m.envelope.exchange, m.envelope.routing_key, m.envelope.copies) for m in found] == [
        ("ex", "key", ("cc", "kö"))
    ] * 2


def test_ranges_and_queues_that_are_dropped_let_go_of_it(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, and reopened in between."""
    monkeypatch.setattr(lmdb_store, "DROPS_PER_COMMIT_MAX", 2)
    opened = open_store()
    contents = [bytes([number]) * (SHARED_BYTES_MIN + 1) for number in range(5)]
    for queue_id in (1, 2, 3):
        opened.define(queue_id)
        opened.append(queue_id, contents)
    opened.commit()
    assert kept(opened) == dict.fromkeys(range(1, 6), 3)
    opened.store.journal.drop_range(1, 2, 4)
    opened.log(1).forget(3)
    opened.commit()
    opened = open_store()
    opened.settle_down()
    assert kept(opened) == {1: 3, 2: 2, 3: 2, 4: 2, 5: 3}
    opened.log(2).remove(opened.read(2)[:1])  # never written: the queue goes in the same commit
    opened.store.journal.drop_queue(opened.log(2))
    opened.commit()
    opened = open_store()
    opened.settle_down()
    assert kept(opened) == {1: 2, 2: 1, 3: 1, 4: 1, 5: 2}
    opened.log(3).remove(opened.read(3))
    opened.commit()
    assert kept(opened) == {1: 1, 5: 1}
    opened.store.journal.drop_queue(opened.log(1))
    opened.settle_down()
    assert kept(opened) == {}


def test_ids_go_on_after_reopening(open_store: Open) -> None:
    fan_out(open_store(), LARGE)
    opened = open_store()
    fan_out(opened, b"other" + LARGE)
    assert kept(opened) == {1: 3, 2: 3}
    assert opened.contents(2) == [LARGE, b"other" + LARGE]


def test_the_log_lets_go_of_it_after_a_crash(tmp_path: Path) -> None:
    """What was removed and what was written again since the last checkpoint, of which the log knows no contents."""
    opened = Opened(open_durable_store(tmp_path, CONTAINERS))
    messages = fan_out(opened, LARGE, 4)
    opened.store.journal.unstored = 10**6
    opened.commit()
    assert [message.state for message in messages] == [SHARED] * 4
    opened.log(1).remove(messages[:1])
    opened.commit()
    messages[1].attempts = 1
    opened.log(2).update(messages[1])
    opened.commit()
    assert isinstance(opened.store, LoggedStore)
    opened.store._base.close()
    reopened = Opened(open_durable_store(tmp_path, CONTAINERS))
    assert isinstance(reopened.store, LoggedStore) and isinstance(reopened.store._base, LmdbStore)
    reopened.store = reopened.store._base
    assert kept(reopened) == {1: 2}
    assert [reopened.contents(queue_id) for queue_id in (1, 2, 3, 4)] == [[], [LARGE], [LARGE], [LARGE]]
    assert reopened.read(2)[0].attempts == 1
    for queue_id in (2, 3, 4):
        reopened.log(queue_id).remove(reopened.read(queue_id))
    reopened.commit()
    assert kept(reopened) == {}
    reopened.store.close()
