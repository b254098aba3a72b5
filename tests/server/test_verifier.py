"""The thread that checks passwords: everybody gets a turn, and nobody's waiting holds up the broker."""

from __future__ import annotations

import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import jwt
import pika
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import pabal.server.verifier
from broker_process import BrokerProcess
from clients.raw_client import RawClient
from pabal.broker.access import Answer, Principal, Refused
from pabal.model.limits import (
    HANDSHAKE_SECONDS_MAX,
    LOGINS_OF_ADDRESS_WAITING_MAX,
    LOGINS_OF_ONE_WAITING_MAX,
    LOGINS_WAITING_MAX,
)
from pabal.model.passwords import hash_password
from pabal.server.verifier import FairQueue, Job, VerifierThread

PATIENCE_SECONDS = 20


def job(name: str) -> Job:
    return Job(lambda: Principal(name), lambda answer: None, 0.0)


def order(queue: FairQueue) -> list[str]:
    taken: list[Answer] = []
    while len(queue):
        taken.append(queue.take().check())
    return [principal.name for principal in taken if isinstance(principal, Principal)]


def test_addresses_take_turns_and_so_do_the_names_of_one() -> None:
    queue = FairQueue()
    for peer, name in (("a", "x"), ("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("b", "x")):
        assert queue.put(peer, name, job(f"{peer}{name}"))
    assert order(queue) == ["ax", "bx", "ay", "bx", "ax", "ax"]
    assert len(queue) == 0


def test_one_user_of_one_address_fills_its_own_share_only() -> None:
    queue = FairQueue()
    for _ in range(LOGINS_OF_ONE_WAITING_MAX):
        assert queue.put("a", "x", job("x"))
    assert not queue.put("a", "x", job("x"))
    assert queue.put("a", "y", job("y"))
    assert order(queue)[1] == "y"


def test_one_address_does_not_fill_all_the_room() -> None:
    queue = FairQueue()
    for number in range(LOGINS_OF_ADDRESS_WAITING_MAX):
        assert queue.put("a", str(number), job("x"))
    assert not queue.put("a", "another", job("x"))
    assert queue.put("b", "x", job("x"))
    queue.take()
    assert queue.put("a", "another", job("x"))
    order(queue)
    assert not queue._counts


def test_what_waited_longer_than_a_handshake_may_take_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: SimpleQueue[object] = SimpleQueue()
    thread = VerifierThread("test", calls.put)
    now_s = [100.0]
    first_runs, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(pabal.server.verifier.time, "monotonic", lambda: now_s[0])
    answers: list[Answer] = []

    def slow() -> Answer:
        first_runs.set()
        go_on.wait(PATIENCE_SECONDS)
        return Principal("slow")

    thread.run("a", "x", slow, answers.append)
    thread.run("a", "y", lambda: Principal("late"), answers.append)
    assert first_runs.wait(PATIENCE_SECONDS)
    now_s[0] += HANDSHAKE_SECONDS_MAX + 1
    go_on.set()
    for _ in range(2):
        calls.get(timeout=PATIENCE_SECONDS)()  # type: ignore[operator]
    thread.stop()
    assert answers[0] == Principal("slow")
    assert isinstance(answers[1], Refused)


def test_there_is_a_bound_for_all_together() -> None:
    queue = FairQueue()
    for number in range(LOGINS_WAITING_MAX):
        assert queue.put(str(number), "x", job("x"))
    assert not queue.put("another", "x", job("x"))
    queue.take()
    assert queue.put("another", "x", job("x"))


def test_answers_come_by_the_loop_and_an_error_lets_nobody_in() -> None:
    calls: SimpleQueue[object] = SimpleQueue()
    thread = VerifierThread("test", calls.put)
    answers: list[tuple[Answer, str]] = []

    def check() -> Answer:
        answers.append((Principal("on"), threading.current_thread().name))
        return Principal("ann")

    def fails() -> Answer:
        raise ValueError("of ours")

    assert thread.run("a", "x", check, lambda answer: answers.append((answer, threading.current_thread().name)))
    assert thread.run("a", "y", fails, lambda answer: answers.append((answer, "")))
    for _ in range(2):
        call = calls.get(timeout=PATIENCE_SECONDS)
        assert callable(call)
        call()
    thread.stop()
    assert [name for _, name in answers[:1]] == ["test"]
    found = [answer for answer, _ in answers]
    assert Principal("ann") in found
    assert any(isinstance(answer, Refused) and "of ours" in answer.reason for answer in found)
    assert (Principal("ann"), threading.current_thread().name) in answers


# --- A whole broker -----------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path: Path) -> BrokerProcess:
    return BrokerProcess(tmp_path, arguments=["--config", str(tmp_path / "pabal.toml")])


def log_in(process: BrokerProcess, user: str, password: str) -> None:
    credentials = pika.PlainCredentials(user, password)
    parameters = pika.ConnectionParameters(process.host, process.port, credentials=credentials)
    pika.BlockingConnection(parameters).close()


def answered(clients: list[RawClient]) -> int:
    """How many have an answer, or were closed."""
    return len(select.select([client.socket for client in clients], [], [], 0)[0])


def test_who_tries_many_passwords_waits_for_himself(process: BrokerProcess, tmp_path: Path) -> None:
    users = {name: hash_password(f"{name}'s", b"salt" * 4) for name in ("ann", "bob", "guest")}
    users["guest"] = hash_password("guest", b"salt" * 4, 16)
    table = "".join(f'{name} = "{kept}"\n' for name, kept in users.items())
    (tmp_path / "pabal.toml").write_text(f"[users]\n{table}")
    process.start()
    clients = [RawClient(process.host, process.port, timeout_seconds=PATIENCE_SECONDS) for _ in range(150)]
    try:
        for number, client in enumerate(clients):
            client.start()
            client.start_ok("ann" if number % 2 else f"nobody{number}", str(number))
        before = len(clients) // 2
        log_in(process, "bob", "bob's")
        assert answered(clients) < before, "150 checks go before his"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: log_in(process, "guest", "guest"), range(16)))
        assert answered(clients) < len(clients), "all checks go before theirs"
    finally:
        for client in clients:
            client.socket.close()
        process.stop()


