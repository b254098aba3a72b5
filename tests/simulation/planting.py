"""Bugs to be planted in the broker, and whether the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import simulate

CYCLES = 6000
"""... at most: most are found in the first runs."""
SEED = 20_000

Plant = Callable[[pytest.MonkeyPatch], None]


class Plants(dict[str, tuple[Plant, str]]):
    """By name, with what the failure must say."""

    def planted(self, expected: str) -> Callable[[Plant], Plant]:
        """`expected`: one of several parted by |."""

        def register(plant: Plant) -> Plant:
            self[plant.__name__] = (plant, expected)
            return plant

        return register

    def find(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        plant, expected = self[name]
        plant(monkeypatch)
        with pytest.raises(simulate.Failure) as caught:
            simulate.run_many(SEED, CYCLES)
        reason = str(caught.value)
        print(f"{name}: {reason}")
        assert any(text in reason for text in expected.split("|")), reason
        assert caught.value.steps, "with the steps that led there"
