"""Every refusal: its level, code, text, and the ids of the method it answers, as RabbitMQ gives them.

One table; each row is sent frame by frame to a broker that has the scene's queues and exchanges.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pika.amqp_object import Method
from pika.spec import Basic, BasicProperties, Channel, Confirm, Connection, Exchange, Queue

from broker_process import BrokerAddress
from clients.pika_client import open_connection
from clients.raw_client import RawClient

Properties = BasicProperties


@dataclass
class Content:
    """A basic.publish with its properties and body."""

    method: Basic.Publish
    properties: BasicProperties
    body: bytes = b"body"


@dataclass
class Case:
    """`send` is one method or several, of which the last is refused; names stand in braces."""

    name: str
    send: Method | Content | list[Method | Content]
    code: int
    text: str
    # What RabbitMQ goes on with in Erlang's terms; another broker may say it in its own words.
    erlang: str = ""


LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{locked}' in vhost '/'. It could be "
    "originally declared on another connection or the exclusive property value does not match that of the "
    "original declaration."
)
NOT_SAME = "RESOURCE_LOCKED - " + LOCKED.partition(" - ")[2].replace("{locked}", "{plain}")
NO_QUEUE = "NOT_FOUND - no queue '{missing}' in vhost '/'"
NO_EXCHANGE = "NOT_FOUND - no exchange '{missing}' in vhost '/'"
UNNAMED = "NOT_FOUND - no previously declared queue"
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"
IN_USE = "ACCESS_REFUSED - queue '{plain}' in vhost '/' in exclusive use"
QUEUE_ARG = "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': %s"
EXCHANGE_ARG = "PRECONDITION_FAILED - inequivalent arg '%s' for exchange '%s' in vhost '/': %s"
INVALID = "PRECONDITION_FAILED - invalid arg '%s' for queue '{missing}' in vhost '/': "


def differs(name: str, detail: str, **options: object) -> Case:
    """A declaration of the plain queue that is not equivalent."""
    return Case(
        f"queue {name} differs",
        Queue.Declare(queue="{plain}", **options),
        406,
        QUEUE_ARG % (name, "{plain}", detail),
    )


def differs_limited(name: str, detail: str, **changes: object) -> Case:
    """A declaration of the limited queue with some argument changed, left out (None) or added."""
    arguments = {"x-max-length": 5, "x-dead-letter-exchange": "dlx", "x-message-ttl": 60000}
    arguments.update({f"x-{key.replace('_', '-')}": value for key, value in changes.items()})
    return Case(
        f"queue argument {name}: {detail}",
        Queue.Declare(queue="{limited}", arguments={k: v for k, v in arguments.items() if v is not None}),
        406,
        QUEUE_ARG % (name, "{limited}", detail),
    )


def invalid(name: str, value: object, detail: str) -> Case:
    """A queue argument of a value that cannot be."""
    return Case(
        f"{name}={value!r}",
        Queue.Declare(queue="{missing}", arguments={name: value}),
        406,
        INVALID % name,
        detail,
    )


def expiration(value: str, detail: str) -> Case:
    return Case(
        f"expiration {value!r}",
        Content(Basic.Publish(exchange="", routing_key="{plain}"), Properties(expiration=value)),
        406,
        f"PRECONDITION_FAILED - invalid expiration '{value}'",
        f": {detail}",
    )


QUEUE_CASES = [
    Case("declare passive, missing", Queue.Declare(queue="{missing}", passive=True), 404, NO_QUEUE),
    Case(
        "declare passive, no name",
        Queue.Declare(queue="", passive=True),
        404,
        "NOT_FOUND - no queue '' in vhost '/'",
    ),
    Case(
        "declare a reserved name",
        Queue.Declare(queue="amq.mine"),
        403,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    Case("purge missing", Queue.Purge(queue="{missing}"), 404, NO_QUEUE),
    Case("bind a missing queue", Queue.Bind(queue="{missing}", exchange="{direct}"), 404, NO_QUEUE),
    Case("bind to a missing exchange", Queue.Bind(queue="{plain}", exchange="{missing}"), 404, NO_EXCHANGE),
    Case(
        "bind a missing queue to a missing exchange",
        Queue.Bind(queue="no such", exchange="{missing}"),
        404,
        NO_EXCHANGE,
    ),
    Case(
        "bind a locked queue to a missing exchange",
        Queue.Bind(queue="{locked}", exchange="{missing}"),
        404,
        NO_EXCHANGE,
    ),
    Case("bind to the default exchange", Queue.Bind(queue="{plain}", exchange=""), 403, DEFAULT),
    Case("unbind from the default exchange", Queue.Unbind(queue="{plain}", exchange=""), 403, DEFAULT),
    Case("bind, no name yet", Queue.Bind(queue="", exchange="{direct}"), 404, UNNAMED),
    Case("purge, no name yet", Queue.Purge(queue=""), 404, UNNAMED),
    Case("delete, no name yet", Queue.Delete(queue=""), 404, UNNAMED),
    Case("declare a locked queue", Queue.Declare(queue="{locked}"), 405, LOCKED),
    Case("declare a locked queue as exclusive", Queue.Declare(queue="{locked}", exclusive=True), 405, LOCKED),
    Case("declare passive a locked queue", Queue.Declare(queue="{locked}", passive=True), 405, LOCKED),
    Case("delete a locked queue", Queue.Delete(queue="{locked}"), 405, LOCKED),
    Case("purge a locked queue", Queue.Purge(queue="{locked}"), 405, LOCKED),
    Case("bind a locked queue", Queue.Bind(queue="{locked}", exchange="{direct}"), 405, LOCKED),
    Case("get from a locked queue", Basic.Get(queue="{locked}"), 405, LOCKED),
    Case("consume a locked queue", Basic.Consume(queue="{locked}"), 405, LOCKED),
    Case("declare exclusive what is shared", Queue.Declare(queue="{plain}", exclusive=True), 405, NOT_SAME),
    Case(
        "delete if empty",
        Queue.Delete(queue="{full}", if_empty=True),
        406,
        "PRECONDITION_FAILED - queue '{full}' in vhost '/' not empty",
    ),
    Case(
        "delete if unused",
        Queue.Delete(queue="{used}", if_unused=True),
        406,
        "PRECONDITION_FAILED - queue '{used}' in vhost '/' in use",
    ),
    differs("durable", "received 'true' but current is 'false'", durable=True),
    differs("auto_delete", "received 'true' but current is 'false'", auto_delete=True),
    differs(
        "x-max-length",
        "received the value '5' of type 'signedint' but current is none",
        arguments={"x-max-length": 5},
    ),
    differs(
        "x-overflow",
        "received the value 'reject-publish' of type 'longstr' but current is none",
        arguments={"x-overflow": "reject-publish"},
    ),
    differs("durable", "received 'true' but current is 'false'", durable=True, arguments={"x-max-length": 5}),
    differs_limited("x-max-length", "received '6' but current is '5'", max_length=6),
    differs_limited("x-max-length", "received '1099511627776' but current is '5'", max_length=2**40),
    differs_limited(
        "x-max-length", "received none but current is the value '5' of type 'signedint'", max_length=None
    ),
    differs_limited("x-dead-letter-exchange", "received 'other' but current is 'dlx'", dead_letter_exchange="other"),
    differs_limited(
        "x-dead-letter-exchange",
        "received none but current is the value 'dlx' of type 'longstr'",
        dead_letter_exchange=None,
    ),
    differs_limited(
        "x-message-ttl",
        "received none but current is the value '60000' of type 'signedint'",
        message_ttl=None,
    ),
    differs_limited("x-message-ttl", "received '1' but current is '60000'", message_ttl=1),
    invalid("x-max-length", -1, "{value_negative,-1}"),
    invalid("x-max-length", "many", '"expected integer, got longstr"'),
    invalid("x-max-length", True, '"expected integer, got bool"'),
    invalid("x-message-ttl", -1, "{value_negative,-1}"),
    invalid("x-message-ttl", "soon", '"expected integer, got longstr"'),
    invalid("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
    invalid("x-overflow", "flood", "invalid_overflow"),
    invalid("x-overflow", 5, "{unacceptable_type,signedint}"),
    invalid("x-dead-letter-routing-key", "alone", "routing_key_but_no_dlx_defined"),
    Case(
        "x-dead-letter-exchange=5",
        Queue.Declare(queue="{missing}", arguments={"x-dead-letter-exchange": 5}),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue "
        "'{missing}' in vhost '/'",
    ),
    invalid("x-queue-type", "heap", "\"unsupported queue type 'heap'\""),
]

EXCHANGE_CASES = [
    Case(
        "declare passive, missing",
        Exchange.Declare(exchange="{missing}", type="direct", passive=True),
        404,
        NO_EXCHANGE,
    ),
    Case(
        "declare the default exchange",
        Exchange.Declare(exchange="", type="direct", durable=True),
        403,
        DEFAULT,
    ),
    Case(
        "declare passive the default exchange",
        Exchange.Declare(exchange="", type="direct", passive=True),
        403,
        DEFAULT,
    ),
    Case(
        "declare a reserved name",
        Exchange.Declare(exchange="amq.mine", type="direct"),
        403,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    Case(
        "declare an unknown type",
        Exchange.Declare(exchange="{missing}", type="nope"),
        503,
        "COMMAND_INVALID - unknown exchange type 'nope'",
    ),
    Case(
        "declare an unknown type of a known exchange",
        Exchange.Declare(exchange="{direct}", type="x-nope"),
        503,
        "COMMAND_INVALID - unknown exchange type 'x-nope'",
    ),
    Case(
        "declare another type",
        Exchange.Declare(exchange="{direct}", type="fanout"),
        406,
        EXCHANGE_ARG % ("type", "{direct}", "received 'fanout' but current is 'direct'"),
    ),
    Case(
        "declare durable",
        Exchange.Declare(exchange="{direct}", type="direct", durable=True),
        406,
        EXCHANGE_ARG % ("durable", "{direct}", "received 'true' but current is 'false'"),
    ),
    Case(
        "declare auto-delete",
        Exchange.Declare(exchange="{direct}", type="direct", auto_delete=True),
        406,
        EXCHANGE_ARG % ("auto_delete", "{direct}", "received 'true' but current is 'false'"),
    ),
    Case(
        "declare internal",
        Exchange.Declare(exchange="{direct}", type="direct", internal=True),
        406,
        EXCHANGE_ARG % ("internal", "{direct}", "received 'true' but current is 'false'"),
    ),
    Case(
        "declare a predeclared one as transient",
        Exchange.Declare(exchange="amq.topic", type="topic"),
        406,
        EXCHANGE_ARG % ("durable", "amq.topic", "received 'false' but current is 'true'"),
    ),
    Case("delete the default exchange", Exchange.Delete(exchange=""), 403, DEFAULT),
    Case(
        "delete a predeclared exchange",
        Exchange.Delete(exchange="amq.direct"),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    ),
    Case(
        "delete if unused",
        Exchange.Delete(exchange="{bound}", if_unused=True),
        406,
        "PRECONDITION_FAILED - exchange '{bound}' in vhost '/' in use",
    ),
    Case(
        "bind from a missing exchange",
        Exchange.Bind(destination="{direct}", source="{missing}"),
        404,
        NO_EXCHANGE,
    ),
    Case(
        "bind a missing exchange to a missing exchange",
        Exchange.Bind(destination="no such", source="{missing}"),
        404,
        NO_EXCHANGE,
    ),
    Case(
        "alternate-exchange=5",
        Exchange.Declare(exchange="{missing}", type="direct", arguments={"alternate-exchange": 5}),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange '{missing}' "
        "in vhost '/'",
    ),
    Case(
        "alternate-exchange=None",
        Exchange.Declare(exchange="{missing}", type="fanout", arguments={"alternate-exchange": None}),
        406,
        "PRECONDITION_FAILED - invalid type 'void' for arg 'alternate-exchange' in exchange '{missing}' in vhost '/'",
    ),
    Case(
        "alternate-exchange=5 of a reserved name",
        Exchange.Declare(exchange="amq.mine", type="direct", arguments={"alternate-exchange": 5}),
        403,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    Case(
        "bind to a missing exchange",
        Exchange.Bind(destination="{missing}", source="{direct}"),
        404,
        NO_EXCHANGE,
    ),
    Case("bind from the default exchange", Exchange.Bind(destination="{direct}", source=""), 403, DEFAULT),
    Case("bind to the default exchange", Exchange.Bind(destination="", source="{direct}"), 403, DEFAULT),
    Case("unbind from the default exchange", Exchange.Unbind(destination="{direct}", source=""), 403, DEFAULT),
    Case(
        "bind to headers with a bad x-match",
        Queue.Bind(queue="{plain}", exchange="amq.headers", arguments={"x-match": "some"}),
        406,
        "PRECONDITION_FAILED - Invalid x-match field ",
        'value <<"some">>; expected all, any, all-with-x, or any-with-x',
    ),
    Case(
        "bind to headers with an x-match of another type",
        Queue.Bind(queue="{plain}", exchange="amq.headers", arguments={"x-match": 5}),
        406,
        "PRECONDITION_FAILED - Invalid x-match field ",
        "type signedint (value 5); expected longstr",
    ),
]

BASIC_CASES = [
    Case("get from a missing queue", Basic.Get(queue="{missing}"), 404, NO_QUEUE),
    Case("get, no name yet", Basic.Get(queue=""), 404, UNNAMED),
    Case("consume a missing queue", Basic.Consume(queue="{missing}"), 404, NO_QUEUE),
    Case("consume, no name yet", Basic.Consume(queue=""), 404, UNNAMED),
    Case(
        "consume exclusively what is consumed",
        Basic.Consume(queue="{used}", exclusive=True),
        403,
        IN_USE.replace("plain", "used"),
    ),
    Case(
        "consume what is consumed exclusively",
        [Basic.Consume(queue="{plain}", exclusive=True), Basic.Consume(queue="{plain}")],
        403,
        IN_USE,
    ),
    Case(
        "reuse a consumer tag",
        [Basic.Consume(queue="{plain}", consumer_tag="me"), Basic.Consume(queue="{used}", consumer_tag="me")],
        530,
        "NOT_ALLOWED - attempt to reuse consumer tag 'me'",
    ),
    Case("ack of nothing", Basic.Ack(3), 406, "PRECONDITION_FAILED - unknown delivery tag 3"),
    Case("ack of tag 0", Basic.Ack(0), 406, "PRECONDITION_FAILED - unknown delivery tag 0"),
    Case("nack of nothing", Basic.Nack(3, multiple=True), 406, "PRECONDITION_FAILED - unknown delivery tag 3"),
    Case("reject of nothing", Basic.Reject(3), 406, "PRECONDITION_FAILED - unknown delivery tag 3"),
    Case("prefetch size", Basic.Qos(prefetch_size=100), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (100)"),
    Case("recover without requeue", Basic.Recover(requeue=False), 540, "NOT_IMPLEMENTED - requeue=false"),
    Case(
        "publish to a missing exchange",
        Content(Basic.Publish(exchange="{missing}", routing_key="k"), Properties()),
        404,
        NO_EXCHANGE,
    ),
    Case(
        "publish to an internal exchange",
        Content(Basic.Publish(exchange="{internal}", routing_key="k"), Properties()),
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'",
    ),
    Case(
        "publish immediate",
        Content(Basic.Publish(exchange="", routing_key="{plain}", immediate=True), Properties()),
        540,
        "NOT_IMPLEMENTED - immediate=true",
    ),
    Case(
        "publish as somebody else",
        Content(Basic.Publish(exchange="", routing_key="{plain}"), Properties(user_id="bob")),
        406,
        "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'",
    ),
    Case(
        "publish with a wrong CC",
        Content(Basic.Publish(exchange="", routing_key="{plain}"), Properties(headers={"CC": "x"})),
        406,
        "PRECONDITION_FAILED - invalid message: ",
        '{unacceptable_type_in_header,"CC",longstr}',
    ),
    expiration("soon", "no_integer"),
    expiration("", "no_integer"),
    expiration("-1", "{value_negative,-1}"),
    expiration("315360000001", "{value_too_large,315360000001}"),
    expiration("1.5", '{leftover_string,".5"}'),
    expiration("10 ", '{leftover_string," "}'),
]

CHANNEL_CASES = [
    Case("open twice", Channel.Open(), 504, "CHANNEL_ERROR - second 'channel.open' seen"),
    Case("get-empty to the server", Basic.GetEmpty(), 503, "COMMAND_INVALID - unimplemented method"),
    Case("select-ok to the server", Confirm.SelectOk(), 503, "COMMAND_INVALID - unimplemented method"),
]
CONNECTION_CODES = {503, 504, 530, 540}


@pytest.fixture(scope="module")
def scene(session_broker: BrokerAddress, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Queues and exchanges for all cases of this module; none of them is changed by a refusal."""
    unique = uuid.uuid4().hex[:12]
    kinds = ("plain", "limited", "locked", "full", "used", "direct", "bound", "internal", "missing")
    scene = {kind: f"{kind}.{unique}" for kind in kinds}
    connection = open_connection(session_broker)
    channel = connection.channel()
    for kind in ("plain", "full", "used"):
        channel.queue_declare(scene[kind])
    channel.queue_declare(
        scene["limited"],
        arguments={"x-max-length": 5, "x-dead-letter-exchange": "dlx", "x-message-ttl": 60000},
    )
    channel.queue_declare(scene["locked"], exclusive=True)
    channel.basic_publish("", scene["full"], b"x")
    channel.basic_consume(scene["used"], lambda *_: None)
    for kind in ("direct", "bound"):
        channel.exchange_declare(scene[kind], "direct")
    channel.exchange_declare(scene["internal"], "direct", internal=True)
    channel.queue_bind(scene["plain"], scene["bound"], "key")
    yield scene
    for kind in ("plain", "limited", "full", "used"):
        channel.queue_delete(scene[kind])
    for kind in ("direct", "bound", "internal"):
        channel.exchange_delete(scene[kind])
    connection.close()


