"""What connections leave behind is found, whether they lived long or not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from pabal.server import garbage
from pabal.server.garbage import Garbage


class Knot:
    """Something in a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Garbage]:
    thresholds = gc.get_threshold()
    collector = Garbage()
    collector.begin()
    yield collector
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_the_old_are_looked_through_when_many_have_ended(collector: Garbage) -> None:
    knot = Knot()
    gc.collect(1)  # it is old now
    seen = weakref.ref(knot)
    del knot
    for _ in range(garbage._ENDED_MAX - 1):
        collector.ended(60_000)
    collector.ended(5)  # young, and so no matter
    collector.tidy()
    gc.collect(1)
    assert seen() is not None
    collector.ended(60_000)
    collector.tidy()
    assert seen() is None
