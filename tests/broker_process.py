"""Starts, kills and restarts a real broker process for the tests, or stands for one that already listens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pabal
from clients.raw_client import RawClient

READY_SECONDS_MAX = 10.0
STOP_SECONDS_MAX = 10.0
SOURCE = Path(pabal.__file__).resolve().parent.parent
"""Where the Pabal is that is tested: these sources, or a compiled copy that is installed."""


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class BrokerAddress:
    """Where a broker listens, whoever started it."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        return self.url_for("guest", "guest", "%2F")

    def url_for(self, user: str, password: str, vhost: str) -> str:
        return f"amqp://{user}:{password}@{self.host}:{self.port}/{vhost}"

    def product(self) -> str:
        """What the broker calls itself in connection.start."""
        with RawClient(self.host, self.port) as client:
            return str(client.start().server_properties.get("product"))

    def answers(self) -> bool:
        """Whether a whole handshake, up to connection.open-ok, succeeds now."""
        try:
            with RawClient(self.host, self.port, timeout_seconds=2.0) as client:
                client.handshake()
                client.close_connection()
        except OSError:
            return False
        return True


class ExternalBroker(BrokerAddress):
    """A broker that was there before the tests; it can be neither killed nor restarted."""

    is_external = True

    @classmethod
    def from_environment(cls) -> ExternalBroker | None:
        url, port = os.environ.get("PABAL_TEST_URL"), os.environ.get("PABAL_TEST_PORT")
        if url:
            parts = urlsplit(url)
            return cls(parts.port or 5672, parts.hostname or "127.0.0.1")
        return cls(int(port)) if port else None

    def ensure_running(self) -> None:
        assert self.answers(), f"nothing answers AMQP at {self.url}"

    def log(self, since: int = 0) -> str:
        return f"(the broker at {self.url} was started elsewhere)"

    def log_size(self) -> int:
        return 0


class BrokerProcess(BrokerAddress):
    """`python -m pabal serve` as a child process, with its own data directory and log file. `http_port`: of its HTTP
    API, which it has only then: hundreds of tests do not need one."""

    is_external = False

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "pabal"),
        http_port: int | None = None,
    ) -> None:
        super().__init__(port or free_port())
        self.http_port = http_port
        self.directory = directory
        self.data = directory / "data"
        self.program = list(program)
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.log_path = directory / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "the broker has not been started"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> BrokerProcess:
        """Starts the process and returns when a client can complete a handshake."""
        assert not self.is_running, "the broker runs already"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PABAL_")},
            "PYTHONPATH": str(SOURCE),
            "PYTHONUNBUFFERED": "1",
            **({"PABAL_HTTP": "false"} if self.http_port is None else {"PABAL_HTTP_PORT": str(self.http_port)}),
            **self.environment,
        }
        command = [sys.executable, *self.program, "serve", "--port", str(self.port), "--data", str(self.data)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command + self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.directory,
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self.answers():
            if not self.is_running:
                code = self.process.returncode if self.process else None
                raise AssertionError(f"the broker exited with {code} at its start:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the broker was not ready in {READY_SECONDS_MAX} s:\n{self.log()}")
            time.sleep(0.01)

    def ensure_running(self) -> None:
        """Starts the broker anew when an earlier test brought it down, or to a standstill."""
        if self.is_running and not self.answers():
            self.kill()
        if not self.is_running:
            self.start()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """SIGTERM; the broker must exit with 0 in time."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the broker did not stop in {STOP_SECONDS_MAX} s:\n{self.log()}") from None
        assert code == 0, f"the broker exited with {code}:\n{self.log()}"

    def restart(self, kill: bool = False) -> None:
        """Brings the broker down, by SIGKILL if asked to, and up again: same port, same data."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log(self, since: int = 0) -> str:
        """What the process wrote to its standard output and error, from byte `since` on."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(since)
            return log.read().decode("utf-8", "replace")
