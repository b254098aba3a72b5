"""The HTTP API over TLS, and the health check that warns before its certificate ends."""

from __future__ import annotations

import http.client
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from broker_process import BrokerProcess, ExternalBroker, free_port
from management.http_client import Api
from pabal.server.certificate import expires_s

pytestmark = pytest.mark.skipif(
    ExternalBroker.from_environment() is not None, reason="they start brokers of their own"
)


def issue(directory: Path, ends: datetime) -> tuple[Path, Path]:
    """A certificate for localhost with its key, and the root to trust."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1", not_after=ends)
    file, root = directory / "server.pem", directory / "root.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    authority.cert_pem.write_to_path(root)
    return file, root


@pytest.mark.parametrize(("days", "left"), [(40, 40), (-1, None)], ids=["good", "ended"])
def test_when_a_certificate_ends(tmp_path: Path, days: int, left: int | None) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    file, _ = issue(tmp_path, ends)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    assert expires_s(context, str(file)) == (ends.timestamp() if left else 0)


def test_the_api_over_tls(tmp_path: Path) -> None:
    file, root = issue(tmp_path, datetime.now(UTC) + timedelta(days=40))
    https_port = free_port()
    environment = {
        "PABAL_TLS_CERTIFICATE": str(file),
        "PABAL_TLS_PORT": str(free_port()),
        "PABAL_HTTPS_PORT": str(https_port),
    }
    broker = BrokerProcess(tmp_path, environment=environment, http_port=free_port())
    try:
        broker.start()
        api = Api(broker)
        api.wait_until_ready()
        context = ssl.create_default_context(cafile=str(root))
        connection = http.client.HTTPSConnection("localhost", https_port, context=context, timeout=10)
        connection.request("GET", "/api/whoami", headers=api.headers)
        assert connection.getresponse().read() == b'{"name":"guest","tags":["administrator"]}'
        connection.close()
        assert api.get("/health/checks/certificate-expiration/30/days").status == 200
        soon = api.get("/health/checks/certificate-expiration/2/months")
        assert (soon.status, soon.value["reason"]) == (503, "Certificates expiring")
        assert {each["port"] for each in soon.value["expired"]} >= {str(https_port)}
        protocols = [listener["protocol"] for listener in api.get("/overview").value["listeners"]]
        assert {"amqp", "amqp/ssl", "http", "https"} <= set(protocols)
        broker.stop()
    finally:
        broker.kill()
