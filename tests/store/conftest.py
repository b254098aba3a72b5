"""Fixtures of the stores' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores import LmdbMaker, MemoryMaker, Opened


@pytest.fixture(params=["memory", "lmdb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Opened]]:
    """Opens the store, again when called again: as after kill -9."""
    maker: MemoryMaker | LmdbMaker = MemoryMaker() if request.param == "memory" else LmdbMaker(tmp_path)
    yield lambda: Opened(maker.open())
    if isinstance(maker, LmdbMaker):
        maker.close()
