"""Fixtures: a fake API, and the command line run against it in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from pabal.cli.main import main

from .fake_api import FakeApi


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    yield fake
    fake.stop()


@pytest.fixture
def run(api: FakeApi) -> Run:
    """`run("queues", "list", stdin="…", env={…})`, against the fake API, with no terminal anywhere."""

    def run(*arguments: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Ran:
        names = ("URL", "USER", "PASSWORD", "VHOST", "CA")
        environment: dict[str, str | None] = {f"PABAL_{name}": None for name in names}
        environment |= {"PABAL_URL": api.url, **(env or {})}
        result = CliRunner().invoke(main, arguments, input=stdin, env=environment, prog_name="pabal")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
