"""The same for contents that are kept by themselves: planted bugs are found."""

from __future__ import annotations

from typing import Any

import pytest
from planting import Plants

from pabal.model.message import Message
from pabal.store.batch import Batch
from pabal.store.journal import Journal, QueueLog
from pabal.store.memory import Disk

pytestmark = pytest.mark.plain

PLANTS = Plants()
planted = PLANTS.planted


@planted("records refer to contents")
def what_is_settled_keeps_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog.remove

    def remove(self: Any, messages: list[Message]) -> None:
        original(self, messages)
        self._released.clear()

    monkeypatch.setattr(QueueLog, "remove", remove)


@planted("records refer to contents")
def what_is_dropped_keeps_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "_release_record", lambda self, record: None)


@planted("refers to it|records refer to contents|there is no content")
def a_content_goes_with_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, content_id: int) -> None:
        self.references.pop(content_id, None)
        self.contents.pop(content_id, None)

    monkeypatch.setattr(Disk, "_release", release)


@planted("records refer to contents|refers to it|KeyError")
def what_the_log_removes_keeps_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "_released", lambda self, batch: [])


@planted("records refer to contents|KeyError")
def a_deleted_queue_lets_go_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was settled in it when it was deleted: its record goes with the range."""
    original = Journal.drop_queue

    def drop_queue(self: Any, log: QueueLog) -> None:
        released = list(log._released)
        original(self, log)
        self.lost = [*getattr(self, "lost", []), *released]

    take = Journal.take

    def take_all(self: Any) -> tuple[Batch, list[QueueLog]]:
        batch, logs = take(self)
        assert batch.released is not None
        batch.released += getattr(self, "lost", [])
        self.lost = []
        return batch, logs

    monkeypatch.setattr(Journal, "drop_queue", drop_queue)
    monkeypatch.setattr(Journal, "take", take_all)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS.find(name, monkeypatch)
