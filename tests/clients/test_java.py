"""RabbitMQ's Java client (Debian: librabbitmq-client-java) against the broker; the programs are in java/."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from broker_process import BrokerAddress, BrokerProcess
from clients.program import RUN_SECONDS_MAX, outcomes_of, scenarios_of

SOURCES = Path(__file__).parent / "java"
JARS = [Path("/usr/share/java") / name for name in ("amqp-client.jar", "slf4j-api.jar")]
COMPILE_SECONDS_MAX = 50.0

MISSING = [tool for tool in ("java", "javac") if shutil.which(tool) is None]
MISSING += [str(jar) for jar in JARS if not jar.exists()]

pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"there is no {', '.join(MISSING)} (apt: librabbitmq-client-java default-jdk-headless)",
)

SCENARIOS = scenarios_of(SOURCES / "Scenarios.java", r'^ +run\("(\w+)"')


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    classes = tmp_path_factory.mktemp("classes")
    path = ":".join(map(str, [classes, *JARS]))
    command = ["javac", "-nowarn", "-encoding", "UTF-8", "-cp", path, "-d", str(classes)]
    result = subprocess.run(
        [*command, *map(str, SOURCES.glob("*.java"))], capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX
    )
    assert result.returncode == 0, result.stderr
    return path


def java(classpath: str, *arguments: str) -> list[str]:
    # Compiled lightly: it is done in a second.
    return ["java", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp", classpath, *arguments]


@pytest.fixture(scope="module")
def outcomes(classpath: str) -> dict[str, str]:
    """What the one run of all scenarios printed of each; filled by the first test."""
    return {}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(
    scenario: str, outcomes: dict[str, str], classpath: str, broker: BrokerAddress, unique: Callable[[str], str]
) -> None:
    if not outcomes:
        outcomes.update(outcomes_of(java(classpath, "Scenarios", broker.url, unique("java"))))
    assert outcomes.get(scenario, "it did not run") == f"ok {scenario}"


def test_recovery(classpath: str, start_broker: Callable[..., BrokerProcess]) -> None:
    """The broker is killed under a client that recovers by itself."""
    broker = start_broker()
    process = subprocess.Popen(
        java(classpath, "Recovery", broker.url, "recovered"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        broker.restart(kill=True)
        output, errors = process.communicate(timeout=RUN_SECONDS_MAX)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "RECOVERED\n"), errors
