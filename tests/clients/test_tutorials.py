"""What RabbitMQ's six tutorials teach, as programs that share no more than a name."""

from __future__ import annotations

import uuid

from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

from clients.pika_client import Connect, Inbox, Names, publish, wait_until


def test_hello_world(connect: Connect, names: Names) -> None:
    queue = names.queue("hello")
    sender = connect()
    sender.channel().queue_declare(queue=queue)
    sender.channel().basic_publish(exchange="", routing_key=queue, body="Hello World!")
    sender.close()

    receiver = connect()
    channel = receiver.channel()
    channel.queue_declare(queue=queue)
    received: list[bytes] = []

    def on_message(_channel: BlockingChannel, _method: Basic.Deliver, _properties: object, body: bytes) -> None:
        received.append(body)
        channel.stop_consuming()

    channel.basic_consume(queue=queue, on_message_callback=on_message, auto_ack=True)
    receiver.call_later(10, channel.stop_consuming)
    channel.start_consuming()
    assert received == [b"Hello World!"]
    receiver.close()


def test_work_queues(connect: Connect, names: Names) -> None:
    queue = names.queue("tasks")
    boss = connect().channel()
    boss.queue_declare(queue=queue, durable=True)
    for n in range(12):
        boss.basic_publish(
            exchange="", routing_key=queue, body=f"task {n}", properties=BasicProperties(delivery_mode=2)
        )

    done: dict[str, list[str]] = {"steady": [], "dying": []}
    steady, dying = connect(), connect()

    def work(name: str, channel: BlockingChannel) -> None:
        def on_task(_channel: object, method: Basic.Deliver, _properties: object, body: bytes) -> None:
            if name == "dying" and len(done[name]) == 3:
                # It takes a fourth task and dies before the acknowledgement.
                return
            done[name].append(body.decode())
            channel.basic_ack(delivery_tag=method.delivery_tag)

        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=queue, on_message_callback=on_task)

    work("dying", dying.channel())
    wait_until(dying, lambda: len(done["dying"]) == 3)
    dying.close()
    work("steady", steady.channel())
    wait_until(steady, lambda: len(done["steady"]) == 9)
    assert done["dying"] == ["task 0", "task 1", "task 2"]
    assert done["steady"] == [f"task {n}" for n in range(3, 12)]


def test_publish_subscribe(connect: Connect, names: Names) -> None:
    exchange = names.exchange("logs")
    emitter = connect().channel()
    emitter.exchange_declare(exchange=exchange, exchange_type="fanout")
    emitter.basic_publish(exchange=exchange, routing_key="", body="nobody hears this")
    listeners = [connect() for _ in range(3)]
    inboxes = []
    for listener in listeners:
        channel = listener.channel()
        channel.exchange_declare(exchange=exchange, exchange_type="fanout")
        queue = channel.queue_declare(queue="", exclusive=True).method.queue
        channel.queue_bind(exchange=exchange, queue=queue)
        inboxes.append(Inbox(channel, queue, auto_ack=True))
    for n in range(5):
        emitter.basic_publish(exchange=exchange, routing_key="", body=f"log {n}")
    for inbox in inboxes:
        inbox.wait(5)
        assert inbox.bodies == [b"log %d" % n for n in range(5)]


def subscribe(channel: BlockingChannel, exchange: str, kind: str, keys: list[str]) -> Inbox:
    channel.exchange_declare(exchange=exchange, exchange_type=kind)
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(exchange=exchange, queue=queue, routing_key=key)
    return Inbox(channel, queue, auto_ack=True)


def test_routing(connect: Connect, names: Names) -> None:
    exchange = names.exchange("direct_logs")
    errors = subscribe(connect().channel(), exchange, "direct", ["error"])
    everything = subscribe(connect().channel(), exchange, "direct", ["info", "warning", "error"])
    emitter = connect().channel()
    for severity in ("info", "error", "debug", "warning", "error"):
        emitter.basic_publish(exchange=exchange, routing_key=severity, body=severity)
    errors.wait(2)
    everything.wait(4)
    assert errors.bodies == [b"error", b"error"]
    assert everything.bodies == [b"info", b"error", b"warning", b"error"]


def test_topics(connect: Connect, names: Names) -> None:
    exchange = names.exchange("topic_logs")
    patterns = {
        "all": ["#"],
        "kernel": ["kern.*"],
        "critical": ["*.critical"],
        "both": ["kern.*", "*.critical"],
    }
    inboxes = {name: subscribe(connect().channel(), exchange, "topic", keys) for name, keys in patterns.items()}
    emitter = connect().channel()
    keys = ["kern.critical", "kern.info", "cron.critical", "cron.info", "kern", "kern.critical.disk"]
    for key in keys:
        emitter.basic_publish(exchange=exchange, routing_key=key, body=key)
    expected = {
        "all": keys,
        "kernel": ["kern.critical", "kern.info"],
        "critical": ["kern.critical", "cron.critical"],
        "both": ["kern.critical", "kern.info", "cron.critical"],
    }
    for name, inbox in inboxes.items():
        inbox.wait(len(expected[name]))
        assert [body.decode() for body in inbox.bodies] == expected[name]


def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def test_remote_procedure_call(connect: Connect, names: Names) -> None:
    queue = names.queue("rpc")
    server = connect()
    server_channel = server.channel()
    server_channel.queue_declare(queue=queue)

    def answer(_channel: object, method: Basic.Deliver, asked: BasicProperties, body: bytes) -> None:
        server_channel.basic_publish(
            exchange="",
            routing_key=asked.reply_to,
            body=str(fibonacci(int(body))),
            properties=BasicProperties(correlation_id=asked.correlation_id),
        )
        server_channel.basic_ack(delivery_tag=method.delivery_tag)

    server_channel.basic_qos(prefetch_count=1)
    server_channel.basic_consume(queue=queue, on_message_callback=answer)

    client = connect()
    client_channel = client.channel()
    reply_queue = client_channel.queue_declare(queue="", exclusive=True).method.queue
    replies = Inbox(client_channel, reply_queue, auto_ack=True)
    asked: dict[str, int] = {}
    for n in (0, 1, 10, 15):
        correlation = str(uuid.uuid4())
        asked[correlation] = n
        publish(client_channel, queue, str(n), reply_to=reply_queue, correlation_id=correlation)
    wait_until([server, client], lambda: len(replies.received) == 4)
    answers = {asked[reply.properties.correlation_id]: int(reply.body) for reply in replies.received}
    assert answers == {0: 0, 1: 1, 10: 55, 15: 610}
