"""The brokers under test: subprocesses with their data on a real disk, started, looked at, stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import machine
from spec import LoadError, Protocol

START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 20.0
SETTLE_SECONDS = 1.0
LOG_LINES_SHOWN = 12


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A broker: one that is listening already, or (in subclasses) one of our own.

    Attributes:
        name: as the tables call it.
        port: where it listens.
        protocol: what it speaks there.
        version: as it says itself.
        form: of Pabal, its own version and whether it is plain or compiled; else empty.
        peak_bytes: memory at most until it was last asked to forget it.
        durable_share: of a scenario's durable messages that it gets, so that a slow one takes no longer.
        startup_s: seconds from its start until a client has an open channel; None when not ours.
        idle_bytes: resident memory of the process tree shortly after that; None when not known.
    """

    def __init__(self, name: str, port: int, protocol: Protocol) -> None:
        self.name = name
        self.port = port
        self.protocol = protocol
        self.version = "?"
        self.form = ""
        self.durable_share = 1.0
        self.peak_bytes = 0
        self.startup_s: float | None = None
        self.idle_bytes: int | None = None

    def start(self) -> None:
        """Bring it up, wait until a client can work, and note how long that took.

        Raises:
            LoadError: it ended, or was not ready in time.
        """
        self.version = self.protocol.greet(self.port)

    def stop(self) -> None:
        """Bring it down, with all its processes."""

    def usage(self) -> machine.Usage | None:
        """Memory and CPU time of its process tree; None when not known."""
        return None

    def cpu_s(self) -> float | None:
        """CPU seconds used so far; None when not known."""
        usage = self.usage()
        return usage.cpu_s if usage else None

    def forget_peak(self) -> None:
        """Count memory at most anew from here on."""

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
        protocol: what it speaks.
        directory: for its data and log; is created.
        data: what in the directory is to be removed to begin anew.
        command: starts it in the foreground; `{port}` and `{directory}` are filled in.
        environment: added to ours.
    """

    def __init__(
        self,
        name: str,
        protocol: Protocol,
        directory: Path,
        data: str,
        command: list[str],
        environment: dict[str, str],
    ) -> None:
        super().__init__(name, free_port(), protocol)
        self.directory = directory
        self.data = directory / data
        directory.mkdir(parents=True)
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: list[int] = []
        self._log = directory / "broker.log"

    def start(self) -> None:
        """Start the subprocess and wait until a client can work, and has it settle."""
        began = time.monotonic()
        self.launch()
        self.startup_s = self.startup_s or time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        assert self._process is not None
        self._processes = machine.tree(self._process.pid)
        usage = self.usage()
        self.idle_bytes = self.idle_bytes or (usage.resident_bytes if usage else None)

    def launch(self) -> None:
        """Start the subprocess and wait until a client can work."""
        places = {"port": str(self.port), "directory": str(self.directory)}
        with self._log.open("ab") as log:
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
        self._processes = machine.tree(self._process.pid)

    def begin_anew(self) -> None:
        """Stop it, remove its data, start it."""
        self.forget_peak()
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        self.start()

    def crash(self) -> None:
        """End all its processes as kill -9 does."""
        self.forget_peak()
        assert self._process is not None
        for each in machine.tree(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._process.wait()
        self.stop()

    def _wait_ready(self, deadline: float) -> str:
        assert self._process is not None
        while True:
            try:
                return self.protocol.greet(self.port)
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

    def forget_peak(self) -> None:
        """Count memory at most anew from here on, and keep what it was."""
        usage = self.usage()
        self.peak_bytes = max(self.peak_bytes, usage.peak_bytes if usage else 0)
        machine.forget_peaks(self._processes)

    def last_words(self) -> str:
        """The end of its log, and with what code it ended if it did."""
        code = self._process.poll() if self._process else None
        ended = "" if code is None else f"\n  {self.name} has ended with code {code}."
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            return "\n".join(f"  | {line}" for line in lines) + ended
        return ended
