"""The brokers under test: subprocesses with their data on a real disk, started, looked at, stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import machine
from client import Connection, LoadError

START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 20.0
SETTLE_SECONDS = 1.0
LOG_LINES_SHOWN = 12
RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Where Debian keeps it; the one on the PATH there insists on another user."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A broker: one that is listening already, or (in subclasses) one of our own.

    Attributes:
        name: as the tables call it.
        port: where it speaks AMQP 0-9-1.
        version: as it says itself.
        startup_s: seconds from its start until a client has an open channel; None when not ours.
        idle_bytes: resident memory of the process tree shortly after that; None when not known.
    """

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.version = "?"
        self.startup_s: float | None = None
        self.idle_bytes: int | None = None

    def start(self) -> None:
        """Bring it up, wait until a client can work, and note how long that took.

        Raises:
            LoadError: it ended, or was not ready in time.
        """
        self.version = _greet(self.port)

    def stop(self) -> None:
        """Bring it down, with all its processes."""

    def usage(self) -> machine.Usage | None:
        """Memory and CPU time of its process tree; None when not known."""
        return None

    def cpu_s(self) -> float | None:
        """CPU seconds used so far; None when not known."""
        usage = self.usage()
        return usage.cpu_s if usage else None

    def last_words(self) -> str:
        """The end of its log; empty when not ours."""
        return ""

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class OwnBroker(Broker):
    """A broker that is a subprocess of ours, in a session of its own.

    Args:
        name: as the tables call it.
        directory: for its data and log; is created.
        command: starts it in the foreground; `{port}` and `{directory}` are filled in.
        environment: added to ours.
    """

    def __init__(self, name: str, directory: Path, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(name, free_port())
        self.directory = directory
        directory.mkdir(parents=True)
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: list[int] = []
        self._log = directory / "broker.log"

    def start(self) -> None:
        """Start the subprocess and wait until a client can work."""
        places = {"port": str(self.port), "directory": str(self.directory)}
        with self._log.open("wb") as log:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [part.format(**places) for part in self._command],
                env=os.environ | {name: text.format(**places) for name, text in self._environment.items()},
                cwd=self.directory,  # Not ours: `python -m` would find a `pabal` here before PYTHONPATH's.
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.version = self._wait_ready(began + START_SECONDS_MAX)
        self.startup_s = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        self._processes = machine.tree(self._process.pid)
        usage = self.usage()
        self.idle_bytes = usage.resident_bytes if usage else None

    def _wait_ready(self, deadline: float) -> str:
        assert self._process is not None
        while True:
            try:
                return _greet(self.port)
            except LoadError as error:
                if self._process.poll() is not None:
                    message = f"ended with code {self._process.returncode} before it was ready"
                    raise LoadError(f"{self.name} {message}\n{self.last_words()}") from None
                if time.monotonic() > deadline:
                    message = f"was not ready after {START_SECONDS_MAX:.0f} s: {error}"
                    raise LoadError(f"{self.name} {message}\n{self.last_words()}") from None
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM and patience, then SIGKILL for each process of the tree that is left."""
        if self._process is None:
            return
        left = machine.tree(self._process.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS_MAX)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        patience = time.monotonic() + 2.0
        while left := [each for each in left if machine.session(each) == self._process.pid]:
            if time.monotonic() > patience:
                for each in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)
                break
            time.sleep(0.02)
        self._process = None

    def usage(self) -> machine.Usage | None:
        """Memory and CPU time of its process tree as it was when it became ready."""
        return machine.usage(self._processes)

    def last_words(self) -> str:
        """The end of its log, and with what code it ended if it did."""
        code = self._process.poll() if self._process else None
        ended = "" if code is None else f"\n  {self.name} has ended with code {code}."
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            return "\n".join(f"  | {line}" for line in lines) + ended
        return ended


def pabal(name: str, source: Path, directory: Path, arguments: list[str]) -> OwnBroker:
    """Pabal as it is in a source tree.

    Args:
        name: as the tables call it.
        source: holds the package `pabal`.
        directory: for its data.
        arguments: more for `pabal serve`.

    Raises:
        LoadError: `source` is not what would run.
    """
    environment = {"PYTHONPATH": str(source.resolve()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pabal", "serve", "--port", "{port}", "--data", "{directory}/data"]
    broker = OwnBroker(name, directory, command + arguments, environment)
    probe = subprocess.run(
        [sys.executable, "-c", "import pabal; print(pabal.__file__)"],
        env=os.environ | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if not Path(probe.stdout.strip() or "/").resolve().is_relative_to(source.resolve()):
        raise LoadError(f"{name}: no package pabal in {source} {probe.stdout}{probe.stderr}")
    return broker


class RabbitMQ(OwnBroker):
    """A RabbitMQ node of our own with its defaults, no plugins, and nothing outside its directory."""

    def __init__(self, server: Path, directory: Path) -> None:
        epmd_port = str(free_port())
        environment = {
            "HOME": "{directory}",  # For the Erlang cookie.
            "RABBITMQ_NODENAME": "pabal-bench@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": "{port}",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": "{directory}/mnesia",
            "RABBITMQ_LOG_BASE": "{directory}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "{directory}/enabled_plugins",
            "RABBITMQ_CONFIG_FILE": "{directory}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "{directory}/rabbitmq-env.conf",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {{127,0,0,1}}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": epmd_port,
        }
        super().__init__("RabbitMQ", directory, [str(server)], environment)
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text("")
        (directory / "rabbitmq-env.conf").write_text("")
        self._epmd_port = epmd_port
        self._epmd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Erlang's port mapper first: one that RabbitMQ starts for itself would stay behind."""
        epmd = _epmd_program()
        if epmd:
            self._epmd = subprocess.Popen(
                [epmd, "-address", "127.0.0.1", "-port", self._epmd_port],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        super().start()

    def stop(self) -> None:
        """Stop the node, then the port mapper."""
        super().stop()
        if self._epmd:
            self._epmd.terminate()
            self._epmd.wait()
            self._epmd = None


def rabbitmq(port: int | None, directory: Path) -> Broker | None:
    """RabbitMQ: the one listening on `port`, or a node of our own; None when it is not installed."""
    if port is not None:
        return Broker("RabbitMQ", port)
    found = shutil.which("rabbitmq-server")
    server = RABBITMQ_SERVER if RABBITMQ_SERVER.exists() else Path(found) if found else None
    return RabbitMQ(server, directory) if server else None


def _epmd_program() -> str | None:
    found = shutil.which("epmd")
    bundled = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
    return found or (str(bundled[-1]) if bundled else None)


def _greet(port: int) -> str:
    """Open a connection and a channel, and close them.

    Returns:
        The broker's version.
    """
    connection = Connection(port, timeout_s=10.0)
    connection.close()
    return connection.version
