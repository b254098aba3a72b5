"""The broker as a service: what it logs, what it tells its supervisor, its first user, its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
import trustme

from broker_process import SOURCE, BrokerProcess, free_port
from robustness import peers as p

StartBroker = Callable[..., BrokerProcess]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def connect(broker: BrokerProcess, user: str = "guest", password: str = "guest") -> pika.BlockingConnection:
    credentials = pika.PlainCredentials(user, password)
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", broker.port, credentials=credentials))


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pabal serve` that is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "pabal", "serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --- Logs ---------------------------------------------------------------------------------------------------------


def test_json_lines(start_broker: StartBroker) -> None:
    """Every line of the output is an object; what concerns a connection says which, whose and where."""
    broker = start_broker(arguments=["--log-format", "json"])
    connect(broker).close()
    with pytest.raises(pika.exceptions.AMQPError):
        connect(broker, "guest", "the secret \n word")
    channel = connect(broker).channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        channel.queue_declare("há", passive=True)
    p.eventually(lambda: "no queue" in broker.log(), "the last line")
    broker.stop()
    lines = [json.loads(line) for line in broker.log().splitlines()]
    for line in lines:
        assert RFC_3339.fullmatch(line["time"])
        assert line["level"] in ("info", "warning", "error")
        assert line["event"]
    events = {line["event"]: line for line in lines}
    opened = next(line for event, line in events.items() if event.startswith("opened vhost"))
    assert (opened["user"], opened["vhost"]) == ("guest", "/")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", opened["connection"])
    refused = next(line for event, line in events.items() if event.startswith("refused: "))
    assert "vhost" not in refused
    assert any("no queue 'há' in vhost '/'" in event for event in events)
    assert any(event.startswith("listens for AMQP 0-9-1 at 127.0.0.1:") for event in events)
    assert any(event.startswith("stopped") for event in events)
    assert "secret" not in broker.log()


def test_a_log_file_can_be_moved_away(start_broker: StartBroker, tmp_path: Path) -> None:
    """What log rotation does: the next line goes to a new file of the name, without a signal."""
    file = tmp_path / "pabal.log"
    broker = start_broker(environment={"PABAL_LOG_FILE": str(file)})
    connect(broker).close()
    p.eventually(lambda: "closed by the client" in file.read_text() or "opened vhost" in file.read_text(), "a line")
    file.rename(tmp_path / "pabal.log.1")
    connect(broker).close()
    p.eventually(lambda: file.exists() and "opened vhost '/' as user 'guest'" in file.read_text(), "a line")
    assert "ready" not in file.read_text()
    broker.stop()
    assert file.read_text().rstrip().endswith("stopped: everything confirmed is on disk")
    assert broker.log() == ""


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    ended = run(tmp_path, PABAL_LOG_FILE=str(tmp_path / "none" / "pabal.log"))
    assert ended.returncode == 2
    assert "No such file or directory" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- A supervisor -------------------------------------------------------------------------------------------------


class Supervisor:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.settimeout(p.WAIT_SECONDS_MAX)

    def next(self, *, skip: str = "WATCHDOG=1") -> dict[str, str]:
        while True:
            text = self._socket.recv(4096).decode()
            if text != skip:
                return dict(line.split("=", 1) for line in text.splitlines())

    def watchdog(self) -> None:
        while self._socket.recv(4096) != b"WATCHDOG=1":
            pass


@pytest.mark.parametrize("abstract", [False, True])
def test_what_the_supervisor_is_told(start_broker: StartBroker, tmp_path: Path, abstract: bool) -> None:
    address = f"@pabal-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    supervisor = Supervisor(address)
    broker = start_broker(environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"})
    told = supervisor.next()
    assert (told["READY"], told["MAINPID"]) == ("1", str(broker.pid))
    assert f"amqp 127.0.0.1:{broker.port}" in told["STATUS"]
    for _ in range(3):
        supervisor.watchdog()
    os.kill(broker.pid, signal.SIGHUP)
    told = supervisor.next()
    assert told["RELOADING"] == "1"
    assert int(told["MONOTONIC_USEC"]) > 0
    assert supervisor.next()["READY"] == "1"
    os.kill(broker.pid, signal.SIGTERM)
    told = supervisor.next()
    assert (told["STOPPING"], told["STATUS"]) == ("1", "stopping: signal SIGTERM")
    broker.stop()


def test_a_supervisor_that_is_gone_does_no_harm(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker(environment={"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "100000"})
    connect(broker).close()
    broker.stop()


# --- The first user -----------------------------------------------------------------------------------------------


def test_the_default_user(start_broker: StartBroker, tmp_path: Path) -> None:
    """Made once: a password that is given later does not change it, nor does guest come back."""
    secret = tmp_path / "secret"
    secret.write_text("pass word\n")
    broker = BrokerProcess(
        tmp_path, environment={"PABAL_DEFAULT_USER": "admin", "PABAL_DEFAULT_PASSWORD_FILE": str(secret)}
    )
    broker.answers = lambda: b"ready" in broker.log_path.read_bytes()  # type: ignore[method-assign]
    try:
        broker.start()
        connect(broker, "admin", "pass word").close()
        with pytest.raises(pika.exceptions.AMQPError):
            connect(broker)
        secret.write_text("another")
        broker.stop()
        broker.log_path.unlink()
        broker.start()
        connect(broker, "admin", "pass word").close()
        broker.stop()
        assert "pass word" not in broker.log()
    finally:
        broker.kill()


def test_no_user_at_all(tmp_path: Path) -> None:
    ended = run(tmp_path, PABAL_DEFAULT_USER="")
    assert ended.returncode == 2
    assert "there is no user yet, so nobody could connect" in ended.stderr
    suggested = re.search(r"PABAL_DEFAULT_PASSWORD=(\S{16})", ended.stderr)
    assert suggested and suggested[1] not in run(tmp_path, PABAL_DEFAULT_USER="").stderr


def test_a_default_user_needs_a_password(tmp_path: Path) -> None:
    ended = run(tmp_path, PABAL_DEFAULT_USER="admin")
    assert (ended.returncode, "without default_password" in ended.stderr) == (2, True)


# --- Exit codes ---------------------------------------------------------------------------------------------------


def test_the_banner_says_where_everything_is(start_broker: StartBroker) -> None:
    said = start_broker(http_port=free_port(), environment={"PABAL_METRICS_PORT": "0"}).log()
    assert re.search(r"^  HTTP API +http://127\.0\.0\.1:\d+/api/$", said, re.MULTILINE)
    assert re.search(r"^  metrics +http://127\.0\.0\.1:\d+/metrics$", said, re.MULTILINE)


def test_exit_codes(start_broker: StartBroker, tmp_path: Path) -> None:
    """0 is what BrokerProcess.stop asks for. 1: it cannot have what it needs; 2: what it was told is not valid."""
    broker = start_broker()
    ended = run(broker.directory)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), "a data directory in use"
    for option, setting in (("--port", "port"), ("--http-port", "http_port")):
        ended = run(tmp_path, option, str(broker.port))
        assert ended.returncode == 1, "a port in use"
        said = ended.stderr.splitlines()[-1]
        assert said == f"pabal: cannot listen on 127.0.0.1 port {broker.port} ({setting}): Address already in use"
    assert run(tmp_path, PABAL_LOG_LEVEL="loud").returncode == 2


# --- In a container -----------------------------------------------------------------------------------------------


def health(port: int, **environment: str) -> tuple[int, str]:
    """What the image's health check says of a broker: exit code and output."""
    program = Path(__file__).parents[2] / "packaging" / "docker" / "healthcheck.py"
    checked = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PABAL_PORT": str(port), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return checked.returncode, checked.stderr


