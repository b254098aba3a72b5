"""RabbitMQ's own command line, unchanged: every subcommand of `rabbitmqadmin` 3.10.

The script is no part of this repository. `.ci/run` takes it out of Debian's package and says where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clients.pika_client import open_connection
from management.http_client import Api

NAMED = "PABAL_TEST_RABBITMQADMIN"
"""Where the script is, if not on the PATH. Who names one wants these tests: without it they fail."""
SECONDS_MAX = 30.0


@pytest.fixture(scope="session")
def script() -> Path:
    named = os.environ.get(NAMED)
    if named:
        assert Path(named).is_file(), f"{NAMED} is set, but {named} is not there"
        return Path(named)
    found = shutil.which("rabbitmqadmin")
    if found is None:
        pytest.skip(f"rabbitmqadmin is not installed, and {NAMED} does not say where it is")
    return Path(found)


class Admin:
    def __init__(self, script: Path, api: Api, directory: Path) -> None:
        self._script = script
        self._options = ["-H", api.broker.host, "-P", str(api.port)]
        self._directory = directory

    def __call__(self, *words: str, fails: bool = False) -> str:
        result = subprocess.run(
            [sys.executable, self._script, *self._options, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            cwd=self._directory,
        )
        assert (result.returncode != 0) == fails, f"{words}: {result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    def rows(self, *words: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self("-f", "raw_json", *words))
        return found


@pytest.fixture
def admin(script: Path, api: Api, tmp_path: Path) -> Admin:
    return Admin(script, api, tmp_path)


def test_declare_list_and_delete_everything(admin: Admin) -> None:
    admin("declare", "vhost", "name=tool")
    here = ("-V", "tool")
    admin(
        *here, "declare", "exchange", "name=x", "type=topic", "durable=true", 'arguments={"alternate-exchange":"y"}'
    )
    admin(*here, "declare", "queue", "name=q", "auto_delete=false", 'arguments={"x-max-length":9}')
    admin(*here, "declare", "queue", "name=quorum", "queue_type=quorum")
    admin(*here, "declare", "binding", "source=x", "destination=q", "routing_key=a.*", 'arguments={"n":1}')
    admin(*here, "declare", "binding", "source=x", "destination=amq.fanout", "destination_type=exchange")
    admin("declare", "user", "name=tooluser", "password=p", "tags=management")
    admin("declare", "permission", "vhost=tool", "user=tooluser", "configure=.*", "write=.*", "read=.*")
    admin(*here, "declare", "policy", "name=p", "pattern=^q", 'definition={"max-length":5}', "apply-to=queues")
    admin(*here, "declare", "operator_policy", "name=o", "pattern=^q", 'definition={"max-length":4}')
    admin("declare", "vhost_limit", "vhost=tool", "name=max-queues", "value=10")
    assert "component c not found" in admin(
        *here, "declare", "parameter", "component=c", "name=n", 'value={"a":1}', fails=True
    )
    assert [row["name"] for row in admin.rows(*here, "list", "queues")] == ["q", "quorum"]
    assert {row["name"] for row in admin.rows(*here, "list", "exchanges")} > {"", "x", "amq.topic"}
    bindings = admin.rows(*here, "list", "bindings")
    assert {(row["source"], row["destination"]) for row in bindings} == {
        ("", "q"),
        ("", "quorum"),
        ("x", "q"),
        ("x", "amq.fanout"),
    }
    assert {row["name"] for row in admin.rows("list", "users")} >= {"guest", "tooluser"}
    assert {row["name"] for row in admin.rows("list", "vhosts")} >= {"/", "tool"}
    assert "tooluser" in {row["user"] for row in admin.rows("list", "permissions")}
    assert [row["name"] for row in admin.rows("list", "policies") if row["vhost"] == "tool"] == ["p"]
    assert [row["name"] for row in admin.rows("list", "operator_policies") if row["vhost"] == "tool"] == ["o"]
    assert [row["value"] for row in admin.rows("list", "vhost_limits")] == [{"max-queues": 10}]
    assert len(admin.rows("list", "parameters")) == 2
    assert len(admin.rows("list", "nodes")) == 1
    assert "rabbitmq_version" in admin("show", "overview")
    for table in ("queues", "exchanges", "bindings", "connections", "channels", "consumers", "nodes"):
        admin("list", table)  # as a table
    [key] = [row["properties_key"] for row in bindings if row["destination"] == "q" and row["source"]]
    admin(*here, "delete", "binding", "source=x", "destination_type=queue", "destination=q", f"properties_key={key}")
    for kind, name in (("exchange", "x"), ("queue", "q"), ("policy", "p"), ("operator_policy", "o")):
        admin(*here, "delete", kind, f"name={name}")
    admin("delete", "vhost_limit", "vhost=tool", "name=max-queues")
    admin("delete", "permission", "vhost=tool", "user=tooluser")
    admin("delete", "user", "name=tooluser")
    admin("delete", "vhost", "name=tool")
    assert "tool" not in {row["name"] for row in admin.rows("list", "vhosts")}


def test_publish_get_and_purge(admin: Admin, tmp_path: Path) -> None:
    admin("declare", "queue", "name=toolq")
    for number in range(3):
        said = admin("publish", "routing_key=toolq", f"payload=m{number}", 'properties={"delivery_mode":2}')
        assert "Message published" in said
    assert "Message published but NOT routed" in admin("publish", "routing_key=nobody", "payload=x")
    assert [row["payload"] for row in admin.rows("get", "queue=toolq", "count=2")] == ["m0", "m1"]
    assert [row["payload"] for row in admin.rows("get", "queue=toolq", "ackmode=ack_requeue_false")] == ["m0"]
    admin("get", "queue=toolq", f"payload_file={tmp_path / 'payload'}")
    assert (tmp_path / "payload").read_text() == "m1"
    admin("purge", "queue", "name=toolq")
    assert admin.rows("get", "queue=toolq") == []
    admin("delete", "queue", "name=toolq")
    assert "Not found" in admin("purge", "queue", "name=toolq", fails=True)


def test_export_import_and_close(admin: Admin, api: Api, tmp_path: Path) -> None:
    admin("declare", "queue", "name=exported")
    admin("export", "definitions.json")
    admin("delete", "queue", "name=exported")
    admin("import", "definitions.json")
    assert "exported" in {row["name"] for row in admin.rows("list", "queues")}
    admin("delete", "queue", "name=exported")
    connection = open_connection(api.broker)
    for row in admin.rows("list", "connections"):
        admin("close", "connection", f"name={row['name']}")
    with pytest.raises(Exception, match="Closed via management plugin"):
        connection.process_data_events(5)