def test_a_token_is_taken_as_a_password_renewed_and_expires(process: BrokerProcess, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "pabal.toml").write_text(
        '[oauth]\nresource_server_id = "mq"\n[oauth.signing_keys]\none = "key.pem"\n'
        '[oauth.scope_aliases]\nsome = ["mq.configure:*/a*", "mq.write:*/a*"]\n'
    )

    def token(seconds: float) -> str:
        claims = {"aud": "mq", "sub": "ann", "scope": "some", "exp": int(time.time() + seconds)}
        return jwt.encode(claims, key, "RS256", {"kid": "one"})

    process.start()
    credentials = pika.PlainCredentials("", token(4))
    parameters = pika.ConnectionParameters(process.host, process.port, credentials=credentials)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare("a-queue")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="configure access to queue 'b'"):
        channel.queue_declare("b")
    deadline = time.monotonic() + PATIENCE_SECONDS
    connection.update_secret(token(6), "expires soon")
    renewed = time.monotonic()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="credential expired"):
        while time.monotonic() < deadline:
            connection.process_data_events(0.1)
    assert time.monotonic() - renewed > 4  # so the second counted
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        log_in(process, "", token(-1))
    log_in(process, "guest", "guest")
    process.stop()


def test_logins_go_on_where_priorities_may_not_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under systemd's SystemCallFilter=~@resources."""

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(pabal.server.verifier.os, "setpriority", refused)
    calls: SimpleQueue[object] = SimpleQueue()
    thread = VerifierThread("test", calls.put)
    answers: list[Answer] = []
    assert thread.run("a", "x", lambda: Principal("ann"), answers.append)
    calls.get(timeout=PATIENCE_SECONDS)()  # type: ignore[operator]
    thread.stop()
    assert answers == [Principal("ann")]
