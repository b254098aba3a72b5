"""Logging in: by password on another thread, by certificate, by token; and what becomes of who is in already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from peer import CONTAINER, Peer, World
from pika import spec

from pabal.broker.access import Access, Answer, Principal, Refused
from pabal.model.definitions import UserDefinition
from pabal.model.limits import HANDSHAKE_SECONDS_MAX
from pabal.model.passwords import COST, export_hash, hash_password, import_hash, verify_password
from pabal.model.scopes import Scopes
from pabal.session.amqp091.connection import Amqp091Session

EXPORT = json.loads((Path(__file__).parent / "rabbitmq_users.json").read_text())
"""Users as RabbitMQ 3.10.8 exports them; each has the password "s3krit-" and its name."""


class Later:
    """A Verifier that answers when the test says so. `full`: it takes nothing more."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, str, Callable[[], Answer], Callable[[Answer], None]]] = []
        self.full = False

    def run(self, peer: str, name: str, check: Callable[[], Answer], done: Callable[[Answer], None]) -> bool:
        if self.full:
            return False
        self.jobs.append((peer, name, check, done))
        return True

    def answer(self) -> None:
        _, _, check, done = self.jobs.pop(0)
        done(check())


class Tokens:
    """A token here is `token:;NAME;SCOPE,…;EXPIRES_AT_MS`."""

    def recognises(self, secret: str) -> bool:
        return secret.startswith("token:")

    def read(self, token: str) -> Answer:
        _, name, scopes, expires_at_ms = token.split(";")
        if name == "bad":
            return Refused("bad token")
        found = Scopes(scopes.split(","), {})
        return Principal(name, found.tags, found, int(expires_at_ms))


def token(name: str, scopes: str, expires_at_ms: int = 0) -> str:
    return f"token:;{name};{scopes};{expires_at_ms}"


class Place(World):
    def __init__(self) -> None:
        super().__init__()
        self.verifier = Later()
        self.token_verifier = Later()
        self.access = Access(self.broker, b"key", self.verifier, Tokens(), self.token_verifier)

    def peer(self, certificate_name: str = "") -> Peer:
        peer = Peer(self)
        peer.session = Amqp091Session(
            self.broker,
            self.access,
            self.settings,
            CONTAINER,
            lambda: self.turn.writes(peer),
            peer.log.append,
            True,
            "10.0.0.1",
            certificate_name,
        )
        return peer

    def start(
        self, name: str = "guest", secret: str = "guest", mechanism: str = "PLAIN", certificate_name: str = ""
    ) -> Peer:
        peer = self.peer(certificate_name)
        peer.send_bytes(b"AMQP\x00\x00\x09\x01")
        capabilities = {"capabilities": {"authentication_failure_close": True}}
        response = f"\0{name}\0{secret}" if mechanism == "PLAIN" else ""
        peer.send(0, spec.Connection.StartOk(capabilities, mechanism, response, "en_US"))
        return peer

    def answer(self, verifier: Later | None = None) -> None:
        (verifier or self.verifier).answer()
        self.turn.end()

    def open(self, peer: Peer, vhost: str = "/") -> list[str]:
        peer.send(0, spec.Connection.TuneOk(2047, 131072, 0), spec.Connection.Open(vhost))
        return peer.names()


@pytest.fixture
def place() -> Place:
    return Place()


# --- On another thread --------------------------------------------------------------------------------------


def test_a_peer_waits_unread_while_its_password_is_checked(place: Place) -> None:
    peer = place.start()
    assert peer.names() == ["Start"]
    assert peer.session.blocked
    peer.send(0, spec.Connection.TuneOk(2047, 131072, 0), spec.Connection.Open("/"))
    assert peer.names() == []
    place.answer()
    assert peer.names() == ["Tune", "OpenOk"]
    assert not peer.session.blocked
    assert place.verifier.jobs == []


def test_a_password_that_was_right_is_not_checked_again(place: Place) -> None:
    place.start()
    place.answer()
    assert place.start().names() == ["Start", "Tune"]


def test_many_with_the_same_password_wait_for_one_check(place: Place) -> None:
    peers = [place.start() for _ in range(20)]
    assert len(place.verifier.jobs) == 1
    place.answer()
    assert all(peer.names() == ["Start", "Tune"] for peer in peers)


def test_a_wrong_password_is_refused_in_rabbitmqs_words(place: Place) -> None:
    peer = place.start(secret="wrong")
    place.answer()
    closed = peer.received()[-1]
    assert closed.reply_code == 403
    assert closed.reply_text == (
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
    )
    assert "refused: user 'guest' - invalid credentials" in peer.log
    assert not peer.session.blocked  # its close-ok is read


def test_an_unknown_user_takes_as_long_and_is_told_the_same(place: Place) -> None:
    peer = place.start("nobody", "x")
    assert len(place.verifier.jobs) == 1
    place.answer()
    assert peer.received()[-1].reply_code == 403


