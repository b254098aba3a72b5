"""What a supervisor wants to hear: systemd's notification protocol (sd_notify), when it asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Supervisor:
    """`NOTIFY_SOCKET` names the socket that it reads; without it nobody is told anything.

    `watchdog_seconds`: how often it must hear from us, or it starts the broker anew; 0: it does not ask for that.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        self.watchdog_seconds = 0.0
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            usec = environment.get("WATCHDOG_USEC", "")
            if usec.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                self.watchdog_seconds = int(usec) / 1_000_000

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, why: str) -> None:
        self._tell(f"STOPPING=1\nSTATUS=stopping: {why}")

    def feed_watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the loop, again and again: when that stands still, so does everything."""
        if self.watchdog_seconds:
            self._tell("WATCHDOG=1")
            loop.call_later(self.watchdog_seconds / 3, self.feed_watchdog, loop)

    def _tell(self, state: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is not there, or does not read: no reason to stop
                self._socket.sendto(state.encode(), self._address)
