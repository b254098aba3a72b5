"""Fixtures of every test of a running broker: the process, its log on failure, unique names."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

import pabal
from broker_process import BrokerProcess, ExternalBroker

LOG_SHOWN_BYTES_MAX = 20_000


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("plain") is not None and pabal.compiled():
        pytest.skip("changes the broker's classes, and they are compiled")


Broker = BrokerProcess | ExternalBroker


@pytest.fixture(scope="session")
def session_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker most tests share: Pabal of this tree, or what PABAL_TEST_URL / PABAL_TEST_PORT names."""
    external = ExternalBroker.from_environment()
    if external is not None:
        yield external
        return
    process = BrokerProcess(tmp_path_factory.mktemp("broker"))
    try:
        process.start()
        yield process
        process.stop()
    finally:
        process.kill()


@pytest.fixture
def broker(session_broker: Broker, request: pytest.FixtureRequest) -> Broker:
    """A broker that answers now. Others use it as well: leave nothing behind, take unique names."""
    session_broker.ensure_running()
    _watched(request.node).append((session_broker, session_broker.log_size()))
    return session_broker


@pytest.fixture
def is_pabal(broker: Broker) -> bool:
    return not broker.is_external or broker.product() == "Pabal"


@pytest.fixture
def pabal_only(is_pabal: bool) -> None:
    """For what only Pabal offers."""
    if not is_pabal:
        pytest.skip("only Pabal has this, and another broker is being tested")


@pytest.fixture
def start_broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., BrokerProcess]]:
    """Starts brokers of the test's own, to be killed and restarted: `start_broker(arguments=[...])`."""
    if ExternalBroker.from_environment() is not None:
        pytest.skip("needs a broker of its own to kill and restart, and another broker is being tested")
    started: list[BrokerProcess] = []

    def start(**options: object) -> BrokerProcess:
        directory = tmp_path / f"broker-{len(started)}"
        directory.mkdir(exist_ok=True)
        process = BrokerProcess(directory, **options)  # type: ignore[arg-type]
        started.append(process)
        _watched(request.node).append((process, 0))
        return process.start()

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Names nobody else uses: `unique("orders")`."""
    return lambda prefix: f"{prefix}.{uuid.uuid4().hex[:12]}"


_WATCHED = pytest.StashKey[list[tuple[Broker, int]]]()


def _watched(item: pytest.Item) -> list[tuple[Broker, int]]:
    return item.stash.setdefault(_WATCHED, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its brokers wrote since it began."""
    report = yield
    if report.failed:
        for broker, since in item.stash.get(_WATCHED, []):
            text = broker.log(since)[-LOG_SHOWN_BYTES_MAX:]
            report.sections.append((f"broker log, port {broker.port}", text or "(nothing)"))
    return report
