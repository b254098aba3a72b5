"""AMQP over TLS with clients as they are: certificates, their names, their renewal, and what is no TLS."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aio_pika
import pika
import pytest
import trustme

from broker_process import BrokerProcess, free_port
from pabal.model.passwords import hash_password
from robustness import peers as p

StartBroker = Callable[..., BrokerProcess]
MIB = 1024 * 1024


class Authority:
    """A certificate authority of the test's own, and files of what it issued."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str, *identities: str, **options: str) -> tuple[Path, Path]:
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        issued = self.ca.issue_cert(*identities, **options)
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def client_context(self, *, name: str = "", **options: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if name:
            certificate, key = self.issue(name, **options) if options else self.issue(name, f"{name}@example.org")
            context.load_cert_chain(certificate, key)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start_tls(start_broker: StartBroker, authority: Authority) -> Callable[..., tuple[BrokerProcess, int]]:
    """Starts a broker with a certificate for localhost; the broker and its TLS port."""

    def start(arguments: list[str] | None = None, **settings: str) -> tuple[BrokerProcess, int]:
        certificate, key = authority.issue("server", "localhost", "127.0.0.1")
        port = free_port()
        environment = {
            "PABAL_TLS_PORT": str(port),
            "PABAL_HTTPS_PORT": str(free_port()),
            "PABAL_TLS_CERTIFICATE": str(certificate),
            "PABAL_TLS_KEY": str(key),
            **{f"PABAL_{name.upper()}": value for name, value in settings.items()},
        }
        return start_broker(environment=environment, arguments=arguments or []), port

    return start


@contextmanager
def pika_connection(port: int, context: ssl.SSLContext) -> Iterator[pika.BlockingConnection]:
    options = pika.SSLOptions(context, "localhost")
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, ssl_options=options))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def serial(port: int, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that is shown to new connections."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return str((encrypted.getpeercert() or {})["serialNumber"])


def test_pika_over_tls(start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority) -> None:
    broker, port = start_tls()
    with pika_connection(port, authority.client_context()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("secret", durable=True)
        bodies = [b"", b"x", b"y" * 16_384, b"z" * 100_000, bytes(range(256)) * 40_000]
        for body in bodies:
            channel.basic_publish("", "secret", body, pika.BasicProperties(delivery_mode=2))
        assert [channel.basic_get("secret", auto_ack=True)[2] for _ in bodies] == bodies
    assert "Traceback" not in broker.log()
    assert broker.answers(), "and without TLS, on the other port"


def test_aio_pika_over_tls(start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority) -> None:
    """Publishes and consumes at the same time, so that reading and writing meet in the same connection."""
    _, port = start_tls()
    count = 5000

    async def run() -> None:
        url = f"amqps://guest:guest@localhost:{port}/"
        connection = await aio_pika.connect(url, ssl=True, ssl_context=authority.client_context())
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(100)
            queue = await channel.declare_queue("both", durable=True)
            received: list[bytes] = []
            done = asyncio.Event()

            async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                received.append(message.body)
                await message.ack()
                if len(received) == count:
                    done.set()

            await queue.consume(take)
            bodies = [b"%d" % n + b"." * (n * 7 % 5000) for n in range(count)]
            for at in range(0, count, 500):
                messages = [aio_pika.Message(body) for body in bodies[at : at + 500]]
                await asyncio.gather(*(channel.default_exchange.publish(m, "both") for m in messages))
            await asyncio.wait_for(done.wait(), 60)
            assert received == bodies

    asyncio.run(run())


def test_output_that_is_not_read_waits(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority
) -> None:
    """Back-pressure holds over TLS as well: for who does not read, 100 MB stay in the queue, then come in order."""
    broker, port = start_tls()
    with p.Peer(broker.port) as peer:
        peer.declare("much")
    count = 10_000
    p.fill(broker.port, "much", (b"%05d" % n + b"x" * 10_000 for n in range(count)))
    before = p.anonymous_bytes(broker.pid)
    with pika_connection(port, authority.client_context()) as connection:
        channel = connection.channel()
        taken: list[bytes] = []

        def take(_: object, method: pika.spec.Basic.Deliver, __: object, body: bytes) -> None:
            taken.append(body[:5])
            if len(taken) % 500 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if len(taken) == count:
                channel.stop_consuming()

        channel.basic_consume("much", take)
        with p.Peer(broker.port) as other:
            settled = -1
            while settled != (settled := other.ready("much")):
                time.sleep(0.1)
            assert settled > count // 2
        assert p.anonymous_bytes(broker.pid) - before < 60 * MIB
        channel.start_consuming()
        assert taken == [b"%05d" % n for n in range(count)]


def test_old_protocols_are_refused(start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority) -> None:
    broker, port = start_tls()
    context = authority.client_context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        serial(port, context)
    p.eventually(lambda: "TLS handshake failed: unsupported protocol" in broker.log(), "a line of the log")


@pytest.mark.parametrize(
    ("version", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
def test_versions(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority, version: ssl.TLSVersion, name: str
) -> None:
    _, port = start_tls()
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    with pika_connection(port, context) as connection:
        connection.channel().queue_declare(name)


# --- Certificates of clients --------------------------------------------------------------------------------------


def test_a_certificate_can_be_required(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority, tmp_path: Path
) -> None:
    broker, port = start_tls(tls_verify="required", tls_ca=str(authority.ca_file))
    with pika_connection(port, authority.client_context(name="anna")) as connection:
        connection.channel().queue_declare("q")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    stranger = authority.client_context()
    stranger.load_cert_chain(*Authority(strangers).issue("stranger", "eve@example.org"))
    for context in (authority.client_context(), stranger):
        with pytest.raises((pika.exceptions.AMQPError, ssl.SSLError, ConnectionError)):
            pika_connection(port, context).__enter__()
    p.eventually(lambda: "peer did not return a certificate" in broker.log(), "one had none")
    p.eventually(lambda: "the certificate was not accepted" in broker.log(), "one had another's")


def test_a_certificate_can_be_optional(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority
) -> None:
    _, port = start_tls(tls_verify="optional", tls_ca=str(authority.ca_file))
    for context in (authority.client_context(), authority.client_context(name="anna")):
        with pika_connection(port, context) as connection:
            connection.channel().queue_declare("q")


@pytest.mark.parametrize(
    ("login_from", "user"),
    [
        ("common_name", "anna"),
        ("distinguished_name", "CN=anna,OU=relay riders,O=Pabal"),
        ("subject_alternative_name", "anna.example.org"),
    ],
)
def test_who_a_certificate_is_for(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority, login_from: str, user: str
) -> None:
    """EXTERNAL: the user is the one that the certificate names, if there is one; a password is not asked for."""
    kept = json.dumps(hash_password("guest", b"salt" * 4, 16))
    config = authority.directory / "pabal.toml"
    config.write_text(f"[users]\nguest = {kept}\n{json.dumps(user)} = {kept}\n")
    broker, port = start_tls(
        ["--config", str(config)], tls_verify="optional", tls_ca=str(authority.ca_file), tls_login_from=login_from
    )
    names = {"organization_name": "Pabal", "organization_unit_name": "relay riders"}

    def connect(identity: str, common_name: str) -> pika.BlockingConnection:
        context = authority.client_context()
        context.load_cert_chain(*authority.issue(common_name, identity, common_name=common_name, **names))
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                "127.0.0.1",
                port,
                ssl_options=pika.SSLOptions(context, "localhost"),
                credentials=pika.credentials.ExternalCredentials(),
            )
        )

    connect("anna.example.org", "anna").close()
    assert f"opened vhost '/' as user '{user}'" in broker.log()
    with pytest.raises(pika.exceptions.AMQPError):
        connect("eve.example.org", "eve")


# --- Renewal ------------------------------------------------------------------------------------------------------


def test_certificates_are_renewed_by_a_signal(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority
) -> None:
    broker, port = start_tls()
    context = authority.client_context()
    first = serial(port, context)
    with pika_connection(port, context) as connection:
        channel = connection.channel()
        authority.issue("server", "localhost", "127.0.0.1")
        broker.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        p.eventually(lambda: serial(port, context) != first, "new connections see the new certificate")
        channel.queue_declare("still.here")
        second = serial(port, context)

        (authority.directory / "server.key").write_text("no key")
        broker.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        p.eventually(
            lambda: "certificate refused, the old one stays: tls_certificate: cannot use" in broker.log(), ""
        )
        assert serial(port, context) == second
        authority.issue("server", "localhost")
        (authority.directory / "server.pem").write_bytes((authority.directory / "ca.pem").read_bytes())
        before = broker.log().count("certificate refused")
        broker.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        p.eventually(lambda: broker.log().count("certificate refused") > before, "a key of another certificate")
        assert serial(port, context) == second
        channel.queue_declare("still.here")


def test_a_bad_certificate_stops_the_start(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path, environment={"PABAL_TLS_CERTIFICATE": str(tmp_path / "none.pem")})
    with pytest.raises(AssertionError, match="the broker exited with 2"):
        broker.start()
    assert "No such file or directory" in broker.log()
    assert "Traceback" not in broker.log()


def test_https(start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority) -> None:
    """The HTTP API, with the same certificate; nobody is asked for one there. It is renewed as well."""
    port = free_port()
    broker, tls_port = start_tls(
        http="true",
        https_port=str(port),
        http_port=str(free_port()),
        tls_verify="required",
        tls_ca=str(authority.ca_file),
    )
    context = authority.client_context()

    def get(path: str) -> object:
        request = urllib.request.Request(f"https://localhost:{port}/api/{path}")
        request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            return json.load(answer)

    assert "https://" in broker.log(), "in the banner"
    assert isinstance(get("overview"), dict)
    first = serial(port, context)
    authority.issue("server", "localhost", "127.0.0.1")
    broker.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    p.eventually(lambda: serial(port, context) != first, "new connections see the new certificate")
    with pika_connection(tls_port, authority.client_context(name="anna")) as connection:
        connection.channel()
        (shown,) = [c for c in get("connections") if c.get("ssl")]  # type: ignore[attr-defined]
    assert shown["peer_cert_subject"]
    assert shown["peer_cert_validity"].count("Z") == 2


# --- What is no TLS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(p.PROTOCOL_HEADER, id="amqp"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="http"),
        pytest.param(b"\xff" * 100_000, id="garbage"),
        pytest.param(b"\x16\x03\x01\x40\x00" + b"\xfe" * 16_384, id="garbage in a record"),
    ],
)
def test_what_is_no_tls_is_refused(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority, data: bytes
) -> None:
    broker, port = start_tls()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        try:
            client.sendall(data)
            while client.recv(1000):
                pass
        except ConnectionError:
            pass
    p.eventually(lambda: "refused: TLS handshake failed: " in broker.log(), "a line of the log")
    assert "Traceback" not in broker.log()
    serial(port, authority.client_context())


