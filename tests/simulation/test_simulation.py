"""Some hundred crashes of the simulation, of seeds that are always the same and of one that never is."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import simulate

import pabal


@pytest.mark.parametrize("seed", [1, 2000])
def test_no_promise_is_broken(seed: int) -> None:
    simulate_many(seed, 800)


def test_no_promise_is_broken_with_a_seed_of_the_day() -> None:
    simulate_many(random.SystemRandom().randrange(10**9), 800)


def simulate_many(seed: int, cycles: int) -> None:
    print(f"seed {seed}")
    try:
        counts = simulate.run_many(seed, cycles)
    except simulate.Failure as failure:
        print("\n".join(failure.steps))
        pytest.fail(f"{failure}; again: python tests/simulation/simulate.py --run {failure.seed}")
    assert counts.crashes == cycles
    assert counts.confirmed > 4 * cycles, "so little happens that it proves nothing"
    assert counts.delivered > 10 * cycles
    assert counts.committed > cycles // 2


def test_a_run_is_repeated_by_its_seed() -> None:
    first, second = (simulate.run(77, trace=True).steps for _ in range(2))
    assert first == second
    assert first
    assert any("CRASH" in step for step in first)


def test_a_run_is_the_same_in_another_process() -> None:
    """Whatever the seed of Python's own hashes."""
    script = Path(simulate.__file__)
    source = str(Path(pabal.__file__).resolve().parent.parent)  # not another tree that may be installed
    outputs = [
        subprocess.run(
            [sys.executable, str(script), "--run", "78"],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert "CRASH" in outputs[0]


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--cycles", "12", "--seed", "5"])
    assert simulate.main() == 0
    output = capsys.readouterr().out
    assert "seed 5" in output
    assert "12 crashes" in output
