"""Who is let in when many come at once: a rate, half open connections, file descriptors."""

from __future__ import annotations

import socket
import time

import pytest

from broker_process import BrokerProcess
from pabal.model import limits
from pabal.server.admission import Admission
from robustness import peers as p


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Guest:
    def __init__(self) -> None:
        self.opening = True
        self.dropped = ""

    def drop(self, why: str) -> None:
        self.opening = False
        self.dropped = why


def test_a_second_s_worth_at_once_then_at_the_rate() -> None:
    clock = Clock()
    admission = Admission(10, clock)
    for _ in range(10):
        assert admission.wait_seconds() == 0
        admission.came(Guest())
    assert admission.wait_seconds() == pytest.approx(0.1)
    clock.seconds += 0.25
    for _ in range(2):
        assert admission.wait_seconds() == 0
        admission.came(Guest())
    assert admission.wait_seconds() == pytest.approx(0.05)
    clock.seconds += 1000
    for _ in range(10):
        assert admission.wait_seconds() == 0
        admission.came(Guest())
    assert admission.wait_seconds() > 0, "what was not used does not add up"


def test_no_rate() -> None:
    admission = Admission(0, Clock())
    for _ in range(100):
        assert admission.wait_seconds() == 0
        admission.came(Guest())


def test_half_open_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that open do so by themselves; of the others the oldest goes, when it had its time."""
    monkeypatch.setattr(limits, "OPENING_CONNECTIONS_MAX", 5)
    clock = Clock()
    admission = Admission(0, clock)
    guests = [Guest() for _ in range(5)]
    for guest in guests:
        assert admission.wait_seconds() == 0
        admission.came(guest)
        clock.seconds += 0.1
    assert 0 < admission.wait_seconds() < 0.1
    guests[3].opening = False
    assert admission.wait_seconds() == 0
    admission.came(Guest())
    assert admission.wait_seconds() > 0
    clock.seconds += limits.OPENING_SECONDS_MIN
    assert admission.wait_seconds() == 0
    assert [bool(guest.dropped) for guest in guests] == [True, False, False, False, False]


def test_the_broker_s_end_drops_those_that_open() -> None:
    admission = Admission(0, Clock())
    opening, opened = Guest(), Guest()
    opened.opening = False
    admission.came(opening)
    admission.came(opened)
    admission.forget()
    assert (opening.dropped, opened.dropped) == ("the broker stops", "")


def test_connections_a_second(start_broker: object) -> None:
    """None is refused: those that are too many take longer."""
    broker: BrokerProcess = start_broker(environment={"PABAL_CONNECTIONS_PER_SECOND_MAX": "20"})  # type: ignore[operator]
    begun = time.monotonic()
    peers = [p.Peer(broker.port) for _ in range(50)]
    assert time.monotonic() - begun > 1.3
    for peer in peers:
        peer.close()


def test_files_are_kept_for_the_store(start_broker: object) -> None:
    """Connections do not get the last file descriptors, the others go on, and the log says so once."""
    broker: BrokerProcess = start_broker()  # type: ignore[operator]
    with p.Peer(broker.port) as peer:
        p.open_files_limit(broker.pid, 64)
        crowd = [socket.create_connection(("127.0.0.1", broker.port), timeout=5) for _ in range(100)]
        ended = 0
        for one in crowd:
            one.settimeout(0.05)
            try:
                ended += one.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                ended += 1
        assert 60 < ended < 100
        peer.declare("q")
        for one in crowd:
            one.close()
        p.eventually(broker.answers, "new connections are taken again")
    assert broker.log().count("no file descriptors left") == 1