def test_garbage_after_the_handshake_ends_the_connection(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority
) -> None:
    broker, port = start_tls()
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            connection.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.sendall(outgoing.read())
            incoming.write(client.recv(65_536))
    connection.write(p.PROTOCOL_HEADER)
    client.sendall(outgoing.read() + b"\x17\x03\x03\x01\x00" + b"garbage." * 32)
    try:
        while client.recv(65_536):
            pass
    except ConnectionError:
        pass
    p.eventually(lambda: "closed: TLS: " in broker.log(), "a line of the log")
    assert "Traceback" not in broker.log()


def test_half_a_handshake_is_ended_in_time(
    start_tls: Callable[..., tuple[BrokerProcess, int]], authority: Authority
) -> None:
    broker, port = start_tls()
    hello = tls_hello()
    waiting = []
    for said in (b"", hello[:50], hello):
        client = socket.create_connection(("127.0.0.1", port), timeout=15)
        client.sendall(said)
        waiting.append(client)
    begun = time.monotonic()
    threads = [threading.Thread(target=read_to_end, args=(client,)) for client in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 < time.monotonic() - begun < 14
    assert broker.log().count("refused: TLS handshake not finished within 10 s") == len(waiting)


def read_to_end(client: socket.socket) -> None:
    while client.recv(65_536):
        pass
    client.close()


def tls_hello() -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()