def named(method: Method, scene: dict[str, str]) -> Method:
    """The method with the scene's names in the place of the braces."""
    method = copy.copy(method)
    for field, value in vars(method).items():
        if isinstance(value, str):
            setattr(method, field, value.format_map(scene))
    return method


def send(client: RawClient, step: Method | Content, scene: dict[str, str]) -> Method:
    if isinstance(step, Content):
        method = named(step.method, scene)
        client.publish(1, method, step.body, step.properties)
    else:
        method = named(step, scene)
        client.send(1, method)
    return method


def provoke(client: RawClient, case: Case, scene: dict[str, str]) -> tuple[int, Method, Method]:
    """Sends all steps; returns the channel of the close, the close, and the method it answers."""
    client.handshake()
    client.open_channel(1)
    steps = case.send if isinstance(case.send, list) else [case.send]
    for step in steps[:-1]:
        send(client, step, scene)
        client.receive()
    last = send(client, steps[-1], scene)
    received = client.receive()
    assert received is not None
    return received.channel_number, received.method, last


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{group} {case.name}".replace(" ", "-"))
        for group, cases in (
            ("queue", QUEUE_CASES),
            ("exchange", EXCHANGE_CASES),
            ("basic", BASIC_CASES),
            ("channel", CHANNEL_CASES),
        )
        for case in cases
    ],
)
def test_refusal(broker: BrokerAddress, scene: dict[str, str], is_pabal: bool, case: Case) -> None:
    with RawClient(broker.host, broker.port) as client:
        channel, close, refused = provoke(client, case, scene)
        if case.code in CONNECTION_CODES:
            assert (channel, type(close)) == (0, Connection.Close)
        else:
            assert (channel, type(close)) == (1, Channel.Close)
        text = case.text.format_map(scene)
        if case.erlang and is_pabal:
            assert (close.reply_code, close.reply_text[: len(text)]) == (case.code, text)
        else:
            assert (close.reply_code, close.reply_text) == (case.code, text + case.erlang)
        assert close.class_id << 16 | close.method_id == refused.INDEX
        if isinstance(close, Channel.Close):
            # Only the channel is gone: the same number serves again.
            client.send(1, Channel.CloseOk())
            client.open_channel(1)
            client.send(1, Queue.Declare(queue=scene["full"], passive=True))
            assert client.expect(Queue.DeclareOk).message_count == 1
            client.close_connection()
        else:
            client.send(0, Connection.CloseOk())
            assert client.receive() is None
