"""No password, token or other secret is ever in what the broker writes: log at every level and in both formats, taps,
answers of the HTTP API, the command line. Each secret has a mark that tells which one got out and where."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pika import spec
from pika.data import encode_table

from broker_process import SOURCE, BrokerProcess, free_port
from clients.raw_client import RawClient
from management.http_client import Api
from management.test_tap import Lines, wait

KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
MARK = "Sesame"
PATHS = (
    "/overview",
    "/nodes",
    "/connections",
    "/channels",
    "/consumers",
    "/exchanges",
    "/queues",
    "/bindings",
    "/vhosts",
    "/permissions",
    "/topic-permissions",
    "/policies",
    "/operator-policies",
    "/user-limits",
    "/whoami",
    "/auth",
    "/auth/attempts/x",
    "/extensions",
    "/cluster-name",
)
"""What is read without asking for parameters, definitions or users, which show administrators what was put in."""


def secret(name: str) -> str:
    return f"{MARK}-{name}"


def token(key: Any = KEY) -> str:
    claims = {"aud": "rabbitmq", "sub": "ann", "exp": int(time.time()) + 600}
    claims["scope"] = "rabbitmq.tag:administrator rabbitmq.read:*/* rabbitmq.write:*/* rabbitmq.configure:*/*"
    return jwt.encode(claims, key, "RS256", {"kid": "one"})


def log_in(broker: BrokerProcess, mechanism: str, response: bytes, update: str = "") -> bool:
    """Whether it was let in. `update`: the secret of connection.update-secret then."""
    with RawClient(broker.host, broker.port) as client:
        client.start()
        properties = {"product": "raw", "password": secret("of-client-properties"), "capabilities": {}}
        client.send(0, spec.Connection.StartOk(properties, mechanism, response, "en_US"))
        found = client.receive()
        if not isinstance(getattr(found, "method", None), spec.Connection.Tune):
            return False
        client.send(0, spec.Connection.TuneOk(2047, 131072, 0))
        client.send(0, spec.Connection.Open("/"))
        client.expect(spec.Connection.OpenOk)
        if update:
            client.send(0, spec.Connection.UpdateSecret(update, "renewed"))
            client.receive()
        else:
            client.close_connection()
        return True


def plain(name: str, password: str) -> bytes:
    return f"\0{name}\0{password}".encode()


def amqplain(name: str, password: str) -> bytes:
    pieces: list[bytes] = []
    encode_table(pieces, {"LOGIN": name, "PASSWORD": password})
    return b"".join(pieces)[4:]


def log_in_every_way(broker: BrokerProcess, good: str, bad: str) -> None:
    assert log_in(broker, "PLAIN", plain("alice", secret("alice")))
    assert not log_in(broker, "PLAIN", plain("alice", secret("wrong-plain")))
    assert not log_in(broker, "PLAIN", plain("nobody", secret("nobody-plain")))
    assert not log_in(broker, "PLAIN", secret("malformed-plain").encode())
    assert log_in(broker, "AMQPLAIN", amqplain("alice", secret("alice")))
    assert not log_in(broker, "AMQPLAIN", amqplain("alice", secret("wrong-amqplain")))
    assert not log_in(broker, "AMQPLAIN", secret("malformed-amqplain").encode())
    assert not log_in(broker, "EXTERNAL", secret("external").encode())
    assert not log_in(broker, "NONSENSE", secret("no-mechanism").encode())
    assert log_in(broker, "PLAIN", plain("", good))
    assert not log_in(broker, "PLAIN", plain("", bad))
    assert not log_in(broker, "PLAIN", plain("", f"ey{secret('like-a-token')}.{MARK}.{MARK}"))
    for update in (good, bad, secret("update")):
        assert log_in(broker, "PLAIN", plain("", good), update)


def use_the_api(api: Api, good: str, bad: str) -> list[bytes]:
    """All answers."""
    uri = f"amqp://u:{secret('uri')}@elsewhere"
    answers = [
        api.put("/users/alice", {"password": secret("alice"), "tags": "administrator"}),
        api.put("/permissions/%2F/alice", {"configure": ".*", "write": ".*", "read": ".*"}),
        api.put("/users/bob", {"password": [secret("list")], "tags": ""}),
        api.put("/users/bob", {"password": {"a": secret("table")}, "tags": ""}),
        api.put("/users/bob", {"password_hash": secret("hash"), "tags": ""}),
        api.put("/users/bob", {"password": secret("x"), "password_hash": secret("y"), "tags": 7}),
        api.put("/users/bob", f'{{"password": "{secret("not-json")}"'.encode()),
        api.put("/parameters/shovel/%2F/s", {"value": {"src-uri": uri, "dest-uri": uri}}),
        api.put("/parameters/federation-upstream/%2F/f", {"value": {"uri": uri}}),
        api.post("/definitions", {"users": [{"name": "eve", "password": secret("import"), "tags": 7}]}),
        api.post("/definitions", {"users": [{"name": 7, "password": secret("import-2")}]}),
    ]
    for user, password in (("alice", secret("alice")), ("alice", secret("wrong")), ("nobody", secret("nobody"))):
        caller = Api(api.broker, user, password)
        answers += [caller.get(path) for path in PATHS]
    for bearer in (good, bad, secret("bearer"), f"ey{MARK}.{MARK}.{MARK}"):
        caller = Api(api.broker)
        caller.headers = {"authorization": f"Bearer {bearer}"}
        answers.append(caller.get("/whoami"))
    for header in ("Basic", f"Basic {secret('basic')}", f"Digest {secret('digest')}", secret("header")):
        caller.headers = {"authorization": header}
        answers.append(caller.get("/whoami"))
    assert {reply.status for reply in answers} >= {200, 201, 400, 401}
    return [reply.body for reply in answers]


def command(api: Api, *arguments: str, user: str, password: str) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    environment["PABAL_URL"] = f"http://{user}:{password}@{api.broker.host}:{api.port}"
    done = subprocess.run(
        [sys.executable, "-m", "pabal", *arguments], env=environment, capture_output=True, timeout=30
    )
    return done.stdout + done.stderr


def settings_file(directory: Path) -> Path:
    key = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "key.pem").write_bytes(key)
    found = directory / "pabal.toml"
    found.write_text(
        f'[oauth]\nresource_server_id = "rabbitmq"\n[oauth.signing_keys]\none = "{directory / "key.pem"}"\n'
    )
    return found


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_gets_out(form: str, tmp_path: Path, start_broker: Callable[..., BrokerProcess]) -> None:
    log_file = tmp_path / "pabal.log"
    settings = settings_file(tmp_path)
    arguments = ["--config", str(settings), "--log-level", "debug", "--log-format", form]
    environment = {"PABAL_LOG_FILE": str(log_file)} if form == "json" else {}
    broker = start_broker_with(start_broker, arguments, environment)
    api = Api(broker)
    api.wait_until_ready()
    good, bad = token(), token(OTHER_KEY)
    seen = use_the_api(api, good, bad)

    with RawClient(broker.host, broker.port) as raw:
        wait(lambda: any(not row["user"] for row in api.get("/connections").value))
        name = next(row["name"] for row in api.get("/connections").value if not row["user"])
        lines = Lines(api, name, "bodies=65536")
        lines.until("header")
        raw.start()
        raw.start_ok("alice", secret("alice"))
        raw.tune()
        raw.send(0, spec.Connection.TuneOk(2047, 131072, 0))
        raw.send(0, spec.Connection.Open("/"))
        raw.expect(spec.Connection.OpenOk)
        raw.send(0, spec.Connection.UpdateSecret(good, "renewed"))
        raw.send(0, spec.Connection.UpdateSecret(secret("tapped"), "renewed"))
        raw.receive()
    lines.until_over()
    seen += [line.encode() for line in lines.got]
    assert any("update-secret" in line for line in lines.got)

    log_in_every_way(broker, good, bad)
    seen.append(command(api, "tap", "nothing", user="alice", password=secret("alice")))
    seen.append(command(api, "status", user="alice", password=secret("wrong-cli")))
    for wrong in (f"default_password = {12}", f'users = "{MARK}"', f'users = {{ a = "{MARK}" }}'):
        settings.write_text(f'{wrong}\nnonsense = "{secret("nonsense")}"\n')
        os.kill(broker.pid, signal.SIGHUP)
        wait(lambda: (log_file.read_text() if form == "json" else broker.log()).count("settings refused"))
    broker.stop()
    seen.append(broker.log().encode())
    if form == "json":
        seen.append(log_file.read_bytes())
        assert all(json.loads(line) for line in log_file.read_text().splitlines())
    check(seen, good, bad)
    assert any(b"alice" in piece for piece in seen), "this test looks at what there is"


def start_broker_with(
    start_broker: Callable[..., BrokerProcess], arguments: list[str], environment: dict[str, str]
) -> BrokerProcess:
    return start_broker(arguments=arguments, environment=environment, http_port=free_port())


def check(seen: list[bytes], *tokens: str) -> None:
    marks = [MARK.encode(), base64.b64encode(f":{MARK}".encode())[:-4]]
    marks += [part.encode() for each in tokens for part in each.split(".")[1:]]
    found = [
        piece[max(0, piece.find(mark) - 200) : piece.find(mark) + 60]
        for piece in seen
        for mark in marks
        if mark in piece
    ]
    assert not found, found


def test_a_refused_setting_does_not_say_the_secret(tmp_path: Path) -> None:
    for wrong in ("default_password = 1234567", 'users = "1234567"', "default_password = ['1234567']"):
        settings = tmp_path / "pabal.toml"
        settings.write_text(wrong)
        done = subprocess.run(
            [sys.executable, "-m", "pabal", "serve", "--config", str(settings)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 2
        assert b"expected" in done.stderr and b"1234567" not in done.stderr
