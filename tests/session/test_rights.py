"""What each operation of AMQP 0-9-1 asks a user to be permitted: without, it is refused in RabbitMQ's words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from peer import Peer, World
from pika import spec

from pabal.broker.access import Rights
from pabal.model.definitions import (
    BindingDefinition,
    ExchangeDefinition,
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
)
from pabal.model.errors import NotAllowed
from pabal.model.passwords import hash_password
from pabal.session.amqp091.channel import _HANDLERS
from pabal.wire.amqp091 import methods as m

Need = tuple[str, str, str]
ALL = ".*"


@dataclass(frozen=True)
class Case:
    """`sent` on channel 1 takes the permissions `needs`, and is answered by `answer` when there are those and no
    others. `before`: is sent first, and needs nothing else."""

    method: m.Method
    sent: Any
    needs: list[Need]
    answer: str | None
    before: list[Any] = field(default_factory=list)
    name: str = ""


def publish(exchange: str, key: str = "k", **properties: Any) -> bytes:
    return Peer.message(
        spec.Basic.Publish(exchange=exchange, routing_key=key), spec.BasicProperties(**properties), b"m"
    )


B, E, Q = spec.Basic, spec.Exchange, spec.Queue
DEAD = {"x-dead-letter-exchange": "x"}
ALTERNATE = {"alternate-exchange": "x"}
ON_Q: Need = ("read", "queue", "q")
CASES = [
    Case(m.EXCHANGE_DECLARE, E.Declare(exchange="new"), [("configure", "exchange", "new")], "DeclareOk"),
    Case(
        m.EXCHANGE_DECLARE,
        E.Declare(exchange="x", durable=True),
        [("configure", "exchange", "x")],
        "DeclareOk",
        name="again",
    ),
    Case(
        m.EXCHANGE_DECLARE,
        E.Declare(exchange="new", arguments=ALTERNATE),
        [("configure", "exchange", "new"), ("read", "exchange", "new"), ("write", "exchange", "x")],
        "DeclareOk",
        name="alternate",
    ),
    Case(
        m.EXCHANGE_DECLARE,
        E.Declare(exchange="has", arguments=ALTERNATE),
        [("configure", "exchange", "has")],
        "DeclareOk",
        name="alternate again",
    ),
    Case(m.EXCHANGE_DECLARE, E.Declare(exchange="x", passive=True), [], "DeclareOk", name="passive"),
    Case(m.EXCHANGE_DELETE, E.Delete(exchange="x"), [("configure", "exchange", "x")], "DeleteOk"),
    Case(m.EXCHANGE_DELETE, E.Delete(exchange="no"), [("configure", "exchange", "no")], "DeleteOk", name="absent"),
    Case(
        m.EXCHANGE_BIND,
        E.Bind(destination="x", source="y"),
        [("write", "exchange", "x"), ("read", "exchange", "y")],
        "BindOk",
    ),
    Case(
        m.EXCHANGE_UNBIND,
        E.Unbind(destination="x", source="y"),
        [("write", "exchange", "x"), ("read", "exchange", "y")],
        "UnbindOk",
    ),
    Case(m.QUEUE_DECLARE, Q.Declare(queue="new"), [("configure", "queue", "new")], "DeclareOk"),
    Case(m.QUEUE_DECLARE, Q.Declare(), [("configure", "queue", "amq.gen-token")], "DeclareOk", name="unnamed"),
    Case(
        m.QUEUE_DECLARE,
        Q.Declare(queue="new", arguments=DEAD),
        [("configure", "queue", "new"), ("read", "queue", "new"), ("write", "exchange", "x")],
        "DeclareOk",
        name="dead letters",
    ),
    Case(
        m.QUEUE_DECLARE,
        Q.Declare(queue="dead", durable=True, arguments=DEAD),
        [("configure", "queue", "dead")],
        "DeclareOk",
        name="dead letters again",
    ),
    Case(m.QUEUE_DECLARE, Q.Declare(queue="q", passive=True), [], "DeclareOk", name="passive"),
    Case(
        m.QUEUE_BIND,
        Q.Bind(queue="q", exchange="x", routing_key="k"),
        [("write", "queue", "q"), ("read", "exchange", "x")],
        "BindOk",
    ),
    Case(
        m.QUEUE_UNBIND,
        Q.Unbind(queue="q", exchange="x", routing_key="k"),
        [("write", "queue", "q"), ("read", "exchange", "x")],
        "UnbindOk",
    ),
    Case(m.QUEUE_PURGE, Q.Purge(queue="q"), [ON_Q], "PurgeOk"),
    Case(m.QUEUE_PURGE, Q.Purge(), [ON_Q], "PurgeOk", [Q.Declare(queue="q", passive=True)], name="last declared"),
    Case(m.QUEUE_DELETE, Q.Delete(queue="q"), [("configure", "queue", "q")], "DeleteOk"),
    Case(m.QUEUE_DELETE, Q.Delete(queue="no"), [("configure", "queue", "no")], "DeleteOk", name="absent"),
    Case(m.BASIC_CONSUME, B.Consume(queue="q", consumer_tag="c"), [ON_Q], "ConsumeOk"),
    Case(
        m.BASIC_CONSUME,
        B.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="c", no_ack=True),
        [],
        "ConsumeOk",
        name="direct reply-to",
    ),
    Case(m.BASIC_GET, B.Get(queue="q"), [ON_Q], "GetEmpty"),
    Case(m.BASIC_PUBLISH, publish("x"), [("write", "exchange", "x")], "Ack", [spec.Confirm.Select()]),
    Case(
        m.BASIC_PUBLISH,
        publish(""),
        [("write", "exchange", "amq.default")],
        "Ack",
        [spec.Confirm.Select()],
        name="default exchange",
    ),
    Case(
        m.BASIC_PUBLISH,
        publish("x", priority=3, expiration="1000"),
        [("write", "exchange", "x")],
        "Ack",
        [spec.Confirm.Select()],
        name="with properties",
    ),
    Case(
        m.BASIC_PUBLISH, publish("x"), [("write", "exchange", "x")], None, [spec.Tx.Select()], name="in a transaction"
    ),
]
FREE = {
    m.CHANNEL_FLOW,
    m.ACCESS_REQUEST,
    m.BASIC_QOS,
    m.BASIC_CANCEL,
    m.BASIC_ACK,
    m.BASIC_NACK,
    m.BASIC_REJECT,
    m.BASIC_RECOVER,
    m.BASIC_RECOVER_ASYNC,
    m.CONFIRM_SELECT,
    m.TX_SELECT,
    m.TX_COMMIT,
    m.TX_ROLLBACK,
}
"""About the channel itself, or what it was permitted before: these ask nothing, as in RabbitMQ."""


class Place:
    """A broker with some queues and exchanges, and a connection of the user guest."""

    def __init__(self, needs: Iterable[Need] | None = None) -> None:
        self.world = World()
        self.vhost = vhost = self.world.broker.vhosts["/"]
        for name in ("x", "y"):
            vhost.declare_exchange(ExchangeDefinition("/", name, "direct"))
        vhost.declare_exchange(ExchangeDefinition("/", "has", "direct", False, arguments=ALTERNATE))
        vhost.declare_exchange(ExchangeDefinition("/", "topics", "topic"))
        vhost.declare_queue("q", True, False, False, {}, None)
        vhost.declare_queue("dead", True, False, False, DEAD, None)
        vhost.bind(BindingDefinition("/", "x", "q", False, "k"))
        vhost.bind(BindingDefinition("/", "y", "x", True, ""))
        if needs is not None:
            self.permit(needs)
        self.peer = Peer(self.world).open(authentication_failure_close=True)

    def permit(self, needs: Iterable[Need], denied: Need | None = None) -> None:
        """These and no others, but for the one that is denied."""
        patterns = []
        for permission in ("configure", "write", "read"):
            names = [need[2] for need in needs if need[0] == permission and need != denied]
            patterns.append(f"^({'|'.join(name.replace('.', '[.]') for name in names)})$" if names else "")
        self.world.broker.accounts.put_permission(PermissionDefinition("guest", "/", *patterns))
        self.world.turn.end()

    def send(self, *parts: Any) -> list[Any]:
        for part in parts:
            if isinstance(part, bytes):
                self.peer.send_bytes(part)
            else:
                self.peer.send(1, part)
        return self.peer.received()

    def expect_refusal(self, answers: list[Any], text: str, method: m.Method = m.BASIC_PUBLISH) -> None:
        """The channel is closed for it; and is opened again."""
        closed = answers[-1]
        assert isinstance(closed, spec.Channel.Close), answers
        assert (closed.reply_code, closed.reply_text) == (403, f"ACCESS_REFUSED - {text} refused for user 'guest'")
        assert (closed.class_id, closed.method_id) == (method.class_id, method.method_id)
        self.send(spec.Channel.CloseOk(), spec.Channel.Open())


def label(value: object) -> str:
    return f"{value.method.name} {value.name}".strip() if isinstance(value, Case) else "-".join(value)  # type: ignore


def test_there_is_a_case_for_every_operation() -> None:
    """Whoever adds one says here what it takes."""
    known = {case.method.key for case in CASES} | {method.key for method in FREE}
    assert known == {*_HANDLERS, m.BASIC_PUBLISH.key}
    asked = {name for name in vars(Rights) if not name.startswith("_")}
    about_being_here = {"enter", "leave", "open_vhost", "open_channel", "renew", "changed", "revoked", "by_token"}
    asked -= about_being_here | {"principal", "name", "vhost", "channels"}
    amqp = {name.rstrip("_") for name in asked}
    assert amqp == {
        *("declare_exchange", "declare_exchange_passively", "delete_exchange", "declare_queue"),
        *("declare_queue_passively", "delete_queue", "purge", "consume", "get", "bind", "unbind", "publish"),
        "claim_user_id",
    }


@pytest.mark.parametrize(("case", "denied"), [(case, need) for case in CASES for need in case.needs], ids=label)
def test_without_one_of_the_permissions_it_takes_it_is_refused(case: Case, denied: Need) -> None:
    place = Place()
    place.permit(case.needs, denied)
    permission, kind, name = denied
    answers = place.send(*case.before, case.sent)
    place.expect_refusal(answers, f"{permission} access to {kind} '{name}' in vhost '/'", case.method)
    place.permit(case.needs)
    answers = place.send(*case.before, case.sent)
    assert [type(answer).__name__ for answer in answers][len(case.before) :] == ([case.answer] if case.answer else [])


@pytest.mark.parametrize("case", CASES, ids=label)
def test_with_the_permissions_it_takes_and_no_others_it_is_done(case: Case) -> None:
    place = Place(case.needs)
    answers = place.send(*case.before, case.sent)
    assert [type(answer).__name__ for answer in answers][len(case.before) :] == ([case.answer] if case.answer else [])


@pytest.mark.parametrize(
    "sent",
    [
        E.Declare(exchange=""),
        E.Declare(exchange="", passive=True),
        E.Delete(exchange=""),
        E.Bind(destination="x", source=""),
        Q.Bind(queue="q", exchange=""),
    ],
)
def test_the_default_exchange_is_nobodys(sent: Any) -> None:
    place = Place([("write", "queue", "q"), ("write", "exchange", "x")])
    [closed] = place.send(sent)
    assert closed.reply_text == "ACCESS_REFUSED - operation not permitted on the default exchange"


# --- Permissions that change --------------------------------------------------------------------------------


def test_a_change_of_permissions_is_heeded_by_connections_that_there_are() -> None:
    place = Place([("write", "exchange", "x")])
    assert place.send(publish("x"), publish("x")) == []
    place.permit([])
    place.expect_refusal(place.send(publish("x")), "write access to exchange 'x' in vhost '/'")
    place.permit([("write", "exchange", "x")])
    assert place.send(publish("x")) == []
    place.world.broker.accounts.delete_permission("guest", "/")
    place.expect_refusal(place.send(publish("x")), "write access to exchange 'x' in vhost '/'")
    assert place.vhost.queues["q"].ready == 3


def test_nothing_is_asked_again_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place([("write", "exchange", "x")])
    place.send(publish("x"))
    rights = place.peer.session.rights
    assert rights is not None
    place.world.broker.accounts.permissions.clear()  # behind its back
    assert place.send(publish("x")) == []


# --- Topics -------------------------------------------------------------------------------------------------


def topics(place: Place, write: str, read: str, exchange: str = "topics") -> None:
    permission = TopicPermissionDefinition("guest", "/", exchange, write, read)
    place.world.broker.accounts.put_topic_permission(permission)


def test_topic_permissions_limit_the_keys_to_publish_with() -> None:
    place = Place()
    topics(place, "^{username}[.]{vhost}[.]", ALL)
    assert place.send(publish("topics", "guest./.a")) == []
    refused = "write access to topic 'other./.a' in exchange 'topics' in vhost '/'"
    place.expect_refusal(place.send(publish("topics", "other./.a")), refused)
    assert place.send(publish("x", "other./.a")) == []  # it is no topic exchange


def test_topic_permissions_limit_copies_too() -> None:
    place = Place()
    topics(place, "^a$", ALL)
    assert place.send(publish("topics", "a", headers={"CC": ["a"]})) == []
    place.expect_refusal(
        place.send(publish("topics", "a", headers={"CC": ["a", "b"]})),
        "write access to topic 'b' in exchange 'topics' in vhost '/'",
    )


def test_topic_permissions_limit_the_keys_to_bind_with() -> None:
    place = Place()
    topics(place, ALL, "^a")
    answers = place.send(Q.Bind(queue="q", exchange="topics", routing_key="a.#"))
    assert [type(answer).__name__ for answer in answers] == ["BindOk"]
    refused = "read access to topic 'b.#' in exchange 'topics' in vhost '/'"
    for method, sent in (
        (m.QUEUE_BIND, Q.Bind(queue="q", exchange="topics", routing_key="b.#")),
        (m.QUEUE_UNBIND, Q.Unbind(queue="q", exchange="topics", routing_key="b.#")),
        (m.EXCHANGE_BIND, E.Bind(destination="x", source="topics", routing_key="b.#")),
        (m.EXCHANGE_UNBIND, E.Unbind(destination="x", source="topics", routing_key="b.#")),
    ):
        place.expect_refusal(place.send(sent), refused, method)


def test_a_user_name_is_no_pattern() -> None:
    place = Place()
    place.world.broker.accounts.put_user(UserDefinition("g.*", "", ["/"]))
    place.world.broker.accounts.put_topic_permission(
        TopicPermissionDefinition("g.*", "/", "topics", "^{username}$", "")
    )
    rights = Rights(place.world.access.certified("g.*", True), place.vhost)  # type: ignore[arg-type]
    rights.publish("topics", "g.*")
    with pytest.raises(Exception, match="write access to topic 'guest'"):
        rights.publish("topics", "guest")


def test_an_exchange_that_becomes_one_of_topics_is_looked_at_again() -> None:
    place = Place()
    topics(place, "^a", ALL, "turns")
    place.send(E.Declare(exchange="turns", type="direct"))
    assert place.send(publish("turns", "b")) == []
    place.vhost.delete_exchange("turns")
    place.vhost.declare_exchange(ExchangeDefinition("/", "turns", "topic"))
    place.expect_refusal(
        place.send(publish("turns", "b")), "write access to topic 'b' in exchange 'turns' in vhost '/'"
    )


# --- Who published ------------------------------------------------------------------------------------------


def test_a_user_id_is_the_users_own_unless_it_is_an_impersonator() -> None:
    place = Place()
    assert place.send(publish("x", user_id="guest")) == []
    [closed] = place.send(publish("x", user_id="ann"))
    assert closed.reply_code == 406
    assert closed.reply_text == (
        "PRECONDITION_FAILED - user_id property set to 'ann' but authenticated user was 'guest'"
    )
    place.send(spec.Channel.CloseOk(), spec.Channel.Open())
    guest = place.world.broker.accounts.users["guest"]
    place.world.broker.accounts.put_user(UserDefinition("guest", guest.password_hash, tags=["impersonator"]))
    place.peer.session.tick(place.world.now_ms)
    other = Peer(place.world).open()
    other.send_bytes(publish("x", user_id="ann"))
    assert other.received() == []


# --- The user and its limits --------------------------------------------------------------------------------


def test_with_the_user_its_connections_go() -> None:
    place = Place()
    place.world.broker.accounts.delete_user("guest")
    place.world.turn.end()
    [closed] = place.peer.received()
    assert (closed.reply_code, closed.reply_text) == (320, "CONNECTION_FORCED - user 'guest' is deleted")
    assert not place.world.broker.accounts.holders


def test_a_vhost_without_permissions_cannot_be_opened() -> None:
    world = World()
    world.broker.accounts.delete_permission("guest", "/")
    peer = Peer(world)
    with pytest.raises(AssertionError):
        peer.handshake()
    assert peer.log[-1] == "closed: NOT_ALLOWED - access to vhost '/' refused for user 'guest'"
    assert not world.broker.vhosts["/"].connections


def test_a_user_has_no_more_connections_than_it_may() -> None:
    place = Place()
    place.world.broker.accounts.set_limits("guest", {"max-connections": 1})
    peer = Peer(place.world)
    with pytest.raises(AssertionError):
        peer.handshake()
    text = "NOT_ALLOWED - connection refused for user 'guest': user connection limit (1) is reached"
    assert peer.log[-1] == f"closed: {text}"
    place.peer.session.connection_lost()
    Peer(place.world).handshake()


def test_a_user_has_no_more_channels_than_it_may() -> None:
    place = Place()
    place.world.broker.accounts.set_limits("guest", {"max-channels": 2})
    other = Peer(place.world).open()
    assert [type(a).__name__ for a in place.send(spec.Channel.Close(200, "", 0, 0))] == ["CloseOk"]
    other.send(2, spec.Channel.Open())
    assert other.names() == ["OpenOk"]
    place.peer.send(1, spec.Channel.Open())
    [closed] = place.peer.received()
    assert (closed.reply_code, closed.reply_text) == (
        530,
        "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of 2",
    )
    other.send(1, spec.Queue.Declare(queue="nowhere", passive=True))  # an error closes the channel: it counts no more
    assert other.names() == ["Close"]
    Peer(place.world).open()


def test_what_is_not_an_operation_takes_no_permission() -> None:
    place = Place([])
    names = []
    for sent in (B.Qos(prefetch_count=1), B.Cancel(consumer_tag="no"), B.Recover(requeue=True), spec.Tx.Select()):
        names += [type(answer).__name__ for answer in place.send(sent)]
    assert names == ["QosOk", "CancelOk", "RecoverOk", "SelectOk"]


def test_not_allowed_is_what_a_vhost_says() -> None:
    world = World()
    world.broker.accounts.put_user(UserDefinition("ann", hash_password("ann", b"salt", 16)))
    with pytest.raises(NotAllowed, match="access to vhost '/' refused for user 'ann'"):
        Rights(world.access.certified("ann", True), world.broker.vhosts["/"]).open_vhost()  # type: ignore[arg-type]
