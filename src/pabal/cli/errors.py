"""How a command ends: its exit codes, and the one line on stderr that says what to do."""

from __future__ import annotations

import os
from typing import NoReturn

import click

OK, SAID_NO, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
"""Exit codes."""


class CannotReach(Exception):
    """There is no answer. `str(error)` says from where, why, and what to do: exit code 3."""


class Refused(Exception):
    """The broker said no. `str(error)` says why: exit code 1. `status`: of HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def die(message: str, code: int) -> NoReturn:
    """One line on stderr, and the end."""
    from pabal.cli.text import visible

    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(click.style("pabal: ", fg="red", bold=True) + visible(message), err=True, color=colour)
    raise SystemExit(code)
