"""aio-pika: confirms, iterators, patterns, errors, and robust connections over a killed broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import (
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
)
from aio_pika.patterns import RPC, Master

from broker_process import BrokerAddress, BrokerProcess
from clients.pika_client import Names

WAIT_SECONDS_MAX = 15.0


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Runs a coroutine to its end, within WAIT_SECONDS_MAX."""

    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await work()

    asyncio.run(bounded())


@asynccontextmanager
async def open_channel(broker: BrokerAddress) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(broker.url)
    async with connection:
        yield await connection.channel(on_return_raises=True)


async def ready_count(channel: AbstractChannel, queue: str) -> int:
    declared = await channel.declare_queue(queue, passive=True)
    return int(declared.declaration_result.message_count or 0)


def test_publish_and_iterate(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with open_channel(broker) as channel:
            queue = await channel.declare_queue(names.queue(), durable=True)
            exchange = await channel.declare_exchange(names.exchange(), aio_pika.ExchangeType.TOPIC)
            await queue.bind(exchange, "order.*")
            for n in range(10):
                message = aio_pika.Message(
                    b"%d" % n,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    headers={"n": n, "list": [1, None, "x"]},
                    message_id=f"m{n}",
                    content_type="text/plain",
                )
                confirmed = await exchange.publish(message, f"order.{n}")
                assert confirmed is not None
            assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 10
            seen = []
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        seen.append((message.body, message.routing_key, message.headers["n"]))
                        assert message.headers["list"] == [1, None, "x"]
                        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
                    if len(seen) == 10:
                        break
            assert seen == [(b"%d" % n, f"order.{n}", n) for n in range(10)]
            assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 0

    run(work)


def test_many_publications_at_once(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with open_channel(broker) as channel:
            queue = await channel.declare_queue(names.queue(), durable=True)
            publish = channel.default_exchange.publish
            await asyncio.gather(*(publish(aio_pika.Message(b"%d" % n), queue.name) for n in range(500)))
            bodies = {int((await queue.get(no_ack=True)).body) for _ in range(500)}
            assert bodies == set(range(500))
            assert await queue.get(fail=False) is None

    run(work)


def test_unroutable_and_refused(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with open_channel(broker) as channel:
            with pytest.raises(DeliveryError):
                await channel.default_exchange.publish(aio_pika.Message(b"x"), "nobody." + names.queue())
            full = await channel.declare_queue(
                names.queue(), arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
            )
            await channel.default_exchange.publish(aio_pika.Message(b"1"), full.name)
            with pytest.raises(DeliveryError):
                await channel.default_exchange.publish(aio_pika.Message(b"2"), full.name)

    run(work)


def test_failing_work_comes_back_or_dies(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with open_channel(broker) as channel:
            dead = await channel.declare_queue(names.queue("dead"))
            arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
            queue = await channel.declare_queue(names.queue(), arguments=arguments)
            await channel.default_exchange.publish(aio_pika.Message(b"poison"), queue.name)
            with pytest.raises(ValueError, match="first"):
                async with (await queue.get()).process(requeue=True):
                    raise ValueError("first")
            again = await queue.get()
            assert again.redelivered is True
            with pytest.raises(ValueError, match="second"):
                async with again.process(requeue=True, reject_on_redelivered=True):
                    raise ValueError("second")
            letter = await next_message(dead)
            assert (letter.body, letter.headers["x-first-death-reason"]) == (b"poison", "rejected")

    run(work)


async def next_message(queue: aio_pika.abc.AbstractQueue) -> AbstractIncomingMessage:
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            return message
    raise AssertionError("the iterator ended")


def test_prefetch(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with open_channel(broker) as channel:
            await channel.set_qos(prefetch_count=2)
            queue = await channel.declare_queue(names.queue())
            for n in range(6):
                await channel.default_exchange.publish(aio_pika.Message(b"%d" % n), queue.name)
            arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
            await queue.consume(arrived.put)
            first, second = await arrived.get(), await arrived.get()
            assert await ready_count(channel, queue.name) == 4
            assert arrived.qsize() == 0
            await first.ack()
            third = await arrived.get()
            assert [m.body for m in (first, second, third)] == [b"0", b"1", b"2"]

    run(work)


def test_errors_close_the_channel_only(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        connection = await aio_pika.connect(broker.url)
        async with connection:
            channel = await connection.channel()
            missing = names.queue()
            with pytest.raises(ChannelNotFoundEntity) as caught:
                await channel.declare_queue(missing, passive=True)
            assert f"NOT_FOUND - no queue '{missing}' in vhost '/'" in str(caught.value)
            with pytest.raises((ChannelInvalidStateError, ChannelClosed)):
                await channel.declare_queue(missing)
            channel = await connection.channel()
            await channel.declare_queue(missing)
            with pytest.raises(ChannelPreconditionFailed):
                await channel.declare_queue(missing, durable=True)
            assert not connection.is_closed

    run(work)


def test_wrong_password(broker: BrokerAddress) -> None:
    async def work() -> None:
        with pytest.raises(ProbableAuthenticationError) as caught:
            await aio_pika.connect(broker.url_for("guest", "wrong", "%2F"))
        assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in str(caught.value)

    run(work)


def test_rpc_pattern(broker: BrokerAddress, names: Names) -> None:
    async def multiply(*, x: int, y: int) -> int:
        return x * y

    async def fail() -> None:
        raise ValueError("no")

    async def work() -> None:
        async with open_channel(broker) as serving, open_channel(broker) as asking:
            product, failing = names.queue("multiply"), names.queue("fail")
            server = await RPC.create(serving, host_exceptions=False)
            await server.register(product, multiply, auto_delete=True)
            await server.register(failing, fail, auto_delete=True)
            client = await RPC.create(asking)
            results = await asyncio.gather(*(client.call(product, {"x": n, "y": 3}) for n in range(20)))
            assert results == [n * 3 for n in range(20)]
            with pytest.raises(ValueError, match="no"):
                await client.call(failing)
            # A call nobody takes in time comes back by the dead-letter exchange, of type headers.
            slow = names.queue("slow")
            await serving.declare_queue(slow, arguments={"x-dead-letter-exchange": "rpc.dlx"})
            with pytest.raises(asyncio.TimeoutError):
                await client.call(slow, expiration=timedelta(milliseconds=50))
            await client.close()
            await server.close()

    run(work)


def test_master_and_workers(broker: BrokerAddress, names: Names) -> None:
    async def work() -> None:
        async with (
            open_channel(broker) as bossing,
            open_channel(broker) as first,
            open_channel(broker) as second,
        ):
            task = names.queue("task")
            done: list[tuple[str, int]] = []
            for name, channel in (("first", first), ("second", second)):
                await channel.set_qos(prefetch_count=1)

                async def take(*, n: int, name: str = name) -> None:
                    done.append((name, n))

                await Master(channel).create_worker(task, take, auto_delete=True)
            master = Master(bossing)
            for n in range(20):
                await master.create_task(task, {"n": n})
            while len(done) < 20:
                await asyncio.sleep(0.005)
            assert sorted(n for _, n in done) == list(range(20))
            assert {name for name, _ in done} == {"first", "second"}

    run(work)


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "SIGTERM"])
def test_robust_connection_over_a_restart(start_broker: Callable[..., BrokerProcess], kill: bool) -> None:
    """The same connection, channel, queue, binding and consumer go on after the broker is back."""
    broker = start_broker()

    async def work() -> None:
        connection = await aio_pika.connect_robust(broker.url, reconnect_interval=0.05)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            exchange = await channel.declare_exchange("events", aio_pika.ExchangeType.FANOUT)
            queue = await channel.declare_queue("q", durable=True)
            await queue.bind(exchange)
            arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
            await queue.consume(arrived.put)
            persistent = aio_pika.DeliveryMode.PERSISTENT
            await exchange.publish(aio_pika.Message(b"before", delivery_mode=persistent), "")
            taken = await arrived.get()
            assert (taken.body, taken.redelivered) == (b"before", False)

            reconnected = asyncio.Event()
            connection.reconnect_callbacks.add(lambda *_: reconnected.set())
            # Not acknowledged, and the broker goes away.
            await asyncio.to_thread(broker.restart, kill)
            await reconnected.wait()
            again = await arrived.get()
            assert (again.body, again.redelivered) == (b"before", True)
            await again.ack()
            # The transient exchange was declared and bound anew.
            await exchange.publish(aio_pika.Message(b"after", delivery_mode=persistent), "")
            after = await arrived.get()
            assert (after.body, after.redelivered) == (b"after", False)
            await after.ack()

    run(work)
