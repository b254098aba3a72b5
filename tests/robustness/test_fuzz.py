"""The fuzzer for a few seconds, always with the same seed; and that it would find something."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pabal.broker.broker import Broker
from pabal.session.amqp091.publishing import Publisher
from pabal.wire.amqp091.frames import Scanner

SECONDS = 2.5
SEED = 20_261_122


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "fuzz" / "fuzz_frames.py"
    spec = importlib.util.spec_from_file_location("fuzz_frames", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_frames"] = module
    spec.loader.exec_module(module)
    return module


def test_mutated_conversations(fuzzer: ModuleType, tmp_path: Path) -> None:
    done, failures = fuzzer.fuzz(SEED, SECONDS, sys.maxsize, tmp_path)
    assert not failures, failures[0].read_text()
    assert done >= 20


def test_a_case_can_be_made_again(fuzzer: ModuleType) -> None:
    assert fuzzer.make_case(5) == fuzzer.make_case(5) != fuzzer.make_case(6)


def forget_to_release(self: Broker, owner: object) -> None:
    """Exclusive queues stay when their connection has gone."""


def confirm_too_much(self: Publisher, upto: int) -> None:
    raise IndexError("pop from an empty deque")


def forget_the_rest(self: Scanner, data: bytes, receive: Any = Scanner.receive) -> None:
    """What a read left over is lost."""
    receive(self, data)
    self._rest = b""


@pytest.mark.plain
@pytest.mark.parametrize(
    ("owner", "name", "planted"),
    [(Broker, "release", forget_to_release), (Publisher, "confirm", confirm_too_much)],
)
def test_planted_bugs_are_found(
    fuzzer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, planted: Any
) -> None:
    try:
        monkeypatch.setattr(owner, name, planted)
    except TypeError:
        pytest.skip("compiled")
    _, failures = fuzzer.fuzz(SEED, 20, 300, tmp_path)
    assert failures


@pytest.mark.plain
def test_what_depends_on_the_cuts_is_found(
    fuzzer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        monkeypatch.setattr(Scanner, "receive", forget_the_rest)
    except TypeError:
        pytest.skip("compiled")
    _, failures = fuzzer.fuzz(SEED, 20, 300, tmp_path)
    assert failures
