"""What the commands that change something ask of the API, and what they answer."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from .answers import CONNECTION, MESSAGE, OVERVIEW, USER, WORK
from .conftest import Run
from .fake_api import FakeApi

ORDER: dict[str, Any] = {"durable": True, "auto_delete": False, "arguments": {}}
CHANGES: list[tuple[str, str, str, Any]] = [
    ("queues declare a/b", "PUT", "queues/%2F/a%2Fb", ORDER),
    ("queues declare q -V shop", "PUT", "queues/shop/q", ORDER),
    (
        "queues declare q --type quorum -a x-max-length=5 -a x-overflow=reject-publish",
        "PUT",
        "queues/%2F/q",
        {**ORDER, "arguments": {"x-max-length": 5, "x-overflow": "reject-publish", "x-queue-type": "quorum"}},
    ),
    ("queues delete work --if-unused", "DELETE", "queues/%2F/work?if-unused=true", None),
    ("purge work", "DELETE", "queues/%2F/work/contents", None),
    ("queues purge work", "DELETE", "queues/%2F/work/contents", None),
    (
        "exchanges declare e --type topic --internal",
        "PUT",
        "exchanges/%2F/e",
        {"type": "topic", "durable": True, "auto_delete": False, "internal": True, "arguments": {}},
    ),
    ("exchanges delete e", "DELETE", "exchanges/%2F/e", None),
    (
        "bindings declare e work -k a.#",
        "POST",
        "bindings/%2F/e/e/q/work",
        {"routing_key": "a.#", "arguments": {}},
    ),
    ("bindings declare e f --to-exchange", "POST", "bindings/%2F/e/e/e/f", {"routing_key": "", "arguments": {}}),
    ("bindings delete e work -k k1", "DELETE", "bindings/%2F/e/e/q/work/k1", None),
    ("connections close billing", "DELETE", "connections/127.0.0.1%3A38526%20-%3E%20127.0.0.1%3A5672", None),
    ("users delete ann", "DELETE", "users/ann", None),
    (
        "users tags ann monitoring policymaker",
        "PUT",
        "users/ann",
        {
            "password_hash": "SECRETHASH",
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "monitoring,policymaker",
        },
    ),
    (
        "permissions set ann ^a ^$ .*",
        "PUT",
        "permissions/%2F/ann",
        {"configure": "^a", "write": "^$", "read": ".*"},
    ),
    ("permissions clear ann -V shop", "DELETE", "permissions/shop/ann", None),
    (
        "permissions topics set ann amq.topic ^a .*",
        "PUT",
        "topic-permissions/%2F/ann",
        {"exchange": "amq.topic", "write": "^a", "read": ".*"},
    ),
    ("permissions topics clear ann", "DELETE", "topic-permissions/%2F/ann", None),
    ("permissions topics clear ann amq.topic", "DELETE", "topic-permissions/%2F/ann/amq.topic", None),
    (
        "policies set p ^w max-length=5 overflow=reject-publish --priority 2 --apply-to queues",
        "PUT",
        "policies/%2F/p",
        {
            "pattern": "^w",
            "definition": {"max-length": 5, "overflow": "reject-publish"},
            "priority": 2,
            "apply-to": "queues",
        },
    ),
    (
        'policies set p ^w {"expires":5} --operator',
        "PUT",
        "operator-policies/%2F/p",
        {"pattern": "^w", "definition": {"expires": 5}, "priority": 0, "apply-to": "queues"},
    ),
    ("policies clear p", "DELETE", "policies/%2F/p", None),
    ("vhosts add shop --description Shop", "PUT", "vhosts/shop", {"description": "Shop", "tags": ""}),
    ("vhosts delete shop", "DELETE", "vhosts/shop", None),
    ("limits set max-queues=5", "PUT", "vhost-limits/%2F/max-queues", {"value": 5}),
    ("limits set max-channels=3 --of-user ann", "PUT", "user-limits/ann/max-channels", {"value": 3}),
    ("limits clear max-queues -V shop", "DELETE", "vhost-limits/shop/max-queues", None),
]


@pytest.fixture
def broker_of_things(api: FakeApi) -> FakeApi:
    api.answer("GET", "queues/%2F/work", WORK)
    api.answer("GET", "queues/shop", [WORK])
    api.answer("GET", "exchanges/%2F/e", {"name": "e"})
    keys = [{"routing_key": key, "properties_key": key} for key in ("k1", "k2")]
    api.answer("GET", "bindings/%2F/e/e/q/work", keys)
    api.answer("GET", "connections", [CONNECTION])
    api.answer("GET", "users", [USER])
    api.answer("GET", "users/ann", USER)
    api.answer("GET", "policies/%2F/p", {"name": "p"})
    api.answer("GET", "vhosts/shop", {"name": "shop"})
    return api


@pytest.mark.parametrize(("line", "method", "path", "body"), CHANGES, ids=[line for line, *_ in CHANGES])
def test_a_change_asks_for_just_that(
    broker_of_things: FakeApi, run: Run, line: str, method: str, path: str, body: Any
) -> None:
    broker_of_things.answer(method, path, status=204)
    ran = run(*line.split())
    assert (ran.code, ran.err) == (0, "")
    assert broker_of_things.changes() == [(method, path, body)]
    assert ran.out.count("\n") == 1, "a sentence says what was done"
    assert run(*line.split(), "--quiet").out == ""
    assert isinstance(run(*line.split(), "--json").json, dict)


def test_several_are_deleted_by_one_command(broker_of_things: FakeApi, run: Run) -> None:
    api = broker_of_things
    api.answer("GET", "queues/%2F/other", {**WORK, "messages": 0})
    for name in ("work", "other"):
        api.answer("DELETE", f"queues/%2F/{name}", status=204)
    assert run("queues", "delete", "work", "other").code == 0
    assert [path for _, path, _ in api.changes()] == ["queues/%2F/work", "queues/%2F/other"]


def test_which_of_several_bindings_must_be_said(broker_of_things: FakeApi, run: Run) -> None:
    ran = run("bindings", "delete", "e", "work")
    assert (ran.code, broker_of_things.changes()) == (1, [])
    assert "--key or --properties-key" in ran.err


def test_a_reason_to_close_cannot_add_headers(broker_of_things: FakeApi, run: Run) -> None:
    broker_of_things.answer("DELETE", "connections/127.0.0.1%3A38526%20-%3E%20127.0.0.1%3A5672", status=204)
    assert run("connections", "close", "billing", "--reason", "bye\r\nX-Evil: 1").code == 0
    headers = broker_of_things.requests[-1].headers
    assert headers["X-Reason"] == "bye X-Evil: 1"
    assert "X-Evil" not in headers


def test_a_password_is_read_from_stdin_and_never_shown(api: FakeApi, run: Run) -> None:
    api.answer("GET", "users", [])
    api.answer("PUT", "users/bob", status=201)
    ran = run("users", "add", "bob", "--tags", "monitoring", "--password-stdin", stdin="s3cret\nmore\n")
    assert ran.code == 0
    assert api.changes() == [("PUT", "users/bob", {"tags": "monitoring", "password": "s3cret"})]
    assert "s3cret" not in ran.out + ran.err
    assert run("users", "add", "bob", "--password-stdin", stdin="").code == 2


def test_a_user_who_is_there_is_not_added_over(api: FakeApi, run: Run) -> None:
    api.answer("GET", "users", [USER])
    ran = run("users", "add", "ann", stdin="x\n")
    assert (ran.code, api.changes()) == (1, [])


def test_a_new_password_keeps_the_tags(api: FakeApi, run: Run) -> None:
    api.answer("GET", "users/ann", {**USER, "tags": ["management"]})
    api.answer("PUT", "users/ann", status=204)
    assert run("users", "password", "ann", stdin="n3w\n").code == 0
    assert api.changes() == [("PUT", "users/ann", {"password": "n3w", "tags": "management"})]


PUBLISH = "exchanges/%2F/amq.default/publish"


def published(api: FakeApi) -> list[Any]:
    return [body for method, _, body in api.changes() if method == "POST"]


def test_publish(api: FakeApi, run: Run) -> None:
    api.answer("POST", PUBLISH, {"routed": True})
    line = (
        "publish",
        "work",
        "hello",
        "--header",
        "n=1",
        "--header",
        "s=x=y",
        "-p",
        "message_id=7",
        "-p",
        "priority=3",
    )
    assert run(*line).out == "1 message published\n"
    assert published(api) == [
        {
            "routing_key": "work",
            "payload": "hello",
            "payload_encoding": "string",
            "properties": {"delivery_mode": 2, "message_id": "7", "priority": 3, "headers": {"n": 1, "s": "x=y"}},
        }
    ]


def test_publish_from_stdin_and_files(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answer("POST", PUBLISH, {"routed": True})
    assert run("publish", "work", stdin="one\ntwo").code == 0
    assert run("publish", "work", "--lines", stdin="one\r\ntwo\n").out == "2 messages published\n"
    (tmp_path / "body").write_bytes(b"\xff\x00")
    assert run("publish", "work", "--transient", "--file", str(tmp_path / "body")).code == 0
    assert [body["payload"] for body in published(api)] == ["one\ntwo", "one", "two", "/wA="]
    assert published(api)[-1]["payload_encoding"] == "base64"
    assert published(api)[-1]["properties"] == {"delivery_mode": 1}


def test_publish_to_nowhere_ends_with_1(api: FakeApi, run: Run) -> None:
    api.answer("POST", PUBLISH, {"routed": False})
    ran = run("publish", "wrok", "x")
    assert (ran.code, ran.out) == (1, "")
    assert "went nowhere: the default exchange has no queue for 'wrok'; `pabal queues` shows what there is" in ran.err
    assert run("publish", "wrok", "x", "--json").json == {"routed": False, "published": 0, "unroutable": 1}


@pytest.mark.parametrize(
    ("option", "mode"),
    [
        ((), "ack_requeue_true"),
        (("--requeue",), "ack_requeue_true"),
        (("--ack",), "ack_requeue_false"),
        (("--reject",), "reject_requeue_false"),
    ],
)
def test_get_gives_back_unless_told_otherwise(api: FakeApi, run: Run, option: tuple[str, ...], mode: str) -> None:
    api.answer("POST", "queues/%2F/work/get", [MESSAGE])
    assert run("get", "work", "-n", "3", *option).code == 0
    assert published(api) == [{"count": 3, "ackmode": mode, "encoding": "auto"}]


def test_get_of_nothing_ends_with_1(api: FakeApi, run: Run) -> None:
    api.answer("POST", "queues/%2F/work/get", [])
    ran = run("get", "work")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "pabal: queue 'work' has no ready message; `pabal queues show work` says more\n"


DEFINITIONS = {"vhosts": [{"name": "/"}], "queues": [{"name": "a"}, {"name": "b"}], "policies": []}


def test_export_and_import(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answer("GET", "definitions", DEFINITIONS)
    api.answer("POST", "definitions", status=204)
    assert run("export").json == DEFINITIONS
    file = tmp_path / "all.json"
    assert run("export", str(file)).out == f"1 vhost, 2 queues written to {file}\n"
    assert json.loads(file.read_text()) == DEFINITIONS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds password hashes"
    assert os.listdir(tmp_path) == ["all.json"]
    assert run("import", str(file), "--dry-run").out == f"{file} holds 1 vhost, 2 queues\n"
    assert api.changes() == []
    assert run("import", str(file)).out == f"1 vhost, 2 queues taken from {file}\n"
    assert run("import", "-", stdin=file.read_text()).code == 0
    assert api.changes() == [("POST", "definitions", DEFINITIONS)] * 2


def test_import_from_a_running_broker(api: FakeApi, run: Run) -> None:
    other = FakeApi()
    try:
        other.answer("GET", "definitions", DEFINITIONS)
        api.answer("POST", "definitions", status=204)
        source = other.url.replace("guest:guest", "ann:s3cret")
        ran = run("import", source)
        assert ran.code == 0, ran.err
        assert "s3cret" not in ran.out
        assert api.changes() == [("POST", "definitions", DEFINITIONS)]
        assert other.changes() == []
    finally:
        other.stop()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"queues": 5}'])
def test_import_of_no_definitions_is_wrong_usage(api: FakeApi, run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    ran = run("import", str(tmp_path / "x"))
    assert (ran.code, ran.err.count("\n"), api.changes()) == (2, 1, [])


def test_a_backup_appears_when_it_is_whole(api: FakeApi, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    api.answer("POST", "pabal/backup", b"x" * 700_000)
    assert run("backup", str(file)).out == f"684 KiB written to {file}\n"
    assert file.read_bytes() == b"x" * 700_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ran = run("backup", str(file))
    assert (ran.code, ran.err) == (2, f"pabal: {file} is there already: another name, or --force\n")
    assert run("backup", str(file), "--force", "--quiet").code == 0


def test_half_a_backup_leaves_nothing(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answer("POST", "pabal/backup", b"x" * 700_000 + b"CUT")
    ran = run("backup", str(tmp_path / "b.tar"))
    assert (ran.code, os.listdir(tmp_path)) == (3, [])
    assert "the answer ended before it was whole" in ran.err


def test_what_only_pabal_has_is_said_of_another_broker(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answer("GET", "overview", {**OVERVIEW, "product_name": "RabbitMQ"})
    api.answer("GET", "queues/%2F/work", WORK)
    ran = run("backup", str(tmp_path / "b.tar"))
    where = api.url.replace("guest:guest@", "")
    assert (ran.code, ran.err) == (1, f"pabal: `pabal backup` needs Pabal; at {where} there is RabbitMQ\n")
    ran = run("peek", "work")
    assert (ran.code, ran.err) == (1, f"pabal: `pabal peek` needs Pabal; at {where} there is RabbitMQ\n")
