"""The log: where its lines go and what they look like, for people or for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from pabal.server.settings import Settings

FIELDS: Final = ("connection", "user", "vhost", "channel")
"""What a line may say beside its event (`logging`'s argument `extra`), where it concerns one."""

_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "1;31", "CRITICAL": "1;31"}
_PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def start_log(settings: Settings, environment: Mapping[str, str]) -> None:
    """All of `logging` goes to the settings' file or to standard error. OSError when the file cannot be written."""
    logging.raiseExceptions = False  # a line that cannot be written must not make more lines
    handler: logging.Handler
    if settings.log_file:
        from logging.handlers import WatchedFileHandler  # seldom needed, and it takes milliseconds

        # It notices when the file was moved away, and begins a new one: log rotation needs to tell nobody.
        handler = WatchedFileHandler(settings.log_file, encoding="utf-8")
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings, environment))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def goes_to_journal(environment: Mapping[str, str], stream: TextIO) -> bool:
    """Whether what is written there goes to systemd's journal, which has a time and a level of its own."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        at = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(at.st_dev), str(at.st_ino))


def _formatter(settings: Settings, environment: Mapping[str, str]) -> logging.Formatter:
    if settings.log_format == "json":
        return JsonLines()
    if not settings.log_file and goes_to_journal(environment, sys.stderr):
        return JournalLines()
    return TextLines(not settings.log_file and sys.stderr.isatty() and not environment.get("NO_COLOR"))


class TextLines(logging.Formatter):
    """For people. On a terminal the time of day is enough, and warnings and errors have a colour."""

    def __init__(self, terminal: bool) -> None:
        date = "%H:%M:%S" if terminal else "%Y-%m-%d %H:%M:%S"
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", datefmt=date)
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        colour = _COLOURS.get(record.levelname) if self._terminal else None
        return f"\x1b[{colour}m{line}\x1b[0m" if colour else line


class JournalLines(logging.Formatter):
    """systemd's prefix for the level, on each line of what has several."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JsonLines(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, event, and of FIELDS what there is."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None))}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
