"""What connections leave behind is found, also when they lived long."""

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
    collector = Garbage(0)
    collector.begin()
    yield collector
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_the_old_are_looked_through_when_there_may_be_many_and_not_often(collector: Garbage) -> None:
    gc.collect()
    knot = Knot()
    gc.collect(1)  # it is old now
    seen = weakref.ref(knot)
    del knot
    collector.tidy(garbage._BETWEEN_MS)
    assert seen() is not None, "hardly anything has become old"
    for _ in range(garbage._OLD_LOOKS_MIN):
        gc.collect(1)
    collector.tidy(garbage._BETWEEN_MS - 1)
    assert seen() is not None, "not yet"
    collector.tidy(garbage._BETWEEN_MS)
    assert seen() is None