def test_nobody_logs_in_without_a_password(place: Place) -> None:
    place.broker.accounts.put_user(UserDefinition("none", "", ["/"]))
    place.broker.accounts.put_user(UserDefinition("empty", hash_password("", b"salt", 16), ["/"]))
    for name, secret in (("none", ""), ("empty", ""), ("none", "x")):
        peer = place.start(name, secret)
        if secret:
            place.answer()
        assert peer.received()[-1].reply_code == 403, name


def test_a_handshake_takes_no_longer_because_somebody_is_slow_to_check(place: Place) -> None:
    peer = place.start()
    place.now_ms += (HANDSHAKE_SECONDS_MAX + 1) * 1000
    place.broker.begin(place.now_ms)
    peer.session.tick(place.now_ms)
    assert peer.session.closed
    place.answer()  # too late: nothing happens
    assert peer.names() == ["Start"]


def test_when_too_many_wait_the_next_one_is_refused(place: Place) -> None:
    place.verifier.full = True
    peer = place.start()
    assert peer.received()[-1].reply_code == 403
    assert "refused: too many wait to be authenticated" in peer.log
    place.verifier.full = False
    place.start()
    assert len(place.verifier.jobs) == 1


@pytest.mark.parametrize("change", ["password", "deleted"])
def test_a_user_that_changes_meanwhile_is_not_let_in_by_the_old_password(place: Place, change: str) -> None:
    peer = place.start()
    if change == "password":
        place.broker.accounts.put_user(UserDefinition("guest", hash_password("new", b"salt", 16), ["/"]))
    else:
        place.broker.accounts.delete_user("guest")
    place.answer()
    assert peer.received()[-1].reply_code == 403


# --- Certificates -------------------------------------------------------------------------------------------


def test_external_is_offered_to_who_has_shown_a_certificate(place: Place) -> None:
    for name, offered in (("", "PLAIN AMQPLAIN"), ("guest", "PLAIN AMQPLAIN EXTERNAL")):
        peer = place.peer(name)
        peer.send_bytes(b"AMQP\x00\x00\x09\x01")
        [start] = peer.received()
        assert start.mechanisms.decode() == offered


def test_a_certificate_is_as_good_as_a_password(place: Place) -> None:
    place.broker.accounts.put_user(UserDefinition("CN=ann", "", ["/"], tags=["management"]))
    peer = place.start(mechanism="EXTERNAL", certificate_name="CN=ann")
    assert peer.names() == ["Start", "Tune"]
    assert place.open(peer) == ["OpenOk"]
    assert peer.session.user == "CN=ann"
    assert peer.session.rights is not None
    assert peer.session.rights.principal == Principal("CN=ann", ("management",))


def test_a_certificate_of_nobody_here_is_refused(place: Place) -> None:
    peer = place.start(mechanism="EXTERNAL", certificate_name="CN=nobody")
    assert peer.received()[-1].reply_code == 403


def test_external_without_a_certificate_is_no_mechanism(place: Place) -> None:
    peer = place.start(mechanism="EXTERNAL")
    assert peer.session.closed
    assert peer.names() == ["Start"]


# --- Tokens -------------------------------------------------------------------------------------------------


def bearer(place: Place, scopes: str = "read:*/*,write:*/*,configure:*/*", expires_at_ms: int = 0) -> Peer:
    peer = place.start("", token("ann", scopes, expires_at_ms))
    place.answer(place.token_verifier)
    assert peer.names() == ["Start", "Tune"]
    return peer


def test_a_token_lets_in_where_its_scopes_say(place: Place) -> None:
    place.broker.add_vhost("other")
    peer = bearer(place, "write:other/x,configure:other/x")
    assert place.open(peer, "/") == ["Close"]
    peer = bearer(place, "write:other/x,configure:other/x")
    assert place.open(peer, "other") == ["OpenOk"]
    assert peer.session.user == "ann"
    peer.send(1, spec.Channel.Open(), spec.Queue.Declare(queue="x"), spec.Queue.Purge(queue="x"))
    names = peer.received()
    assert [type(n).__name__ for n in names] == ["OpenOk", "DeclareOk", "Close"]
    assert names[-1].reply_text == (
        "ACCESS_REFUSED - read access to queue 'x' in vhost 'other' refused for user 'ann'"
    )


def test_a_token_must_name_the_keys_of_a_topic_exchange(place: Place) -> None:
    peer = bearer(place, "write:*/amq.topic/a.*,read:*/*")
    place.open(peer)
    peer.send(1, spec.Channel.Open())
    for key in ("a.b", "b"):
        method = spec.Basic.Publish(exchange="amq.topic", routing_key=key)
        peer.send_bytes(Peer.message(method, spec.BasicProperties(), b"m"))
    _, closed = peer.received()
    assert closed.reply_text == (
        "ACCESS_REFUSED - write access to topic 'b' in exchange 'amq.topic' in vhost '/' refused for user 'ann'"
    )


def test_a_token_that_is_refused_lets_nobody_in(place: Place) -> None:
    peer = place.start("guest", token("bad", ""))
    place.answer(place.token_verifier)
    assert peer.received()[-1].reply_code == 403


