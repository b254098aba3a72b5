"""Exit codes, and errors of one line that say what to do."""

from __future__ import annotations

import os
import socket
import ssl
import threading

import pytest

from pabal.cli.api import parse_url

from .answers import WORK
from .conftest import Ran, Run
from .fake_api import FakeApi


def ended(ran: Ran, code: int) -> str:
    """The error, which must be one line, with nothing on stdout."""
    assert (ran.code, ran.out) == (code, ""), ran
    assert ran.err.startswith("pabal: ")
    assert ran.err.count("\n") == 1, ran.err
    return ran.err.removeprefix("pabal: ").rstrip("\n")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_no_broker(run: Run, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    assert ended(run("status", "--url", url), 3) == (
        f"cannot reach {url}: connection refused; is `pabal serve` running? other address: --url or PABAL_URL"
    )


def test_no_such_host(run: Run) -> None:
    error = ended(run("queues", "--url", "http://no.such.host.invalid"), 3)
    assert error.startswith("cannot reach http://no.such.host.invalid:15672: ")
    assert "is the broker running there?" in error


def test_what_is_not_http(run: Run) -> None:
    """The port of AMQP, which is what people mistake it for."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            peer.recv(65_536)
            peer.sendall(b"AMQP\x00\x00\x09\x01")
            peer.close()

        server.settimeout(5)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        error = ended(run("queues", "--url", f"127.0.0.1:{server.getsockname()[1]}"), 3)
        thread.join(5)
    assert "answers, but not in HTTP; is it the right port?" in error


def test_what_is_no_broker(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues", b"<html>hello</html>")
    assert "answers, but not like a broker's HTTP API" in ended(run("queues"), 3)


def test_https_to_a_port_of_http(api: FakeApi, run: Run) -> None:
    assert "does it speak https?" in ended(run("queues", "--url", f"https://127.0.0.1:{api.port}"), 3)


def test_a_certificate_file_that_is_none(run: Run, tmp_path: os.PathLike[str]) -> None:
    error = ended(run("queues", "--url", "https://127.0.0.1:1", "--ca", f"{tmp_path}/none.pem"), 3)
    assert error.endswith("none.pem: no such file or directory; see --ca")
    assert ssl.OPENSSL_VERSION


def test_a_wrong_password_is_not_shown(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues", {"error": "not_authorized", "reason": "Login failed"}, 401)
    error = ended(run("queues", "--url", f"http://ann:s3cret@127.0.0.1:{api.port}"), 1)
    assert error == (
        f"http://127.0.0.1:{api.port} does not let 'ann' in (Login failed); check user and password: --url, --user, "
        "PABAL_PASSWORD"
    )


def test_what_a_user_may_not(api: FakeApi, run: Run) -> None:
    api.answer("PUT", "queues/%2F/q", {"error": "not_authorised", "reason": "Access refused."}, 401)
    assert ended(run("queues", "declare", "q"), 1) == (
        "'guest' may not do that (Access refused); `pabal permissions list guest` says what it may"
    )


def test_an_exchange_that_every_vhost_has(api: FakeApi, run: Run) -> None:
    """The broker would only say "Access refused", to an administrator too."""
    api.answer("GET", "exchanges/%2F/amq.topic", {"name": "amq.topic"})
    error = ended(run("exchanges", "delete", "amq.topic"), 1)
    assert error == "exchange 'amq.topic' is one of those that every vhost has: it cannot be deleted"


def test_the_password_comes_from_the_environment(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues", [WORK])
    assert run("queues", "--user", "ann", env={"PABAL_PASSWORD": "a:b"}).code == 0
    assert api.requests[-1].headers["Authorization"] == "Basic YW5uOmE6Yg=="
    error = ended(run("queues", "--user", "ann"), 2)
    assert error == "no password for 'ann': set PABAL_PASSWORD"


def test_the_brokers_reason_is_passed_on(api: FakeApi, run: Run) -> None:
    reason = "inequivalent arg 'durable' for queue 'q'\nin vhost '/'"
    api.answer("PUT", "queues/%2F/q", {"error": "bad_request", "reason": reason}, 400)
    assert ended(run("queues", "declare", "q"), 1) == "inequivalent arg 'durable' for queue 'q' in vhost '/'"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("queues show q", "there is no queue 'q' in vhost '/'; `pabal queues` lists them; another vhost: -V"),
        ("queues delete q", "there is no queue 'q' in vhost '/'; `pabal queues` lists them; another vhost: -V"),
        ("get q", "there is no queue 'q' in vhost '/'; `pabal queues` lists them; another vhost: -V"),
        ("purge q -V v", "there is no queue 'q' in vhost 'v'; `pabal queues` lists them; another vhost: -V"),
        ("peek q", "there is no queue 'q' in vhost '/'; `pabal queues` lists them; another vhost: -V"),
        (
            "exchanges show e",
            "there is no exchange 'e' in vhost '/'; `pabal exchanges` lists them; another vhost: -V",
        ),
        ("users show u", "there is no user 'u'; `pabal users` lists them"),
        ("vhosts show v", "there is no vhost 'v'; `pabal vhosts` lists them"),
        ("policies show p", "there is no policy 'p' in vhost '/'; `pabal policies list` lists them"),
    ],
)
def test_what_is_not_there(run: Run, line: str, error: str) -> None:
    assert ended(run(*line.split()), 1) == error


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("quees", "there is no command 'quees'; did you mean `pabal queues`?; see `pabal --help`"),
        ("queues shw", "see `pabal queues --help`"),
        ("queues show", "Missing argument 'NAME'; see `pabal queues show --help`"),
        ("queues --colums x", "see `pabal queues list --help`"),
        ("queues declare q -a novalue", "--argument 'novalue': expected KEY=VALUE"),
        ("queues list [", "PATTERN '[' is no regular expression"),
        ("limits set max-queues=many", "max-queues=many: expected a whole number"),
        ("policies set p ^w {no", "DEFINITION: not JSON"),
        ("publish work x -p colour=red", "--property colour: expected one of app_id"),
        ("publish work x --lines", "the body is given twice"),
        ("publish work --file /no/such", "--file /no/such: No such file or directory"),
        ("queues --url ftp://x", "--url or PABAL_URL: expected http://USER:PASSWORD@HOST:PORT, or https://"),
        ("queues --url http://x:99999", "--url or PABAL_URL: the port is no number"),
        ("import /no/such", "/no/such: No such file or directory"),
        ("completion tcsh", "see `pabal completion --help`"),
    ],
)
def test_wrong_usage(api: FakeApi, run: Run, line: str, error: str) -> None:
    assert error in ended(run(*line.split()), 2)
    assert api.requests == []


def test_a_reader_that_leaves_is_no_error(api: FakeApi) -> None:
    """`pabal queues | head -1`: neither a traceback nor another code."""
    import subprocess
    import sys

    api.answer("GET", "queues", [{**WORK, "name": f"{n:06}" * 20} for n in range(5_000)])
    process = subprocess.Popen(
        [sys.executable, "-m", "pabal", "queues"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PABAL_URL": api.url},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, b"")
    process.stderr.close()


def test_urls() -> None:
    address = parse_url("https://a%40b:p%3Aw@[::1]:99/prefix/api/")
    assert (address.user, address.password, address.host, address.port) == ("a@b", "p:w", "::1", 99)
    assert (address.tls, address.prefix, address.shown) == (True, "/prefix", "https://[::1]:99/prefix")
    assert parse_url("rabbit")[:4] == ("http://rabbit:15672", False, "rabbit", 15672)
    assert parse_url("https://rabbit").port == 15671
    assert (parse_url("rabbit").user, parse_url("rabbit").password) == ("guest", "guest")
    assert parse_url("http://ann@rabbit").password is None


def test_a_change_whose_answer_is_lost_is_not_asked_for_again(api: FakeApi, run: Run) -> None:
    """It may have been done: the message would be published twice."""
    api.answer("GET", "queues/%2F/work", WORK)
    api.dies_at = {("DELETE", "queues/%2F/work/contents")}
    assert "cannot reach" in ended(run("purge", "work"), 3)
    assert [method for method, _, _ in api.changes()] == ["DELETE"]
    assert api.connections == 1


def test_a_connection_is_made_anew_after_a_pause(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers close idle ones, as while a password is typed."""
    api.answer("GET", "queues/%2F/work", WORK)
    api.answer("DELETE", "queues/%2F/work/contents", status=204)
    assert run("purge", "work").code == 0
    assert api.connections == 1
    monkeypatch.setattr("pabal.cli.api._KEPT_SECONDS_MAX", -1.0)
    assert run("purge", "work").code == 0
    assert api.connections == 3
