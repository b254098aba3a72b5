"""Bunny, the Ruby client (Debian: ruby-bunny), against the broker; the program is ruby/scenarios.rb."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from broker_process import BrokerAddress
from clients.program import outcomes_of, scenarios_of

PROGRAM = Path(__file__).parent / "ruby" / "scenarios.rb"
SCENARIOS = scenarios_of(PROGRAM, r"^  (\w+): lambda")


def there_is_bunny() -> bool:
    command = ["ruby", "-e", "require 'bunny'"]
    return shutil.which("ruby") is not None and subprocess.run(command, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not there_is_bunny(), reason="there is no Ruby with bunny (apt: ruby-bunny)")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What the one run of all scenarios printed of each; filled by the first test."""
    return {}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(
    scenario: str, outcomes: dict[str, str], broker: BrokerAddress, unique: Callable[[str], str]
) -> None:
    if not outcomes:
        outcomes.update(outcomes_of(["ruby", str(PROGRAM), broker.url, unique("ruby")]))
    assert outcomes.get(scenario, "it did not run") == f"ok {scenario}"
