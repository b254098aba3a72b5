"""A broker with an HTTP API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker_process import BrokerProcess, ExternalBroker, free_port
from management.http_client import Api


@pytest.fixture(scope="session")
def api_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    if ExternalBroker.from_environment() is not None:
        pytest.skip("these start brokers of their own")
    process = BrokerProcess(tmp_path_factory.mktemp("api"), http_port=free_port())
    try:
        process.start()
        Api(process).wait_until_ready()
        yield process
        process.stop()
    finally:
        process.kill()


@pytest.fixture
def api(api_broker: BrokerProcess) -> Api:
    return Api(api_broker)


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One that a test may kill."""
    if ExternalBroker.from_environment() is not None:
        pytest.skip("these start brokers of their own")
    process = BrokerProcess(tmp_path_factory.mktemp("own"), http_port=free_port())
    try:
        process.start()
        Api(process).wait_until_ready()
        yield process
    finally:
        process.kill()
