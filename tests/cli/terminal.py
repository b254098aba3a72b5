"""A command in a pseudo-terminal: what it prints there, with keys typed and the size changed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

SECONDS_MAX = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """`with Terminal("queues", url=…, columns=80) as terminal`; `text` is all that was printed."""

    def __init__(self, *arguments: str, url: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.text = ""
        self._code: int | None = None
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
            clean = {k: v for k, v in clean.items() if not k.startswith("PABAL_")}
            os.execve(
                sys.executable,
                [sys.executable, "-m", "pabal", *arguments],
                {**clean, "TERM": "xterm-256color", "PABAL_URL": url, **environment},
            )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._file)

    @property
    def plain(self) -> str:
        return _ESCAPES.sub("", self.text).replace("\r\n", "\n")

    def until(self, text: str, since: int = 0) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while text not in _ESCAPES.sub("", self.text[since:]):
            assert time.monotonic() < deadline and self._read(0.5), f"no {text!r} in:\n{self.plain[-3000:]}"

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def echoes(self) -> bool:
        """Whether it shows what is typed, as a shell finds it."""
        return bool(termios.tcgetattr(self._file)[3] & termios.ECHO)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ended(self) -> int:
        """The exit code, with all that it printed read."""
        deadline = time.monotonic() + SECONDS_MAX
        while self._read(0.5):
            assert time.monotonic() < deadline, self.plain[-3000:]
        _, status = os.waitpid(self._pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _read(self, seconds: float) -> bool:
        """False at the end."""
        if not select.select([self._file], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._file, 65_536)
        except OSError:  # as Linux says that nobody is at the other end
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)
