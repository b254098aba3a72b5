"""Suites that others wrote for RabbitMQ, unmodified, against Pabal: those of kombu, py-amqp, amqpstorm and rabbitpy.

They are nearly all waiting, so each is cut into parts that run side by side, each against a broker of its own.
amqpstorm's tests know only port 5672: their brokers listen there on other loopback addresses than 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import random
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import pytest

from broker_process import BrokerProcess, ExternalBroker, free_port
from management.http_client import Api

HERE = Path(__file__).parent
DOWNLOAD_SECONDS_MAX = 120.0
PART_SECONDS_MAX = 100
CLUSTER_NAME = "rabbit@rmq.eandersson.net"
"""That of the broker that amqpstorm's author tests against, which one of the tests looks for."""
# Set where a suite that cannot run is a failure and not a skip.
REQUIRED = "PABAL_TEST_SUITES_REQUIRED"

pytestmark = [
    pytest.mark.timeout(DOWNLOAD_SECONDS_MAX + PART_SECONDS_MAX, method="signal"),
    pytest.mark.skipif(ExternalBroker.from_environment() is not None, reason="they start brokers of their own"),
]


@dataclass(frozen=True)
class Part:
    """Which tests of a suite one pytest process runs."""

    arguments: tuple[str, ...]
    port_is_fixed: bool = False


@dataclass(frozen=True)
class Suite:
    directory: str
    passes: int
    parts: list[Part] = field(default_factory=list)
    configuration: str = "setup.cfg"


KOMBU = ("t/integration/test_py_amqp.py",)
RMQ = ("t/integration/test_rmq.py",)
STORM = "amqpstorm/tests/functional"
STORM_RELIABILITY = (f"{STORM}/test_reliability.py",)
STORM_MANAGEMENT = (f"{STORM}/management", f"{STORM}/test_web_based.py")
# ssl needs RabbitMQ's certificates.
STORM_OTHERS = (
    STORM,
    f"--ignore={STORM}/management",
    f"--ignore={STORM}/ssl",
    f"--ignore={STORM}/test_web_based.py",
    f"--ignore={STORM}/test_reliability.py",
)

SUITES = {
    "kombu": Suite(
        "kombu-5.7.0",
        51,
        [
            Part((*KOMBU, "-k", "TimeToLive or BasicFunctionality")),
            Part((*KOMBU, "-k", "not (TimeToLive or BasicFunctionality)")),
        ],
    ),
    "py-amqp": Suite("amqp-5.4.2", 12, [Part((*RMQ, "-k", "not tls"))]),
    "rabbitpy": Suite(
        "rabbitpy-3.0.2",
        40,
        [Part(("tests/test_integration.py", "tests/integration"))],
        "pyproject.toml",
    ),
    "amqpstorm": Suite(
        "amqpstorm-3.1.4",
        154,
        [
            Part(STORM_MANAGEMENT, port_is_fixed=True),
            Part(STORM_OTHERS, port_is_fixed=True),
            Part((*STORM_RELIABILITY, "-k", "Poll"), port_is_fixed=True),
            Part((*STORM_RELIABILITY, "-k", "Select"), port_is_fixed=True),
            Part((*STORM_RELIABILITY, "-k", "not Poll and not Select"), port_is_fixed=True),
        ],
    ),
}


