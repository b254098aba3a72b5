"""A broker with an HTTP API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_process import BrokerProcess, ExternalBroker, free_port
from management.http_client import Api


@contextlib.contextmanager
def broker_with_api(directory: Path) -> Iterator[BrokerProcess]:
    if ExternalBroker.from_environment() is not None:
        pytest.skip("these start brokers of their own")
    process = BrokerProcess(directory, http_port=free_port())
    try:
        process.start()
        Api(process).wait_until_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="session")
def api_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with broker_with_api(tmp_path_factory.mktemp("api")) as process:
        yield process
        process.stop()


@pytest.fixture
def api(api_broker: BrokerProcess) -> Api:
    return Api(api_broker)


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One that a test may kill."""
    with broker_with_api(tmp_path_factory.mktemp("own")) as process:
        yield process
