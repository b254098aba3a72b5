"""Programs in other languages that print a line a scenario: "ok NAME", or "FAILED NAME" and the reason."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

RUN_SECONDS_MAX = 50.0


def scenarios_of(source: Path, pattern: str) -> list[str]:
    """The names of the scenarios in a program's source, so that one it leaves out is missed."""
    names = re.findall(pattern, source.read_text("utf-8"), re.MULTILINE)
    assert names, f"no scenario in {source}"
    return names


def outcomes_of(command: Sequence[str]) -> dict[str, str]:
    """Runs the program; what it printed of each scenario, by name."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    assert result.returncode == 0, result.stdout + result.stderr
    printed = re.split(r"^(?=(?:ok|FAILED) )", result.stdout, flags=re.MULTILINE)[1:]
    return {text.split()[1]: text.strip() for text in printed}
