"""Ranges that are being removed, and messages that are put into them meanwhile: those stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stores import Opened, plain_envelope

import pabal.store.lmdb_store
from pabal.model.message import PENDING, Message

Open = Callable[..., Opened]


@pytest.mark.parametrize("commits_before", [0, 1, 2, 9])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_message_put_into_a_range_that_is_removed_stays(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, commits_before: int, restarts: bool
) -> None:
    monkeypatch.setattr(pabal.store.lmdb_store, "DROPS_PER_COMMIT_MAX", 7)
    opened = open_store()
    opened.define(1)
    messages = opened.append(1, [b"%d" % number for number in range(1, 61)])
    opened.commit()
    opened.log(1).remove([messages[11], messages[49]])  # at 12 and 50
    opened.commit()
    opened.store.journal.drop_range(1, 1, 55)
    opened.log(1).forget(53)
    for _ in range(commits_before):
        opened.commit()
    for place in (12, 50):
        opened.store.journal.spare(1, place)
        opened.log(1).append([Message(plain_envelope(), b"back at %d" % place, place, 0, PENDING)], 10)
    opened.commit()
    if restarts:
        opened = open_store()
    kept = [b"back at 12", b"back at 50", b"56", b"57", b"58", b"59", b"60"]
    assert [message.content for message in opened.read(1)] == kept
    opened.settle_down()
    assert [message.content for message in opened.read(1)] == kept
    opened = open_store()
    assert [message.content for message in opened.read(1)] == kept
    assert opened.log(1).count == len(kept)
