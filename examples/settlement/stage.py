"""The processes of the demo: how they are started, killed, hung and watched. Nothing here is for copying."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pika
from ledger import Ledger
from pika.exceptions import AMQPError
from topology import DEAD_QUEUE, QUEUE

HERE = Path(__file__).resolve().parent
BROKER_START_SECONDS_MAX = 15.0
STOP_SECONDS_MAX = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A process, the lines it has written to its standard output, and a log file for its standard error."""

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name = name
        self.state = "working"
        self.lines: list[str] = []
        with (directory / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # PABAL_* settings of whoever runs the demo are not meant for its broker.
                env={key: value for key, value in os.environ.items() if not key.startswith("PABAL_")},
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its children
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: no clean-up, no farewell."""
        self.state = "killed"
        self.process.kill()
        self.process.wait()

    def hang(self, ledger: Ledger) -> None:
        """SIGSTOP: it does nothing any more, and its connection stays open."""
        self.process.send_signal(signal.SIGSTOP)
        while ledger.is_locked():  # caught in a transaction, it would hang all others with it
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
            self.process.send_signal(signal.SIGSTOP)
        self.state = "hung"

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.state = "working"


def stop_all(children: Iterable[Child]) -> None:
    """SIGTERM; SIGKILL where that is not enough."""
    running = [child for child in children if child.is_running]
    for child in running:
        child.process.send_signal(signal.SIGCONT)  # one that hangs could not stop
        child.process.terminate()
    for child in running:
        try:
            child.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.state = "stopped"


class Broker:
    """A Pabal on a port of its own, and a connection that watches its queues."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.child: Child | None = None
        self._watch: pika.BlockingConnection | None = None

    def start(self) -> float:
        """Starts it, on the data that is there. Returns the seconds until a client could connect."""
        started = time.monotonic()
        data = str(self.directory / "data")
        arguments = ["-m", "pabal", "serve", "--port", str(self.port), "--data", data]
        self.child = Child("broker", arguments, self.directory)
        while True:
            try:
                pika.BlockingConnection(pika.URLParameters(self.url)).close()
                return time.monotonic() - started
            except AMQPError:
                if not self.child.is_running or time.monotonic() - started > BROKER_START_SECONDS_MAX:
                    log = (self.directory / "broker.log").read_text()
                    raise RuntimeError(f"the broker did not start:\n{log}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()

    def stop(self) -> None:
        with suppress(AMQPError):
            if self._watch is not None:
                self._watch.close()
        if self.child is not None:
            stop_all([self.child])

    def waiting(self) -> dict[str, int] | None:
        """Queue → messages ready in it. None when the broker is away."""
        try:
            if self._watch is None or not self._watch.is_open:
                self._watch = pika.BlockingConnection(pika.URLParameters(self.url))
            with self._watch.channel() as channel:
                return {
                    name: channel.queue_declare(name, passive=True).method.message_count
                    for name in (QUEUE, DEAD_QUEUE)
                }
        except AMQPError:
            self._watch = None
            return None
