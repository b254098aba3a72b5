"""What people see: tables that fit, colours, questions before what cannot be undone, and `pabal top`."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from pabal.cli.top import COLUMNS

from .answers import MESSAGE, NODE, ORDERS, OVERVIEW, WORK
from .fake_api import FakeApi
from .terminal import Terminal

LONG = "a-queue-with-a-name-that-is-longer-than-any-terminal-is-wide-" * 3


def shown(api: FakeApi, *arguments: str, columns: int = 80, **environment: str) -> Terminal:
    with Terminal(*arguments, url=api.url, columns=columns, **environment) as terminal:
        assert terminal.ended() == 0, terminal.plain
    return terminal


@pytest.fixture
def busy(api: FakeApi) -> FakeApi:
    api.answer("GET", "overview", OVERVIEW)
    api.answer("GET", "nodes/pabal%40here", NODE)
    api.answer("GET", "queues", [WORK, ORDERS])
    fields = ",".join(column.field for column in COLUMNS)
    rows = [WORK, ORDERS, *({**ORDERS, "name": f"q{n:02}", "messages_ready": 0} for n in range(40))]
    api.answer("GET", "queues?" + urlencode({"columns": fields}), rows)
    return api


def test_a_table_on_a_terminal(busy: FakeApi) -> None:
    lines = shown(busy, "queues", columns=120).plain.splitlines()
    assert " ".join(lines[0].split()) == "NAME VHOST TYPE READY LEASED CONSUMERS IN/S OUT/S BYTES POLICY"
    assert lines[2].split() == ["work", "/", "classic", "1,000", "5", "1", "12", "3,000", "1.4", "MiB"]
    assert len(lines[0].rstrip()) <= 120


@pytest.mark.parametrize("columns", [40, 60, 80, 300])
def test_a_table_fits_and_cuts_names_before_numbers(api: FakeApi, columns: int) -> None:
    api.answer("GET", "queues", [WORK, {**WORK, "name": LONG}])
    terminal = shown(api, "queues", columns=columns)
    table = [line for line in terminal.plain.splitlines() if not line.startswith("too narrow")]
    assert all(len(line) <= columns for line in table)
    assert "1,000" in table[1]
    assert ("…" in table[1]) == (columns < 300)
    if columns == 40:
        assert "--columns chooses" in terminal.plain


def test_colours_only_where_they_are_wanted(busy: FakeApi) -> None:
    assert "\x1b[" in shown(busy, "queues").text
    assert not re.search(r"\x1b\[[34]", shown(busy, "queues", NO_COLOR="1").text), "bold and dim are no colours"
    assert "\x1b[3" in shown(busy, "status").text
    assert "\x1b[" not in shown(busy, "status", NO_COLOR="1").text


def test_names_cannot_steer_the_terminal(api: FakeApi) -> None:
    api.answer("GET", "queues", [{**WORK, "name": "evil\x1b]0;title\x07[red]name[/red]"}])
    terminal = shown(api, "queues", columns=150)
    assert "evil\\x1b]0;title\\x07[red]name[/red]" in terminal.plain
    assert "\x07" not in terminal.text
    api.answer("POST", "queues/%2F/work/get", [{**MESSAGE, "payload": "evil\x1b[2Jbody", "routing_key": "\x1b[H"}])
    terminal = shown(api, "get", "work")
    assert "evil\\x1b[2Jbody" in terminal.plain
    assert "\x1b[2J" not in terminal.text
    assert "\x1b[H" not in terminal.text


def test_an_empty_list_says_so(api: FakeApi) -> None:
    api.answer("GET", "connections", [])
    assert shown(api, "connections").plain == "no connections\n"


def test_status_is_one_screen(busy: FakeApi) -> None:
    text = shown(busy, "status").plain
    for part in (
        "pabal 0.1.0",
        "compiled",
        "up 1 d 2 h",
        "1,003 ready",
        "5 leased",
        "1,234 in",
        "36.0 MiB",
        "70.0 GiB",
    ):
        assert part in text
    assert len(text.splitlines()) <= 22
    assert all(len(line) <= 80 for line in text.splitlines())
    busy.answer("GET", "nodes/pabal%40here", {**NODE, "mem_alarm": True})
    assert "ALARM: memory; publishers are blocked" in shown(busy, "status").plain


def test_it_asks_before_messages_are_deleted(api: FakeApi) -> None:
    api.answer("GET", "queues/%2F/work", WORK)
    api.answer("DELETE", "queues/%2F/work", status=204)
    with Terminal("queues", "delete", "work", url=api.url) as terminal:
        terminal.until("Delete queue 'work' and the 1,005 messages in it? [y/N]")
        terminal.type("n\n")
        assert terminal.ended() == 130
    assert api.changes() == []
    shown(api, "queues", "delete", "work", "--yes")
    assert [method for method, _, _ in api.changes()] == ["DELETE"]


def test_a_password_is_asked_for_and_not_echoed(api: FakeApi) -> None:
    api.answer("GET", "users", [])
    api.answer("PUT", "users/bob", status=201)
    with Terminal("users", "add", "bob", url=api.url) as terminal:
        terminal.until("Password of bob")
        terminal.type("s3cret\n")
        terminal.until("Repeat for confirmation")
        terminal.type("s3cret\n")
        assert terminal.ended() == 0
    assert "s3cret" not in terminal.text
    assert api.changes()[0][2]["password"] == "s3cret"


def test_top_sorts_scrolls_resizes_and_ends(busy: FakeApi) -> None:
    with Terminal("top", "--interval", "0.3", url=busy.url, columns=100, rows=20) as terminal:
        terminal.until("q quit")
        first = terminal.plain
        assert first.index("work") < first.index("orders"), "the most ready first"
        assert "q20" not in first, "only what fits"
        assert not terminal.echoes()
        before = len(terminal.text)
        terminal.type("n")
        terminal.until("q quit", since=before)
        assert terminal.text.rindex("orders") < terminal.text.rindex("q00")
        before = len(terminal.text)
        terminal.type("n")
        terminal.until("q39", since=before)
        before = len(terminal.text)
        terminal.type("\x1b[B" * 3)
        terminal.until("q26", since=before)
        before = len(terminal.text)
        terminal.resize(60, 40)
        terminal.until("q11", since=before)
        asked = len(busy.requests)
        while len(busy.requests) < asked + 3:
            terminal.until("q quit", since=before)
            before = len(terminal.text)
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.echoes(), "as it was before"
    assert terminal.text.rstrip().endswith("\x1b[?25h\x1b[?1049l"), "the screen and the cursor are back"


def test_top_goes_on_when_the_broker_comes_back(busy: FakeApi) -> None:
    with Terminal("top", "--interval", "0.2", url=busy.url, columns=100) as terminal:
        terminal.until("q quit")
        busy.answer("GET", "overview", {"error": "down", "reason": "gone for a while"}, 500)
        terminal.until("gone for a while; trying again")
        before = len(terminal.text)
        busy.answer("GET", "overview", {**OVERVIEW, "node": "pabal@back"})
        busy.answer("GET", "nodes/pabal%40back", NODE)
        terminal.until("pabal@back", since=before)
        terminal.type("q")
        assert terminal.ended() == 0
