"""The whole round of commands against a broker process, with a client of pika beside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from click.testing import CliRunner

from broker_process import BrokerProcess, free_port
from pabal.cli.main import main

from .conftest import Ran

SECONDS_MAX = 20.0


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerProcess, str]]:
    port = free_port()
    environment = {"PABAL_HTTP": "true", "PABAL_HTTP_PORT": str(port)}
    broker = BrokerProcess(tmp_path_factory.mktemp("cli"), environment=environment)
    try:
        broker.start()
        yield broker, f"http://guest:guest@127.0.0.1:{port}"
        broker.stop()
    finally:
        broker.kill()


Pabal = Callable[..., Ran]


@pytest.fixture
def pabal(process: tuple[BrokerProcess, str]) -> Pabal:
    broker, url = process
    broker.ensure_running()

    def run(line: str, *more: str, stdin: str | None = None, code: int = 0) -> Ran:
        environment = {"PABAL_URL": url, "PABAL_VHOST": None, "PABAL_USER": None, "PABAL_PASSWORD": None}
        result = CliRunner().invoke(main, [*line.split(), *more], input=stdin, env=environment, prog_name="pabal")
        ran = Ran(result.exit_code, result.stdout, result.stderr)
        assert ran.code == code, (line, ran, result.exception)
        assert ran.err.count("\n") <= 1
        return ran

    deadline = time.monotonic() + SECONDS_MAX  # the API listens a little after AMQP does
    while CliRunner().invoke(main, ["status", "-q"], env={"PABAL_URL": url}).exit_code:
        assert time.monotonic() < deadline, broker.log()
        time.sleep(0.05)
    return run


@pytest.fixture
def client(process: tuple[BrokerProcess, str], pabal: Pabal) -> Iterator[Any]:
    parameters = pika.ConnectionParameters(
        "127.0.0.1", process[0].port, client_properties={"connection_name": "cashier"}
    )
    connection = pika.BlockingConnection(parameters)
    yield connection
    if connection.is_open:
        connection.close()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
    return found


def test_queues_from_declared_to_deleted(pabal: Pabal) -> None:
    pabal("queues declare tills --argument x-max-length=7")
    pabal("queues declare tills --argument x-max-length=7")
    assert "inequivalent arg 'x-max-length'" in pabal("queues declare tills", code=1).err
    shown = pabal("queues show tills --json").json
    assert (shown["durable"], shown["arguments"]) == (True, {"x-max-length": 7})
    assert "tills" in pabal("queues -q").lines
    for _ in range(9):
        pabal("publish tills x --quiet")
    assert pabal("queues show tills --columns ready").lines == ["messages_ready\t7"]
    assert "about 7 deleted" in pabal("purge tills").out
    assert pabal("queues show tills --columns messages --json").json == {"messages": 0}
    pabal("publish tills x")
    pabal("queues delete tills --if-empty", code=1)
    pabal("queues delete tills")
    pabal("queues show tills", code=1)


def test_messages(pabal: Pabal) -> None:
    pabal("queues declare post")
    pabal("publish post", "first ✉", "--header", "kind=a", "--property", "message_id=1")
    pabal("publish post --lines --header kind=b", stdin="second\nthird\n")
    peeked = pabal("peek post --json").json
    assert [message["payload"] for message in peeked] == ["first ✉", "second", "third"]
    assert pabal("peek post --header kind=b -n 1 --body").out == "second\n"
    assert pabal("peek post --property message_id=1 --body").out == "first ✉\n"
    assert pabal("peek post --contains thi --body").out == "third\n"
    assert pabal("peek post --skip 1 --body --key post").out == "second\nthird\n"
    assert "fits" in pabal("peek post --header kind=c", code=1).err
    assert not any(message["redelivered"] for message in pabal("peek post --json").json), "peeking marks nothing"
    assert pabal("get post --body").out == "first ✉\n"
    assert pabal("get post --ack --json").json[0]["redelivered"] is True
    assert pabal("get post -n 5 --ack --body").out == "second\nthird\n"
    assert "no ready message" in pabal("get post", code=1).err
    assert "went nowhere" in pabal("publish wrong x", code=1).err
    pabal("queues delete post")


def test_more_messages_than_one_answer_holds_are_peeked_at(pabal: Pabal) -> None:
    pabal("queues declare many")
    pabal("publish many x --count 1203 --transient")
    assert len(pabal("peek many --count 1202 -q --json").json) == 1202
    assert len(pabal("peek many --count 5000 --skip 3 --json").json) == 1200
    pabal("queues delete many")


def test_exchanges_and_bindings(pabal: Pabal) -> None:
    pabal("exchanges declare news --type topic")
    pabal("queues declare papers")
    pabal("bindings declare news papers --key sport.#")
    pabal("bindings declare news papers --key art.#")
    assert pabal("bindings list --from news --columns destination,routing_key").lines == [
        "papers\tart.#",
        "papers\tsport.#",
    ]
    pabal("publish sport.football goal --exchange news")
    pabal("bindings delete news papers", code=1)
    pabal("bindings delete news papers --key art.#")
    assert "went nowhere: exchange 'news'" in pabal("publish art.x y -x news", code=1).err
    assert "type\ttopic" in pabal("exchanges show news").lines
    pabal("exchanges delete news --if-unused", code=1)
    pabal("exchanges delete news")
    pabal("queues delete papers")


def test_connections_channels_consumers(pabal: Pabal, client: Any) -> None:
    channel = client.channel()
    channel.queue_declare("desk", auto_delete=True)
    channel.basic_qos(prefetch_count=3)
    channel.basic_consume("desk", lambda *_: None, consumer_tag="clerk")
    channel.basic_publish("", "desk", b"form")
    client.process_data_events(0.1)
    (row,) = until(lambda: [r for r in pabal("connections --json").json if r["user"] == "guest"])
    assert "cashier" in pabal("connections").out
    assert pabal("connections show cashier --json").json["name"] == row["name"]
    assert [r["messages_unacknowledged"] for r in until(lambda: pabal("channels --json").json)] == [1]
    assert f"name\t{row['name']} (1)" in pabal("channels show", row["name"]).lines
    (consumer,) = pabal("consumers list desk --json").json
    assert (consumer["consumer_tag"], consumer["prefetch_count"]) == ("clerk", 3)
    pabal("connections close cashier", "--reason", "the till is shut")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        while True:
            client.process_data_events(1)
    assert closed.value.reply_code == 320
    assert "the till is shut" in closed.value.reply_text


def test_users_and_permissions(pabal: Pabal, process: tuple[BrokerProcess, str]) -> None:
    pabal("users add ann --tags management --password-stdin", stdin="s3cret\n")
    pabal("permissions set ann ^$ .* ^desk")
    assert pabal("permissions list ann").lines == ["ann\t/\t^$\t.*\t^desk"]
    pabal("permissions topics set ann amq.topic ^a ^b")
    assert pabal("permissions topics list ann").lines == ["ann\t/\tamq.topic\t^a\t^b"]
    pabal("permissions topics clear ann")
    assert pabal("permissions topics list ann").lines == []
    as_ann = process[1].replace("guest:guest", "ann:s3cret")
    assert pabal("users whoami --url", as_ann).lines == ["name\tann", "tags\tmanagement"]
    assert "'ann' may not do that" in pabal("queues declare q --url", as_ann, code=1).err
    pabal("users password ann", stdin="n3w\n")
    assert "does not let 'ann' in" in pabal("users whoami --url", as_ann, code=1).err
    as_ann = process[1].replace("guest:guest", "ann:n3w")
    pabal("users tags ann monitoring policymaker")
    assert pabal("users whoami --json --url", as_ann).json["tags"] == ["monitoring", "policymaker"]
    pabal("permissions clear ann")
    pabal("users delete ann")
    pabal("users show ann", code=1)


def test_policies_vhosts_limits(pabal: Pabal) -> None:
    pabal("vhosts add shop --description Shop --tags east")
    assert "description\tShop" in pabal("vhosts show shop").lines
    pabal("policies set short ^t max-length=5 --apply-to queues -V shop")
    pabal("policies set least ^ expires=60000 --operator -V shop")
    assert pabal("policies --vhost shop --columns name,definition.max-length").lines == ["short\t5"]
    assert pabal("policies --operator -V shop -q").lines == ["least"]
    pabal("queues declare tills -V shop")
    assert pabal("queues show tills -V shop --columns policy,operator_policy").lines == [
        "policy\tshort",
        "operator_policy\tleast",
    ]
    pabal("policies clear least --operator -V shop")
    pabal("policies clear short -V shop")
    pabal("limits set max-queues=1 max-connections=9 -V shop")
    assert pabal("limits -V shop --columns limit,value").lines == ["max-connections\t9", "max-queues\t1"]
    assert "shop" in pabal("queues declare more -V shop", code=1).err
    pabal("limits clear max-queues -V shop")
    pabal("queues declare more -V shop")
    pabal("limits set max-channels=3 --of-user guest")
    assert "user\tguest\tmax-channels\t3" in pabal("limits").lines
    pabal("limits clear max-channels --of-user guest")
    pabal("vhosts delete shop")
    assert "shop" not in pabal("vhosts -q").lines


def test_definitions_there_and_back(pabal: Pabal, process: tuple[BrokerProcess, str], tmp_path: Path) -> None:
    pabal("queues declare kept --argument x-max-length=3")
    file = tmp_path / "definitions.json"
    pabal("export", str(file))
    pabal("queues delete kept")
    pabal("import", str(file))
    assert pabal("queues show kept --json").json["arguments"] == {"x-max-length": 3}
    pabal("queues delete kept")
    exported = json.loads(file.read_text())
    pabal("import", process[1])  # from itself: nothing changes
    assert {row["name"] for row in pabal("export").json["queues"]} == {
        row["name"] for row in exported["queues"] if row["name"] != "kept"
    }


def test_status_and_top(pabal: Pabal, client: Any) -> None:
    status = pabal("status --json").json
    assert status["overview"]["product_name"] == "Pabal"
    assert status["alarms"] == []
    lines = dict(line.split("\t") for line in pabal("status").lines)
    assert lines["form"] in ("compiled", "plain Python")
    assert lines["object_totals.connections"] == "1"
    pabal("queues declare busy")
    channel = client.channel()
    for _ in range(100):
        channel.basic_publish("", "busy", b"x")
    until(lambda: "busy\t/\t100\t0" in pabal("top --once --sort -ready").lines[0])
    until(lambda: float(pabal("queues list ^busy$ --columns in").lines[0] or 0) > 0)
    pabal("queues delete busy")


def test_names_are_completed_from_the_broker(pabal: Pabal, process: tuple[BrokerProcess, str]) -> None:
    import subprocess
    import sys

    pabal("queues declare completed")
    words = {"COMP_WORDS": "pabal queues show compl", "COMP_CWORD": "3"}
    environment = {**os.environ, **words, "PABAL_URL": process[1], "_PABAL_COMPLETE": "bash_complete"}
    program = "from pabal.cli.main import main; main(prog_name='pabal')"
    completed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert completed.stdout == "plain,completed\n"
    pabal("queues delete completed")


def test_backup_restore_and_check(
    pabal: Pabal, process: tuple[BrokerProcess, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pabal("queues declare saved --type quorum")
    pabal("publish saved precious --count 3")
    file, directory = tmp_path / "backup.tar", tmp_path / "data"
    pabal("backup", str(file))
    pabal("queues delete saved")
    assert "in use" in pabal("check", str(process[0].data), code=2).err
    assert "no data directory" in pabal("check", str(tmp_path), code=2).err
    assert directory.name in pabal("restore", str(file), str(directory)).out
    assert "data" in pabal("restore", str(file), str(directory), code=1).err, "there is data now"
    assert pabal("check --json", str(directory)).json["sound"] is True
    pabal("check -q", str(directory))
    (tmp_path / "torn.tar").write_bytes(file.read_bytes()[:5000])
    pabal("restore", str(tmp_path / "torn.tar"), str(tmp_path / "other"), code=1)
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").glob("*.mdb"))

    port = free_port()
    environment = {"PABAL_HTTP": "true", "PABAL_HTTP_PORT": str(port), "PABAL_DATA": str(directory)}
    again = BrokerProcess(tmp_path_factory.mktemp("again"), environment=environment)
    again.data = directory
    try:
        again.start()
        url = f"http://127.0.0.1:{port}"
        until(lambda: CliRunner().invoke(main, ["status", "-q", "--url", url]).exit_code == 0)
        assert pabal("get saved -n 5 --ack --body --url", url).out == "precious\n" * 3
        again.stop()
    finally:
        again.kill()


def test_https(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    port = free_port()
    environment = {
        "PABAL_HTTP": "true",
        "PABAL_HTTP_PORT": str(free_port()),
        "PABAL_HTTPS_PORT": str(port),
        "PABAL_TLS_PORT": str(free_port()),
        "PABAL_TLS_CERTIFICATE": str(tmp_path / "server.pem"),
        "PABAL_TLS_KEY": str(tmp_path / "server.pem"),
    }
    broker = BrokerProcess(tmp_path_factory.mktemp("https"), environment=environment)
    try:
        broker.start()
        line = ["status", "--url", f"https://guest:guest@127.0.0.1:{port}"]
        until(lambda: CliRunner().invoke(main, [*line, "-q", "--ca", f"{tmp_path}/ca.pem"]).exit_code == 0)
        refused = CliRunner().invoke(main, line)
        assert refused.exit_code == 3
        assert f"cannot trust https://127.0.0.1:{port}: " in refused.stderr
        assert "--ca FILE names who signed it" in refused.stderr
        broker.stop()
    finally:
        broker.kill()
