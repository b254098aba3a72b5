"""`make demo`: the settlement system survives its bad day, in its short form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent.parent / "examples" / "settlement" / "demo.py"
DEMO_SECONDS_MAX = 90.0
EVENTS = (
    "broker ready",
    "4 workers compete",
    "worker-1 killed",
    "worker-2 hangs",
    "late acks ignored",
    "broker killed with -9",
    "broker back",
    "all settled but the poison: 1,485 entries",
    "dead letters, rejected: 8, the first is E000077",
    "dead letters, delivery_limit:",
    "bug fixed",
    "all 1,500 entries settled",
)
"""What happens, in this order, but for the two kinds of dead letters."""


def run_demo(*arguments: str) -> tuple[int, str]:
    """Exit code and output. SIGTERM if it takes too long, so that it can end its own processes."""
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    try:
        output, _ = process.communicate(timeout=DEMO_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=30)
        pytest.fail(f"not done after {DEMO_SECONDS_MAX} s:\n{output}")
    return process.returncode, output


def test_every_entry_is_settled_exactly_once() -> None:
    pytest.importorskip("rich", reason="the demo extra is not installed")
    code, output = run_demo("--quick", "--plain")
    assert code == 0, output
    assert [event for event in EVENTS if event not in output] == [], output

    figures = dict(re.findall(r"^ [✔ ]  (\S.*?) {2,}([\d,]+)\b", output, re.MULTILINE))
    assert figures["entries sent and confirmed"] == "1,500"
    assert figures["entries settled"] == "1,500"
    assert figures["settled twice"] == "0"
    assert figures["lost"] == "0"
    assert figures["left in the queues"] == "0"
    assert figures["poison, rejected at once"] == "8"
    assert figures["poison, came back too often"] == "7"
    assert figures["redriven after the bug fix"] == "15"
    assert int(figures["redeliveries"]) > 0
    assert int(figures["duplicates absorbed"]) > 0, "the worker that hung was late for nothing"
    assert "✘" not in output
    assert output.endswith("Every entry was settled exactly once.\n")


def test_too_few_entries_are_refused() -> None:
    pytest.importorskip("rich", reason="the demo extra is not installed")
    code, output = run_demo("--entries", "10")
    assert code == 2
    assert "fewer than 500" in output