def test_when_a_token_expires_the_connection_is_closed(place: Place) -> None:
    peer = bearer(place, expires_at_ms=place.now_ms + 5000)
    place.open(peer)
    place.advance(4)
    assert peer.received() == []
    place.advance(2)
    [closed] = peer.received()
    assert (closed.reply_code, closed.reply_text) == (320, "CONNECTION_FORCED - credential expired")


def test_a_new_token_prolongs_the_connection_and_changes_what_it_may_do(place: Place) -> None:
    peer = bearer(place, expires_at_ms=place.now_ms + 5000)
    place.open(peer)
    publish = Peer.message(spec.Basic.Publish(exchange="amq.direct", routing_key="k"), spec.BasicProperties(), b"m")
    peer.send(1, spec.Channel.Open())
    peer.send_bytes(publish)
    assert peer.names() == ["OpenOk"]
    renewed = token("ann", "read:*/*", place.now_ms + 60_000)
    peer.send(0, spec.Connection.UpdateSecret(renewed.encode(), "it is about to expire"))
    assert peer.session.blocked
    place.answer(place.token_verifier)
    assert peer.names() == ["UpdateSecretOk"]
    place.advance(6)
    assert peer.received() == []
    peer.send_bytes(publish)
    assert peer.received()[-1].reply_text == (
        "ACCESS_REFUSED - write access to exchange 'amq.direct' in vhost '/' refused for user 'ann'"
    )


@pytest.mark.parametrize("renewed", [token("bob", "read:*/*"), token("bad", "")])
def test_another_users_token_or_a_bad_one_closes_the_connection(place: Place, renewed: str) -> None:
    peer = bearer(place)
    place.open(peer)
    peer.send(0, spec.Connection.UpdateSecret(renewed.encode(), ""))
    place.answer(place.token_verifier)
    [closed] = peer.received()
    assert (closed.reply_code, closed.reply_text) == (
        530,
        "NOT_ALLOWED - New secret was refused by one of the backends",
    )


def test_a_token_that_does_not_open_the_vhost_any_more_closes_the_connection(place: Place) -> None:
    peer = bearer(place)
    place.open(peer)
    peer.send(0, spec.Connection.UpdateSecret(token("ann", "read:other/*").encode(), ""))
    place.answer(place.token_verifier)
    [closed] = peer.received()
    assert closed.reply_text == "NOT_ALLOWED - access to vhost '/' refused for user 'ann'"


def test_a_password_is_not_renewed(place: Place) -> None:
    peer = place.start()
    place.answer()
    place.open(peer)
    peer.received()
    peer.send(0, spec.Connection.UpdateSecret(b"whatever", ""))
    assert peer.names() == ["UpdateSecretOk"]


def test_a_user_who_came_from_rabbitmq_takes_as_long_as_one_who_is_not_there(place: Place) -> None:
    """RabbitMQ's digests are quick: how soon a wrong password is refused would tell who is there."""
    user = next(each for each in EXPORT if each["password_hash"])
    kept = import_hash(user["password_hash"], user["hashing_algorithm"])
    place.broker.accounts.put_user(UserDefinition("moved", kept, []))

    def work(name: str) -> int:
        """What scrypt was made to do: all else is little beside it."""
        place.start(name, "wrong")
        [(_, _, check, _)] = place.verifier.jobs
        with patch("hashlib.scrypt", wraps=hashlib.scrypt) as scrypt:
            check()
        place.answer()
        return sum(call.kwargs["n"] * call.kwargs["r"] * call.kwargs["p"] for call in scrypt.call_args_list)

    assert work("moved") == work("nobody") > 0


# --- Password hashes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", EXPORT, ids=lambda user: str(user["name"]))
def test_hashes_of_rabbitmq_are_verified_and_exported_as_they_came(user: dict[str, Any]) -> None:
    kept = import_hash(user["password_hash"], user["hashing_algorithm"])
    if not kept:
        assert not verify_password("", kept)
        return
    assert verify_password(f"s3krit-{user['name']}", kept)
    assert not verify_password("s3krit", kept)
    assert export_hash(kept) == (user["password_hash"], user["hashing_algorithm"])


def test_our_own_hashes_go_out_and_come_in() -> None:
    kept = hash_password("p", b"salt" * 4)
    assert kept.startswith(f"scrypt:{COST}:")
    assert import_hash(*export_hash(kept)) == kept


@pytest.mark.parametrize(
    ("password_hash", "algorithm"),
    [
        ("not base64!", "rabbit_password_hashing_sha256"),
        ("AAAA", "rabbit_password_hashing_sha256"),
        (EXPORT[0]["password_hash"], "rabbit_password_hashing_none"),
        ("scrypt:3:8:1:00:00", "pabal_password_hashing_scrypt"),
        ("scrypt:1073741824:8:1:00:00", "pabal_password_hashing_scrypt"),
        ("scrypt:1048576:8:1:00:00", "pabal_password_hashing_scrypt"),  # a gigabyte, and seconds
        ("plain", "pabal_password_hashing_scrypt"),
    ],
)
def test_hashes_that_nothing_could_match_are_refused(password_hash: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"hash|algorithm"):
        import_hash(password_hash, algorithm)
