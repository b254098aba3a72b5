"""Single keys from a terminal, without waiting for Enter."""

from __future__ import annotations

import os
import select
import sys
from typing import Any


class Keys:
    """Within `with`, the terminal gives each key at once and shows none; after it, it is as it was."""

    def __enter__(self) -> Keys:
        import termios
        import tty

        self._file = sys.stdin.fileno()
        self._before: Any = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def read(self, seconds: float) -> str | None:
        """The next key, or None after that time. An arrow is one key, and so is Escape; the input's end is `q`."""
        readable, _, _ = select.select([self._file], [], [], seconds)
        if not readable:
            return None
        first = os.read(self._file, 1)
        if not first:
            return "q"
        if first != b"\x1b":
            return first.decode("latin-1")
        rest = b""
        while len(rest) < 2 and select.select([self._file], [], [], 0.02)[0]:
            rest += os.read(self._file, 1)
        return (first + rest).decode("latin-1")
