"""The state machine must be able to fail: whether it finds a bug that is planted in the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from queue_machine import run_at_random

Plant = Callable[[pytest.MonkeyPatch], None]
Forced = dict[str, dict[str, Any]]
"""The arguments of queues that the bug can be seen in."""
EXAMPLES = 3000
STEPS = 40


def must_be_found(plant: Plant, forced: Forced, patch: pytest.MonkeyPatch) -> None:
    plant(patch)
    for seed in range(EXAMPLES):
        failure = run_at_random(seed, STEPS, forced)
        if failure:
            print(f"{plant.__name__}: seed {seed}", *failure, sep="\n")
            assert not str(failure[-1]).startswith(("AttributeError", "NameError", "TypeError")), "a broken plant"
            return
    pytest.fail(f"not found in {EXAMPLES} examples")
