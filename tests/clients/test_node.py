"""Node's amqplib: each scenario of node/scenarios.mjs runs in a process of its own and prints what it saw."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from broker_process import BrokerAddress
from clients.pika_client import Names

NODE, NPM = shutil.which("node"), shutil.which("npm")
SOURCES = Path(__file__).parent / "node"
INSTALL_SECONDS_MAX = 100.0
SCENARIO_SECONDS_MAX = 20.0

pytestmark = pytest.mark.skipif(NODE is None or NPM is None, reason="node or npm is not on PATH")


@pytest.fixture(scope="session")
def node_directory(request: pytest.FixtureRequest) -> Path:
    """A directory with amqplib installed, kept between runs, and the scenarios as they are now."""
    lock = (SOURCES / "package-lock.json").read_bytes()
    cache = Path(request.config.cache.mkdir("pabal-node"))  # type: ignore[union-attr]
    directory = cache / hashlib.sha256(lock).hexdigest()[:16]
    installed = directory / "installed"
    directory.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", "scenarios.mjs"):
        shutil.copy(SOURCES / name, directory / name)
    if not installed.exists():
        assert NPM is not None
        command = [NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
        assert result.returncode == 0, f"npm ci failed:\n{result.stdout}{result.stderr}"
        installed.touch()
    return directory


class Scenarios:
    def __init__(self, directory: Path, broker: BrokerAddress, names: Names) -> None:
        self.directory = directory
        self.broker = broker
        self.names = names

    def run(self, scenario: str) -> tuple[str, dict[str, Any]]:
        """The prefix its queues bear, and what the scenario printed."""
        assert NODE is not None
        prefix = self.names.queue(scenario)
        self.names.queues.append(prefix + ".dead")
        result = subprocess.run(
            [NODE, "scenarios.mjs", self.broker.url, scenario, prefix],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=SCENARIO_SECONDS_MAX,
            env={**os.environ, "NODE_NO_WARNINGS": "1"},
        )
        assert result.returncode == 0, result.stderr
        return prefix, json.loads(result.stdout)


@pytest.fixture
def node(node_directory: Path, broker: BrokerAddress, names: Names) -> Scenarios:
    return Scenarios(node_directory, broker, names)


def test_confirms_consume_and_settle(node: Scenarios) -> None:
    _, seen = node.run("work")
    assert seen == {
        "messageCount": 0,
        "counted": 10,
        "refused": 2,
        "order": [str(n) for n in range(10)],
        "redelivered": ["4", "5"],
        "left": 0,
    }


def test_prefetch(node: Scenarios) -> None:
    _, seen = node.run("prefetch")
    assert seen == {"first": ["0", "1"], "held": 4, "before": 2, "then": ["0", "1", "2", "3"]}


def test_headers_and_properties(node: Scenarios) -> None:
    _, seen = node.run("headers")
    assert (seen["serverNamed"], seen["empty"]) == (True, False)
    assert seen["headers"] == {
        "kind": "order",
        "size": 3,
        "flag": True,
        "none": None,
        "list": [1, "two", {"three": 3.5}],
        "far": 2**40,
    }
    assert seen["same"] is True


def test_mandatory(node: Scenarios) -> None:
    _, seen = node.run("returned")
    assert seen == {"body": "x", "code": 312, "reason": "NO_ROUTE", "order": ["return", "ack"]}


def test_nack_of_a_full_queue(node: Scenarios) -> None:
    _, seen = node.run("refused")
    assert seen == {"outcomes": ["ack", "nack", "nack"]}


def test_dead_letters(node: Scenarios) -> None:
    _, seen = node.run("deadLetters")
    assert seen == {"body": "late", "reason": "expired", "queue": True, "count": 1}


def test_errors(node: Scenarios) -> None:
    prefix, seen = node.run("missing")
    assert seen["code"] == 404
    assert f"NOT_FOUND - no queue '{prefix}.nowhere' in vhost '/'" in seen["thrown"]
    assert seen["mismatch"]["code"] == 406
    text = f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{prefix}' in vhost '/': "
    assert text + "received 'false' but current is 'true'" in seen["mismatch"]["message"]
    assert seen["stillOpen"] is True


def test_cancel_notification(node: Scenarios) -> None:
    _, seen = node.run("cancelled")
    assert seen == {"message": None}


def test_a_large_message(node: Scenarios) -> None:
    _, seen = node.run("large")
    assert seen == {"same": True}


def test_remote_procedure_call(node: Scenarios) -> None:
    _, seen = node.run("rpc")
    assert seen == {"answers": {f"c{n}": str(n * 2) for n in range(5)}}