def test_the_health_check(start_broker: StartBroker) -> None:
    broker = start_broker()
    since = broker.log_size()
    for address in ("", "0.0.0.0", "127.0.0.1"):
        assert health(broker.port, PABAL_BIND=address) == (0, "")
    os.kill(broker.pid, signal.SIGSTOP)
    assert health(broker.port) == (1, f"no answer from 127.0.0.1 port {broker.port}: timed out\n")
    os.kill(broker.pid, signal.SIGCONT)
    assert health(broker.port) == (0, "")
    broker.stop()
    assert "closed by the client" not in broker.log(since), "it asks every few seconds: no line for each"
    code, said = health(broker.port)
    assert (code, len(said.splitlines()), "Connection refused" in said) == (1, 1, True)


@pytest.mark.parametrize("verify", ["none", "required"])
def test_the_health_check_over_tls(start_broker: StartBroker, tmp_path: Path, verify: str) -> None:
    """It has no certificate of its own: to be asked for one is an answer too."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    port = free_port()
    broker = start_broker(
        environment={
            "PABAL_TLS_CERTIFICATE": str(tmp_path / "server.pem"),
            "PABAL_TLS_CA": str(tmp_path / "ca.pem"),
            "PABAL_TLS_VERIFY": verify,
            "PABAL_TLS_PORT": str(port),
            "PABAL_HTTPS_PORT": "0",
        }
    )
    assert health(-1, PABAL_TLS_PORT=str(port)) == (0, "")
    os.kill(broker.pid, signal.SIGSTOP)
    assert health(-1, PABAL_TLS_PORT=str(port))[0] == 1
    os.kill(broker.pid, signal.SIGCONT)


def test_the_health_check_over_ipv6() -> None:
    """A broker that listens there only, as with PABAL_BIND=::, answers there only."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6")

    def greet() -> None:
        for first_byte in (b"\x01", b"H"):
            peer, _ = listener.accept()
            with peer:
                peer.recv(8)
                peer.send(first_byte)

    with listener:
        threading.Thread(target=greet, daemon=True).start()
        port = listener.getsockname()[1]
        assert health(port, PABAL_BIND="::") == (0, "")
        assert health(port, PABAL_BIND="::") == (1, f"no answer from :: port {port}: something else than AMQP\n")


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """systemd's own check, where it is installed."""
    source = (Path(__file__).parents[2] / "packaging" / "systemd" / "pabal.service").read_text()
    unit = tmp_path / "pabal.service"
    unit.write_text(source.replace("/opt/pabal/bin/pabal", sys.executable))
    try:
        checked = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze")
    assert (checked.returncode, checked.stderr) == (0, "")