def cannot_run(why: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {why}")
    pytest.skip(why)


@pytest.fixture(scope="module")
def sources(request: pytest.FixtureRequest) -> Path:
    """A directory with the unpacked source distributions, kept between runs."""
    for module in ("dotenv", "pamqp", "requests"):
        if importlib.util.find_spec(module) is None:
            cannot_run(f"{module} is not installed (pip install '.[suites]')")
    pins = HERE / "sources.txt"
    cache = Path(request.config.cache.mkdir("pabal-suites"))  # type: ignore[union-attr]
    directory = cache / hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
    if not (directory / "unpacked").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        try:
            result = subprocess.run(
                [*command, "--require-hashes", "--dest", directory, "-r", pins],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            cannot_run("the suites could not be downloaded in time")
        if result.returncode != 0:
            cannot_run(f"the suites could not be downloaded:\n{result.stderr}")
        for archive in directory.glob("*.tar.gz"):
            with tarfile.open(archive) as opened:
                opened.extractall(directory, filter="data")
        (directory / "unpacked").touch()
    return directory


def loopback_address() -> str:
    """An address of this machine, other than 127.0.0.1, on which port 5672 is free."""
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    with socket.socket() as probe:
        try:
            probe.bind((address, 5672))
        except OSError as error:
            cannot_run(f"nothing can listen on {address}:5672 ({error}), the port that this suite knows")
    return address


class RunningPart:
    """A broker, and a pytest process that runs a part of a suite against it."""

    def __init__(self, part: Part, sources: Path, suite: Suite, directory: Path) -> None:
        if part.port_is_fixed:
            host = loopback_address()
            self.broker = BrokerProcess(directory, 5672, ["--bind", host], http_port=free_port())
            self.broker.host = host
        else:
            self.broker = BrokerProcess(directory)
        self.report = directory / "report.xml"
        self.output = directory / "output.txt"
        self.broker.start()
        if self.broker.http_port is not None:
            api = Api(self.broker)
            api.wait_until_ready()
            api.put("/cluster-name", {"name": CLUSTER_NAME})
        options = [
            "-q",
            "-c",
            suite.configuration,
            "-p",
            "no:cacheprovider",
            "--timeout=60",
            f"--junitxml={self.report}",
        ]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *part.arguments],
                cwd=sources / suite.directory,
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _environment(self) -> dict[str, str]:
        return {
            # kombu and py-amqp
            "RABBITMQ_HOST": self.broker.host,
            "RABBITMQ_5672_TCP": str(self.broker.port),
            # rabbitpy
            "RABBITMQ_URL": self.broker.url,
            # amqpstorm
            "AMQP_HOST": self.broker.host,
            "AMQP_USERNAME": "guest",
            "AMQP_PASSWORD": "guest",
            "AMQP_URI": self.broker.url,
            "AMQP_HTTP_URL": f"http://{self.broker.host}:{self.broker.http_port}",
            # One of them expects that 192.168.1.50 cannot be reached.
            "http_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.0/8",
            "PYTEST_ADDOPTS": "",
        }

    def result(self) -> tuple[dict[str, int], str]:
        """How many tests passed and did not, and what pytest and the broker wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PART_SECONDS_MAX)
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        if self.report.exists():
            found = ElementTree.parse(self.report).getroot().find("testsuite")
            assert found is not None
            counts["failed"] = int(found.get("failures", 0)) + int(found.get("errors", 0))
            counts["skipped"] = int(found.get("skipped", 0))
            counts["passed"] = int(found.get("tests", 0)) - counts["failed"] - counts["skipped"]
        return counts, self.output.read_text(errors="replace") + self.broker.log()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.broker.stop()


@pytest.fixture(scope="module")
def running(
    sources: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[RunningPart]]]:
    """All parts of the suites that were asked for, at the same time."""
    asked = [name for name in SUITES if f"[{name}]" in " ".join(item.name for item in request.session.items)]
    started: dict[str, list[RunningPart]] = {name: [] for name in asked}
    with contextlib.ExitStack() as stack:
        for name in asked:
            for part in SUITES[name].parts:
                one = RunningPart(part, sources, SUITES[name], tmp_path_factory.mktemp(name))
                stack.callback(one.close)
                started[name].append(one)
        yield started


@pytest.mark.parametrize("name", SUITES)
def test_suite(name: str, running: dict[str, list[RunningPart]]) -> None:
    results = [part.result() for part in running[name]]
    total = {outcome: sum(counts[outcome] for counts, _ in results) for outcome in ("passed", "failed", "skipped")}
    expected = {"passed": SUITES[name].passes, "failed": 0, "skipped": 0}
    assert total == expected, "\n\n".join(text for _, text in results)
